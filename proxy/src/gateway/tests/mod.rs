//! Tests of the gateway's stages.

mod callers;
mod corpus;
mod edge_corpus;
mod identify;
mod issuer;
mod jwt_svid;
mod key_schedule;
mod proofs;
mod provider_keys;
mod used_proofs;
mod user_cache;
mod user_keys;
