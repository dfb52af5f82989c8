//! Key sets of issuers: published, fetched, rotated, withdrawn.
