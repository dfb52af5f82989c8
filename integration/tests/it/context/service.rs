//! The token service, RFC 8693.
