//! Tests across modules: documents in, decisions or diagnostics out.

mod cases;
mod diagnostics;
mod property;
