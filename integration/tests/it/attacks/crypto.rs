//! Denial of service through cryptography (T24).
