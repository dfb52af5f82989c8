//! Bounds of `limits` that no code reads yet, because the thing they bound comes later.
//! `cargo xtask tidy` holds this list to the truth: a bound is here, or product code reads it.

/// Names and what they come with.
pub(crate) const PLANNED: &[(&str, &str)] = &[
    ("H2_HPACK_BYTES_MAX", "a setting of the HTTP/2 library; its default is the same"),
    ("RETRY_BODY_BYTES_MAX", "routes that opt in to replay"),
];

/// What a bound waits for; `None`: it is in force.
pub(crate) fn comes_with(name: &str) -> Option<&'static str> {
    PLANNED.iter().find(|(planned, _)| *planned == name).map(|(_, feature)| *feature)
}
