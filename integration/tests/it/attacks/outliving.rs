//! Outliving the reason (T17): streams and connections after expiry, revocation or a new deny.
