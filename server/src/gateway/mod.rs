//! The front door: HTTP in, one engine chosen, its answer out byte for byte.
