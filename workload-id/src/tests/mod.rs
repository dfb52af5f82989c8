//! Tests of this crate, one file per subject.
mod attacks;
mod corpus;
mod id;
mod pattern;
