//! From defaults, a file and the environment to settings; says where a bad value came from.
