//! A load over HTTP that is measured as a client sees it.
