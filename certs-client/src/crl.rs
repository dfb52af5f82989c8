//! Certificate revocation lists: which serial numbers of which authority no longer count.
//!
//! A source hands over what it got; whether a list is believed is decided here.

/// A revocation list as it was delivered: DER, not believed yet.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Crl(Vec<u8>);

impl Crl {
    /// One list, DER.
    pub fn from_der(der: impl Into<Vec<u8>>) -> Crl {
        Crl(der.into())
    }

    /// The bytes.
    pub fn der(&self) -> &[u8] {
        &self.0
    }
}
