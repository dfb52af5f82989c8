//! Requests with more than one reading (T20).
