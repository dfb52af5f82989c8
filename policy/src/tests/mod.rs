//! Tests across modules: documents in, decisions or diagnostics out.

mod attributes;
mod binding;
mod callers;
mod cases;
mod codes;
mod corpus;
mod diagnostics;
mod federation;
mod opaque;
mod property;
mod providers;
mod shown;
mod token_service;
