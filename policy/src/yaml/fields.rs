//! Reads the fields of one mapping and reports those nobody asked for.

use super::{Findings, Key, Node, Span, Value, suggest::did_you_mean};

/// A mapping that is being read. [`Fields::finish`] must be called: it refuses unknown fields.
#[derive(Debug)]
#[must_use = "call finish(): it reports unknown fields"]
pub struct Fields<'n> {
    what: &'static str,
    span: Span,
    entries: &'n [(Key, Node)],
    known: Vec<&'static str>,
}

impl<'n> Fields<'n> {
    /// Starts reading. `what` names the mapping in messages, such as `a rule`.
    pub fn of(node: &'n Node, what: &'static str, findings: &mut Findings<'_>) -> Option<Self> {
        findings.step(8);
        match &node.value {
            Value::Map(entries) => Some(Self { what, span: node.span, entries, known: Vec::new() }),
            Value::Scalar { .. } | Value::List(_) => {
                let message = format!("{what} must be a mapping, this is {}", node.describe());
                findings.error("E013", node.span, message);
                None
            }
        }
    }

    /// Where the mapping stands.
    pub fn span(&self) -> Span {
        self.span
    }

    /// Whether nothing is written in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A field that may be left out.
    pub fn optional(&mut self, name: &'static str) -> Option<&'n Node> {
        self.known.push(name);
        self.entries.iter().find(|(key, _)| key.text == name).map(|(_, node)| node)
    }

    /// Where the key of a field stands.
    pub fn key_span(&self, name: &str) -> Span {
        let key = self.entries.iter().find(|(key, _)| key.text == name);
        key.map_or(self.span, |(key, _)| key.span)
    }

    /// A field that must be there.
    pub fn required(
        &mut self,
        name: &'static str,
        findings: &mut Findings<'_>,
    ) -> Option<&'n Node> {
        let found = self.optional(name);
        if found.is_none() {
            let message = format!("{} needs `{name}`", self.what);
            findings.error("E013", self.head(), message);
        }
        found
    }

    /// A field of the language that this version does not carry out: an error, never ignored.
    pub fn not_yet(&mut self, name: &'static str, findings: &mut Findings<'_>) {
        if self.optional(name).is_some() {
            let span = self.key_span(name);
            let message = format!("`{name}` is not supported yet");
            findings.error("E013", span, message).hint("remove it; it would have no effect");
        }
    }

    /// Reports fields that were not asked for.
    pub fn finish(self, findings: &mut Findings<'_>) {
        for (key, _) in self.entries {
            if self.known.iter().any(|known| *known == key.text) {
                continue;
            }
            let message = format!("unknown field `{}` in {}", key.text, self.what);
            let free = self.known.iter().copied().filter(|k| !self.has(k));
            let hint = did_you_mean(&key.text, free).unwrap_or_else(|| {
                format!("it has {}", super::suggest::listed(self.known.iter().copied()))
            });
            findings.error("E013", key.span, message).hint(hint);
        }
    }

    fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|(key, _)| key.text == name)
    }

    /// The first key, so that an excerpt shows where the mapping begins.
    fn head(&self) -> Span {
        self.entries.first().map_or(self.span, |(key, _)| key.span)
    }
}
