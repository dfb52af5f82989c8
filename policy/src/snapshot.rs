//! The hash that names a set of documents: same content, same hash, however it is written.

use aws_lc_rs::digest;

use crate::pace::Pace;
use crate::yaml::{Node, Value};

/// SHA-256 over the canonical JSON of every document, sorted.
pub(crate) fn hash(documents: &[Node], pace: Pace<'_>) -> [u8; 32] {
    let mut texts: Vec<String> = documents
        .iter()
        .map(|node| {
            let mut text = String::new();
            write(node, &mut text, pace);
            text
        })
        .collect();
    texts.sort();
    let mut digest = digest::Context::new(&digest::SHA256);
    for (at, text) in texts.iter().enumerate() {
        pace.step(2);
        if at > 0 {
            digest.update(b"\n");
        }
        digest.update(text.as_bytes());
    }
    let mut out = [0; 32];
    out.copy_from_slice(digest.finish().as_ref());
    out
}

/// Keys sorted, no spaces; every scalar is a string, so quoting makes no difference.
fn write(node: &Node, out: &mut String, pace: Pace<'_>) {
    match &node.value {
        Value::Scalar { text, .. } => quoted(text, out),
        Value::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out, pace);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            pace.step(2);
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.text.cmp(&b.text));
            out.push('{');
            for (at, (key, value)) in entries.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                quoted(&key.text, out);
                out.push(':');
                write(value, out, pace);
            }
            out.push('}');
        }
    }
}

fn quoted(text: &str, out: &mut String) {
    let plain = |byte| !matches!(byte, 0..=0x1f | b'"' | b'\\');
    if text.bytes().all(plain) {
        out.push('"');
        out.push_str(text);
        out.push('"');
        return;
    }
    out.push_str(&serde_json::Value::from(text).to_string());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// The hash is of JSON, however it is written.
        #[test]
        fn texts_are_quoted_as_in_json(text in proptest::collection::vec(any::<char>(), ..64)) {
            let text: String = text.into_iter().collect();
            let mut out = String::new();
            quoted(&text, &mut out);
            prop_assert_eq!(out, serde_json::Value::from(text).to_string());
        }
    }
}
