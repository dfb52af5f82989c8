//! The data path: accepts, authenticates, decides, audits and forwards.
//!
//! Three directions, one file per stage: [`gateway`], [`outbound`], [`inbound`].

pub mod admin;
pub mod audit;
pub mod clock;
pub mod gateway;
pub mod http;
pub mod refusal;
pub mod telemetry;
