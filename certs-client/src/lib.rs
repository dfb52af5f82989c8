//! Identities, keys and trust bundles of this process: where they come from and who may use them.
//!
//! A source ([`source`]) fetches; the gate ([`gate`]) validates what it delivered, whole or not at
//! all; the result is published as a snapshot ([`identity::Certs`]) that everybody else reads.
//! [`svid::validate`] is the one X509-SVID validation of the product: for peers in both directions,
//! for signers of tokens, and for what a source hands to us.
//!
//! Invariants: no pooled root store exists, anchors belong to one trust domain; a private key can
//! be used, never printed; a failing source keeps the last good identity until it expires, a
//! withdrawn one is gone at once.
#![forbid(unsafe_code)]

pub mod api_server;
pub mod bundle;
pub mod bundle_doc;
mod bundle_map;
mod client_names;
mod credential;
pub mod crl;
pub mod csr;
pub mod federation;
pub mod gate;
pub mod https;
pub mod identity;
pub mod jwt_bundle;
pub mod key;
pub mod location;
mod pem;
pub mod renewal;
pub mod source;
pub mod status;
pub mod svid;

#[cfg(test)]
mod tests;

pub use bundle::{Bundle, BundleError, TrustBundles};
pub use bundle_doc::BundleDoc;
pub use client_names::{ClientNames, client_names};
pub use crl::{Crl, Crls};
pub use gate::{Delivered, GateError};
pub use identity::{Certs, Identity};
pub use jwt_bundle::{JwksForm, JwtBundle, JwtBundleError, JwtBundles};
pub use key::{ExternalKey, KeyError, KeyFailure, KeyMaker, KeyType, SigningKey};
pub use source::{CertSource, CertsHandle, Clock};
pub use status::{Failure, NextTry, State, Status};
pub use svid::{Svid, SvidError, Usage};
