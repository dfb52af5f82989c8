//! The direction from the outside into the mesh.

pub mod capture;
pub mod identify;
mod key_schedule;
pub mod provider_fetch;
pub mod provider_keys;
pub mod proxy_protocol;
mod strict_json;
mod user_claims;
pub mod user_keys;
mod user_token;

#[cfg(test)]
mod tests;
