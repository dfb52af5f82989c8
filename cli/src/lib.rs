//! The parts of the command line tool that tests start in process: `dev::authority` and its
//! neighbours, and what every command shares (`output`).
//!
//! Nothing here runs inside the proxy. Commands that only people call live beside `main.rs`.
#![forbid(unsafe_code)]

pub mod dev;
pub mod output;
