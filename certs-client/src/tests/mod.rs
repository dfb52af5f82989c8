//! Tests of the crate, one file per part; `authority` is a CA that can be told to do wrong.

mod attacks;
mod authority;
mod bundle;
mod bundle_doc;
mod corpus;
mod crl;
mod csr;
mod federation;
mod files;
mod files_watch;
mod gate;
mod https;
mod jwt_bundle;
mod key;
mod kubernetes;
mod machine;
mod publish;
mod renewal;
mod svid;
mod workload_api;
