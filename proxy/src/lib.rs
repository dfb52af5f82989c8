//! The data path: accepts, authenticates, decides, audits and forwards.
//!
//! Three directions, one file per stage: [`gateway`] (from outside into the mesh), [`outbound`]
//! (from the app to other workloads), [`inbound`] (from other workloads to the app). A request's
//! life is the `serve` function of its direction. [`app`] builds everything, [`live`] is the
//! snapshot a request is judged by, [`refusal`] the table of every way to say no.
#![forbid(unsafe_code)]

pub mod admin;
pub mod app;
pub mod audit;
pub mod clock;
pub mod context_index;
pub mod control;
pub mod failures;
pub mod federation;
pub mod gateway;
pub mod http;
mod identity;
pub mod inbound;
pub mod intercept;
pub mod issuer;
pub mod issuers;
pub mod journal;
pub mod judged;
pub mod lifecycle;
pub mod live;
pub mod local;
pub mod machine;
pub mod outbound;
pub mod random;
pub mod refusal;
pub mod registry;
pub mod relay;
pub mod reload;
pub mod signers;
pub mod telemetry;
pub mod tls;
pub mod tokens;
pub mod trust;
pub mod upstream;
pub mod worker;
