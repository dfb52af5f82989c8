//! Renewal under load, and what happens when the authority is away.
