//! Tests of the gateway's stages.

mod callers;
mod corpus;
mod edge_corpus;
mod identify;
mod issuer;
mod jwt_svid;
mod key_schedule;
mod provider_keys;
mod user_cache;
mod user_keys;
