//! The direction from the outside into the mesh.

pub mod capture;
pub mod identify;
pub mod provider_keys;
