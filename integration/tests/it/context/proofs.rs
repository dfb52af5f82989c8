//! User tokens bound to a key: DPoP and mutual TLS.
