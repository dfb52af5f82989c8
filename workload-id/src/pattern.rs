//! Patterns over workload IDs, for policies and allow-lists.
//! A pattern always names its trust domain and matches at segment boundaries only, so
//! `…/service/pay` never covers `…/service/payroll` and no pattern crosses a domain.

use std::{fmt, str::FromStr};

use crate::{
    ID_BYTES_MAX, IdError, TrustDomain, WorkloadId,
    id::{check_segment, split},
};

/// A set of workload IDs: literal segments, `*` for one segment, `**` for the rest.
///
/// `**` stands at the end only and covers one segment or more.
///
/// ```
/// use countersign_workload_id::{IdError, IdPattern, WorkloadId};
///
/// let any_account = IdPattern::parse("spiffe://prod.example.com/ns/shop/sa/*")?;
/// assert!(any_account.matches(&"spiffe://prod.example.com/ns/shop/sa/orders".parse()?));
/// assert!(!any_account.matches(&"spiffe://prod.example.com/ns/shop/sa/orders/eu".parse()?));
/// assert!(!any_account.matches(&"spiffe://test.example.com/ns/shop/sa/orders".parse()?));
/// assert_eq!(IdPattern::parse("spiffe://*/ns/shop/sa/orders"), Err(IdError::WildcardInSegment));
/// # Ok::<(), IdError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct IdPattern {
    text: Box<str>,
    trust_domain: TrustDomain,
    segments: Box<[Segment]>,
    rest: Rest,
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Segment {
    Literal(Box<str>),
    AnyOne,
}

/// What may follow the written segments.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Rest {
    Nothing,
    OneOrMore,
}

impl IdPattern {
    /// Takes `spiffe://<trust domain>/<segments>`; the trust domain is always literal.
    pub fn parse(pattern: &str) -> Result<Self, IdError> {
        if pattern.len() > ID_BYTES_MAX {
            return Err(IdError::TooLong { limit: ID_BYTES_MAX });
        }
        let (name, path) = split(pattern)?;
        if name.contains('*') {
            return Err(IdError::WildcardInSegment);
        }
        let trust_domain = TrustDomain::parse(name)?;
        let path = path.ok_or(IdError::NoPath)?;
        if path.is_empty() || path.ends_with('/') {
            return Err(IdError::TrailingSlash);
        }
        let (path, rest) = split_rest(path);
        let segments = path.map_or(Ok(Vec::new()), |p| p.split('/').map(segment).collect())?;
        Ok(Self { text: Box::from(pattern), trust_domain, segments: segments.into(), rest })
    }

    /// Whether `id` is one of the IDs this pattern stands for.
    pub fn matches(&self, id: &WorkloadId) -> bool {
        if *id.trust_domain() != self.trust_domain {
            return false;
        }
        let mut path = id.short().split('/');
        for wanted in &self.segments {
            match (wanted, path.next()) {
                (Segment::AnyOne, Some(_)) => {}
                (Segment::Literal(text), Some(got)) if **text == *got => {}
                _ => return false,
            }
        }
        match self.rest {
            Rest::Nothing => path.next().is_none(),
            Rest::OneOrMore => path.next().is_some(),
        }
    }

    /// The pattern as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain whose IDs this pattern covers.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Whether the pattern covers exactly one ID, that is, has no wildcard.
    pub fn is_exact(&self) -> bool {
        self.rest == Rest::Nothing && !self.segments.contains(&Segment::AnyOne)
    }
}

/// Takes a final `**` off; `None` as path means that nothing stood before it.
fn split_rest(path: &str) -> (Option<&str>, Rest) {
    if path == "**" {
        return (None, Rest::OneOrMore);
    }
    match path.strip_suffix("/**") {
        Some(before) => (Some(before), Rest::OneOrMore),
        None => (Some(path), Rest::Nothing),
    }
}

fn segment(text: &str) -> Result<Segment, IdError> {
    match text {
        "*" => Ok(Segment::AnyOne),
        "**" => Err(IdError::RestNotLast),
        _ if text.contains('*') => Err(IdError::WildcardInSegment),
        _ => check_segment(text).map(|()| Segment::Literal(Box::from(text))),
    }
}

impl FromStr for IdPattern {
    type Err = IdError;

    fn from_str(pattern: &str) -> Result<Self, IdError> {
        Self::parse(pattern)
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "IdPattern({})", self.text)
    }
}
