//! Identity: certificates from every real authority, renewed, withdrawn and revoked while requests
//! run; both ends proven.

mod callers;
mod cert;
mod faulty;
mod federation;
mod files;
mod interop;
mod keys;
mod kubernetes;
mod renewal;
mod revocation;
mod roots;
mod spire;
mod vault;
