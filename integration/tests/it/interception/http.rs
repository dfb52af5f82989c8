//! HTTP in every form through both sidecars.
