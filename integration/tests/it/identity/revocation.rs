//! Revocation ends what is live.
