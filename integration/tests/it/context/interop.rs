//! Other implementations read our tokens, and we read theirs.
