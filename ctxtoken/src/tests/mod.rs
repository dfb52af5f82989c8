//! Tests of this crate, one file per subject; `world` holds what they share.
mod attacks;
mod cache;
mod claims;
mod custody;
mod errors;
mod grant;
mod hops_world;
mod json;
mod jwks;
mod mint;
mod patterns;
mod published;
mod replay;
mod shown;
mod vectors;
mod verify;
mod world;
