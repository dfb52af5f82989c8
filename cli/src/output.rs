//! What every command that prints data shares: the `-o` option and the JSON printer.
//!
//! Invariant: with `-o json` standard output holds exactly one JSON document; a command that follows
//! something over time writes one per line.

use std::io::Write;

use clap::ValueEnum;
use serde::Serialize;

/// How a command prints its answer.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For programs: one JSON document.
    Json,
}

/// Prints one value as indented JSON with a final newline.
///
/// # Errors
/// When standard output is closed.
pub fn print_json<T: Serialize>(value: &T) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    out.write_all(b"\n")?;
    Ok(())
}
