//! `warmline bench`: what the house claims, measured.

pub mod gateway;
pub mod route;
