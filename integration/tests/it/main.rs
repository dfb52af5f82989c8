//! End-to-end tests: the built programs as processes, real sockets, real certificates.
//!
//! One binary; a module per feature, `attacks` for what attackers do. `attack_*` names are those
//! of the threat model. The programs must have been built: `make test SUITE=foundation`.

mod attacks;
mod context;
mod demo;
mod foundation;
mod gateway;
mod grpc;
mod identity;
mod inbound;
mod interception;
mod interop;
mod outbound;
mod policy_reload;
mod refusals;
mod rotation;
mod shutdown;
