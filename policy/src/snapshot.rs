//! The hash that names a set of documents: same content, same hash, however it is written.

use aws_lc_rs::digest;

use crate::yaml::{Node, Value};

/// SHA-256 over the canonical JSON of every document, sorted.
pub(crate) fn hash(documents: &[Node]) -> [u8; 32] {
    let mut texts: Vec<String> = documents
        .iter()
        .map(|node| {
            let mut text = String::new();
            write(node, &mut text);
            text
        })
        .collect();
    texts.sort();
    let digest = digest::digest(&digest::SHA256, texts.join("\n").as_bytes());
    let mut out = [0; 32];
    out.copy_from_slice(digest.as_ref());
    out
}

/// Keys sorted, no spaces; every scalar is a string, so quoting makes no difference.
fn write(node: &Node, out: &mut String) {
    match &node.value {
        Value::Scalar { text, .. } => quoted(text, out),
        Value::List(items) => {
            out.push('[');
            for (at, item) in items.iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                write(item, out);
            }
            out.push(']');
        }
        Value::Map(entries) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_by(|(a, _), (b, _)| a.text.cmp(&b.text));
            out.push('{');
            for (at, (key, value)) in entries.into_iter().enumerate() {
                if at > 0 {
                    out.push(',');
                }
                quoted(&key.text, out);
                out.push(':');
                write(value, out);
            }
            out.push('}');
        }
    }
}

fn quoted(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
