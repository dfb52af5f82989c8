//! Going round the sidecar (T2).
