//! Why a text is not a SPIFFE ID, a trust domain name or a pattern.
//! The texts name the rule and never repeat the input: it may come from a peer, and whoever
//! prints the error knows what was parsed.

/// Why a text was refused as a [`WorkloadId`](crate::WorkloadId),
/// [`TrustDomain`](crate::TrustDomain) or [`IdPattern`](crate::IdPattern).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IdError {
    /// A path segment or the whole path holds a byte outside `[a-zA-Z0-9._-]`.
    #[error(
        "a path segment holds a character outside `a-z A-Z 0-9 . _ -` (nothing is percent-decoded)"
    )]
    BadPathCharacter,
    /// The trust domain holds a byte outside `[a-z0-9._-]`.
    #[error(
        "the trust domain holds a character outside `a-z 0-9 . _ -` (no upper case, port or userinfo)"
    )]
    BadTrustDomainCharacter,
    /// `..` or `.` as a segment.
    #[error("`.` and `..` are not allowed as path segments")]
    DotSegment,
    /// Two slashes in a row.
    #[error("the path has an empty segment (`//`)")]
    EmptySegment,
    /// Nothing between `spiffe://` and the path.
    #[error("the trust domain is empty")]
    EmptyTrustDomain,
    /// Only a trust domain, where a workload is needed.
    #[error(
        "the ID names a trust domain but no workload: a path such as `/ns/shop/sa/orders` is missing"
    )]
    NoPath,
    /// A trust domain ID (`spiffe://name`) was needed, and there is a path.
    #[error("the ID names a workload where only a trust domain (`spiffe://name`) fits")]
    PathNotAllowed,
    /// `**` somewhere else than at the end.
    #[error("`**` is allowed only as the last segment of a pattern")]
    RestNotLast,
    /// More bytes than the limit.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// The limit that was passed.
        limit: usize,
    },
    /// The path ends with a slash.
    #[error("the path ends with `/`")]
    TrailingSlash,
    /// `*` inside a segment or in the trust domain.
    #[error("`*` stands for one whole path segment: `pay*` and `*.example.com` are not patterns")]
    WildcardInSegment,
    /// Another scheme, or no scheme.
    #[error("the ID does not start with `spiffe://` (lower case)")]
    WrongScheme,
}
