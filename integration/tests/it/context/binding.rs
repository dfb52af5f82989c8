//! Signed parameters of the edge against the internal call; tokens that count once.
