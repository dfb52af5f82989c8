//! The ID of one workload: scheme, trust domain and a path that is not empty.
//! Stricter than the SPIFFE text in one place: scheme and trust domain must be written in their
//! canonical lower case, because only then can IDs be compared by bytes everywhere.

use std::{
    borrow::Borrow,
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    str::FromStr,
    sync::Arc,
};

use crate::{IdError, TrustDomain, trust_domain};

/// Longest ID, in bytes. SPIFFE asks for support of exactly this many.
pub const ID_BYTES_MAX: usize = 2048;

/// How every ID begins.
pub(crate) const SCHEME: &str = "spiffe://";

/// The SPIFFE ID of a workload. Cheap to clone.
///
/// ```
/// use countersign_workload_id::{IdError, WorkloadId};
///
/// let id: WorkloadId = "spiffe://prod.example.com/ns/shop/sa/orders".parse()?;
/// assert_eq!(id.short(), "ns/shop/sa/orders");
/// assert_eq!(WorkloadId::parse("spiffe://prod.example.com/a/../b"), Err(IdError::DotSegment));
/// assert_eq!(WorkloadId::parse("spiffe://prod.example.com"), Err(IdError::NoPath));
/// # Ok::<(), IdError>(())
/// ```
#[derive(Clone)]
pub struct WorkloadId(Arc<Parts>);

struct Parts {
    text: Box<str>,
    trust_domain: TrustDomain,
}

impl WorkloadId {
    /// Takes an ID in canonical form; anything else is refused, never repaired.
    pub fn parse(id: &str) -> Result<Self, IdError> {
        let (name, _) = split(id)?;
        trust_domain::check(name)?;
        Self::checked(id, || TrustDomain::parse(name))
    }

    /// As [`parse`](Self::parse), but shares `known` where the ID belongs to it, which saves an
    /// allocation for the many IDs of one's own trust domain.
    pub fn parse_near(id: &str, known: &TrustDomain) -> Result<Self, IdError> {
        let (name, _) = split(id)?;
        if name == known.as_str() {
            return Self::checked(id, || Ok(known.clone()));
        }
        Self::parse(id)
    }

    /// The default layout, `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
    ///
    /// ```
    /// use countersign_workload_id::{IdError, TrustDomain, WorkloadId};
    ///
    /// let prod = TrustDomain::parse("prod.example.com")?;
    /// let id = WorkloadId::new(&prod, "shop", "orders")?;
    /// assert_eq!(id.as_str(), "spiffe://prod.example.com/ns/shop/sa/orders");
    /// assert!(WorkloadId::new(&prod, "shop/sa/admin", "x").is_err());
    /// # Ok::<(), IdError>(())
    /// ```
    pub fn new(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, IdError> {
        check_segment(namespace)?;
        check_segment(service_account)?;
        let id = format!("{SCHEME}{trust_domain}/ns/{namespace}/sa/{service_account}");
        Self::checked(&id, || Ok(trust_domain.clone()))
    }

    fn checked(
        id: &str,
        trust_domain: impl FnOnce() -> Result<TrustDomain, IdError>,
    ) -> Result<Self, IdError> {
        if id.len() > ID_BYTES_MAX {
            return Err(IdError::TooLong { limit: ID_BYTES_MAX });
        }
        let (_, path) = split(id)?;
        let path = path.ok_or(IdError::NoPath)?;
        check_path(path)?;
        Ok(Self(Arc::new(Parts { text: Box::from(id), trust_domain: trust_domain()? })))
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    /// The trust domain that vouches for this ID.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.0.trust_domain
    }

    /// The namespace, if the path is exactly `/ns/<namespace>/sa/<service account>`.
    pub fn namespace(&self) -> Option<&str> {
        self.layout().map(|(namespace, _)| namespace)
    }

    /// The service account, if the path is exactly `/ns/<namespace>/sa/<service account>`.
    pub fn service_account(&self) -> Option<&str> {
        self.layout().map(|(_, service_account)| service_account)
    }

    /// The path without its first slash, for people who know which trust domain is meant.
    /// Never a basis for a decision: the same path exists in every trust domain.
    pub fn short(&self) -> &str {
        let skip = SCHEME.len() + self.0.trust_domain.as_str().len() + 1;
        self.0.text.get(skip..).unwrap_or_default()
    }

    fn layout(&self) -> Option<(&str, &str)> {
        let mut segments = self.short().split('/');
        match (segments.next(), segments.next(), segments.next(), segments.next(), segments.next())
        {
            (Some("ns"), Some(namespace), Some("sa"), Some(account), None) => {
                Some((namespace, account))
            }
            _ => None,
        }
    }
}

/// Splits an ID into the trust domain name and the path after its first slash, if any.
pub(crate) fn split(id: &str) -> Result<(&str, Option<&str>), IdError> {
    let rest = id.strip_prefix(SCHEME).ok_or(IdError::WrongScheme)?;
    Ok(match rest.split_once('/') {
        Some((name, path)) => (name, Some(path)),
        None => (rest, None),
    })
}

fn check_path(path: &str) -> Result<(), IdError> {
    if path.is_empty() || path.ends_with('/') {
        return Err(IdError::TrailingSlash);
    }
    path.split('/').try_for_each(check_segment)
}

/// One path segment as SPIFFE allows it.
pub(crate) fn check_segment(segment: &str) -> Result<(), IdError> {
    match segment {
        "" => Err(IdError::EmptySegment),
        "." | ".." => Err(IdError::DotSegment),
        _ if segment
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-')) =>
        {
            Ok(())
        }
        _ => Err(IdError::BadPathCharacter),
    }
}

impl FromStr for WorkloadId {
    type Err = IdError;

    fn from_str(id: &str) -> Result<Self, IdError> {
        Self::parse(id)
    }
}

impl PartialEq for WorkloadId {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for WorkloadId {}

// Equal to the hash of the text, as `Borrow<str>` demands.
impl Hash for WorkloadId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl PartialOrd for WorkloadId {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for WorkloadId {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Borrow<str> for WorkloadId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

impl AsRef<str> for WorkloadId {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WorkloadId({})", self.as_str())
    }
}
