//! Identities from files, in every layout that is in use.
