//! `warmline bench`: what the house claims, measured.

pub mod route;
