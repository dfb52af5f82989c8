//! The name of a trust domain. Names that look like an IPv4 address or a DNS name get no special
//! meaning: they are compared by bytes like every other.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use crate::{IdError, id::SCHEME};

/// Longest trust domain name, in bytes.
pub const TRUST_DOMAIN_BYTES_MAX: usize = 255;

/// The name of a trust domain, such as `prod.example.com`.
///
/// ```
/// use countersign_workload_id::{IdError, TrustDomain};
///
/// let prod = TrustDomain::parse("prod.example.com")?;
/// assert_eq!(prod, TrustDomain::parse_id("spiffe://prod.example.com")?);
/// assert_eq!(TrustDomain::parse("Prod.example.com"), Err(IdError::BadTrustDomainCharacter));
/// # Ok::<(), IdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Takes a bare name, without scheme and path.
    pub fn parse(name: &str) -> Result<Self, IdError> {
        check(name)?;
        Ok(Self(Arc::from(name)))
    }

    /// Takes the SPIFFE ID of a trust domain: `spiffe://prod.example.com`, nothing after it.
    pub fn parse_id(id: &str) -> Result<Self, IdError> {
        let name = id.strip_prefix(SCHEME).ok_or(IdError::WrongScheme)?;
        if name.contains('/') {
            return Err(IdError::PathNotAllowed);
        }
        Self::parse(name)
    }

    /// The bare name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE ID of the trust domain itself: `spiffe://prod.example.com`.
    pub fn id(&self) -> String {
        format!("{SCHEME}{}", self.0)
    }
}

/// Checks a trust domain name without making a value of it.
pub(crate) fn check(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::EmptyTrustDomain);
    }
    if name.len() > TRUST_DOMAIN_BYTES_MAX {
        return Err(IdError::TooLong { limit: TRUST_DOMAIN_BYTES_MAX });
    }
    if name.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'-')) {
        Ok(())
    } else {
        Err(IdError::BadTrustDomainCharacter)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(name: &str) -> Result<Self, IdError> {
        Self::parse(name)
    }
}

impl AsRef<str> for TrustDomain {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for TrustDomain {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}
