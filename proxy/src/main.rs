//! Placeholder while the composition root is written.
fn main() {}
