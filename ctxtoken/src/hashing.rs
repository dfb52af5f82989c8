//! SHA-256 of a token, in one pass. Two hashes of it are needed: that of its signed part, which is
//! what ES256 signs, and that of the whole, which names the token in hop records and logs. They
//! differ in the last bytes only; and all tokens of one key begin with the same header, by far the
//! longest part where a certificate chain stands in it, so that its share is computed once.

use std::fmt;

use aws_lc_rs::digest::{Context, Digest, SHA256};

/// What was computed of a header and the dot behind it.
#[derive(Clone)]
pub(crate) struct HashedHeader(Context);

impl HashedHeader {
    /// Of an encoded header, without its dot.
    pub(crate) fn of(header: &[u8]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(header);
        context.update(b".");
        Self(context)
    }

    /// Goes on with an encoded payload.
    pub(crate) fn with_payload(&self, payload: &[u8]) -> HashedPart {
        let mut context = self.0.clone();
        context.update(payload);
        HashedPart(context)
    }
}

/// What was computed of all that is signed.
pub(crate) struct HashedPart(Context);

impl HashedPart {
    /// The hash of what is signed.
    pub(crate) fn signed(&self) -> Digest {
        self.0.clone().finish()
    }

    /// The hash of the token, by its encoded signature.
    pub(crate) fn token(mut self, signature: &[u8]) -> [u8; 32] {
        self.0.update(b".");
        self.0.update(signature);
        let mut hash = [0; 32];
        hash.copy_from_slice(self.0.finish().as_ref());
        hash
    }
}

/// What a key is to sign, for keys that sign bytes and for keys that sign their hash.
pub struct Message<'a> {
    bytes: &'a [u8],
    hashed: &'a HashedPart,
}

impl<'a> Message<'a> {
    pub(crate) fn new(bytes: &'a [u8], hashed: &'a HashedPart) -> Self {
        Self { bytes, hashed }
    }

    /// The message itself.
    pub fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Its SHA-256, which costs next to nothing.
    pub fn sha256(&self) -> Digest {
        self.hashed.signed()
    }
}

impl fmt::Debug for Message<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Message({} bytes)", self.bytes.len())
    }
}
