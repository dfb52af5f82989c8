//! Roots are rotated while requests run.
