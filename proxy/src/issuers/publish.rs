//! What an issuer publishes: its key set for our verifiers, and a plain view for others.
//!
//! Invariant: both are whole texts made on the control thread; who asks for them gets what was last
//! published and changes nothing.

use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

/// The set that verifiers of this mesh fetch.
pub const ISSUERS_PATH: &str = "/.well-known/countersign-issuers.json";
/// The same keys for everybody else.
pub const JWKS_PATH: &str = "/.well-known/jwks.json";

/// The texts in force. Cheap to clone; shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct Published(Arc<ArcSwap<Texts>>);

/// One state of what is published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Texts {
    /// At [`ISSUERS_PATH`].
    pub issuers: Bytes,
    /// At [`JWKS_PATH`].
    pub jwks: Bytes,
}

impl Default for Texts {
    fn default() -> Texts {
        let none = Bytes::from_static(br#"{"keys":[]}"#);
        Texts { issuers: none.clone(), jwks: none }
    }
}

impl Published {
    /// What is published at a path, if anything ever is.
    pub fn at(&self, path: &str) -> Option<Bytes> {
        let texts = self.0.load();
        match path {
            ISSUERS_PATH => Some(texts.issuers.clone()),
            JWKS_PATH => Some(texts.jwks.clone()),
            _ => None,
        }
    }

    /// Publishes a state, unless it is the one in force.
    pub(super) fn put_if_changed(&self, texts: &Texts) {
        if **self.0.load() != *texts {
            self.0.store(Arc::new(texts.clone()));
        }
    }
}
