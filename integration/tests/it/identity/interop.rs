//! Other implementations of SPIFFE against ours, both ways.
