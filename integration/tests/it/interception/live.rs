//! States, drain, and connections that outlive their reason.
