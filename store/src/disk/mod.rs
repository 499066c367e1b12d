//! The disk of a node: segments.
