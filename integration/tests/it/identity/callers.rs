//! Callers outside the mesh: service account tokens and JWT-SVIDs at the gateway.
