//! The context token: its path, its way through applications, where its facts come from, who makes it.

mod async_work;
mod binding;
mod carry;
mod crossing;
mod custody;
mod edge;
mod facts;
mod frameworks;
mod interop;
mod issuers;
mod proofs;
mod readers;
mod service;
mod soak;
mod theft;
mod two_fields;
mod users;
