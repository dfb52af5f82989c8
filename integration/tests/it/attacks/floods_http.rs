//! HTTP that is slow, endless or huge.
