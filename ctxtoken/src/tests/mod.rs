//! Tests of this crate, one file per subject.
