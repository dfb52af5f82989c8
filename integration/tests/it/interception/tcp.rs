//! Detection and opaque TCP through both sidecars.
