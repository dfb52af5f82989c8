//! Tests across modules: documents in, decisions or diagnostics out.

mod cases;
mod codes;
mod corpus;
mod diagnostics;
mod opaque;
mod property;
