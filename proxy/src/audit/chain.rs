//! The hash chain: each line names the hash of the line before it.
//!
//! `prev` = SHA-256(0x00 ‖ the previous line without its newline), in base64; `seq` grows by one.
//! The hash covers the bytes as written, so any tool that can compute SHA-256 can check a file.

use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Where a chain stands: what the next line must carry.
#[derive(Clone, Debug, Default)]
pub struct Chain {
    /// Number of the next line; the first is 0.
    pub seq: u64,
    /// Hash of the previous line; empty before the first.
    pub prev: String,
}

impl Chain {
    /// Takes note of a line as it was written, without its newline.
    pub fn append(&mut self, line: &[u8]) {
        self.seq += 1;
        self.prev = line_hash(line);
    }
}

/// The hash that the next line carries.
pub fn line_hash(line: &[u8]) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&[0]);
    context.update(line);
    STANDARD.encode(context.finish())
}

/// Why a file is not one unbroken chain.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// A line is not a record.
    #[error("line {line} is not an audit record")]
    NotARecord {
        /// Number of the line, from 1.
        line: usize,
    },
    /// A line does not continue the line before it.
    #[error("line {line} does not continue the line before it: {what} differs")]
    Broken {
        /// Number of the line, from 1.
        line: usize,
        /// `seq`, `prev` or `chain`.
        what: &'static str,
    },
}

/// Checks the lines of a file, which may hold several chains one after the other; returns how many
/// records were checked.
pub fn verify(text: &[u8]) -> Result<usize, ChainError> {
    let mut chain = Chain::default();
    let mut chain_id = String::new();
    let mut records = 0;
    for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
        if line.is_empty() {
            continue;
        }
        let number = index + 1;
        let record: serde_json::Value =
            serde_json::from_slice(line).map_err(|_| ChainError::NotARecord { line: number })?;
        let text_of = |field: &str| record.get(field).and_then(|value| value.as_str());
        let broken = |what| Err(ChainError::Broken { line: number, what });
        if text_of("kind") == Some("start") {
            chain = Chain::default();
            chain_id = text_of("chain").unwrap_or_default().to_owned();
        }
        if text_of("chain") != Some(&chain_id) {
            return broken("chain");
        }
        if record.get("seq").and_then(serde_json::Value::as_u64) != Some(chain.seq) {
            return broken("seq");
        }
        if text_of("prev").unwrap_or_default() != chain.prev {
            return broken("prev");
        }
        chain.append(line);
        records += 1;
    }
    Ok(records)
}
