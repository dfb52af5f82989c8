//! Tests of the gateway's stages.

mod identify;
mod issuer;
mod key_schedule;
mod provider_keys;
mod user_cache;
mod user_keys;
