//! Connections towards apps and towards other sidecars.
//!
//! One [`pool::Pool`] per worker; nothing here is shared between workers. What is dialled comes
//! from `outbound/discover` (mesh) or the proxy's configuration (the app), never from a request.

pub mod balance;
pub mod breaker;
pub mod budget;
pub mod connect;
pub mod dial;
pub mod endpoints;
pub mod mesh;
pub mod opening;
pub mod pool;
pub mod retry;
mod rounds;
pub mod target;
pub mod transport;
pub mod upload;
pub mod watched;
