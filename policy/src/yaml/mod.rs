//! YAML as a small tree in which every node knows its place.
//!
//! Documents are read from this tree by hand ([`Fields`], [`read`]) instead of through serde
//! derives, so that one run reports every problem of every document. What could be read in two
//! ways is refused here: anchors, aliases, merge keys, tags, duplicate keys. Whether a bare word
//! is a string, a number or a boolean is decided by the field that wants it, never guessed.

mod fields;
mod findings;
pub mod read;
mod suggest;

pub use fields::Fields;
pub use findings::{Findings, Span};
pub use suggest::{did_you_mean, suggest};

use std::collections::HashMap;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle};

/// Most nodes of one source.
const NODES_MAX: usize = 400_000;
/// Largest source.
const SOURCE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// Deepest nesting.
const DEPTH_MAX: usize = 64;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Where it is written.
    pub span: Span,
    /// What is written.
    pub value: Value,
}

/// What a node holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// A scalar as written.
    Scalar {
        /// After escapes.
        text: String,
        /// Not quoted, not a block.
        plain: bool,
    },
    /// A sequence.
    List(Vec<Node>),
    /// A mapping, in the order written, without duplicate keys.
    Map(Vec<(Key, Node)>),
}

/// The key of a mapping entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Key {
    /// Its text.
    pub text: String,
    /// Where it is written.
    pub span: Span,
}

impl Node {
    /// `a text`, `a list`, …: for messages.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Scalar { text, plain: true } if text.is_empty() => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("`{}`", shortened(text)),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a mapping".to_owned(),
        }
    }

    /// The entry of a mapping.
    pub fn get(&self, key: &str) -> Option<&Self> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(own, _)| own.text == key).map(|(_, node)| node)
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar { text, .. } => Some(text),
            Value::List(_) | Value::Map(_) => None,
        }
    }
}

/// At most 60 characters, on one line.
fn shortened(text: &str) -> String {
    let line = text.lines().next().unwrap_or_default();
    if line.chars().count() <= 60 && line.len() == text.len() {
        return line.to_owned();
    }
    line.chars().take(60).chain(['…']).collect()
}

/// The documents of one source. Problems go to `findings`; what was complete before a syntax
/// error is still returned, so that its problems are reported too.
pub fn documents(findings: &mut Findings<'_>, source: usize) -> Vec<Node> {
    let text = findings.text(source);
    if text.len() > SOURCE_BYTES_MAX {
        let span = Span { source, start: 0, end: 0, line: 1, column: 1 };
        findings.error("E017", span, format!("the source is larger than {SOURCE_BYTES_MAX} bytes"));
        return Vec::new();
    }
    let mut options = granit_parser::Options::default();
    options.set_emit_comments(false);
    options.flow_nesting_limit = DEPTH_MAX;
    options.block_nesting_limit = DEPTH_MAX;
    let mut builder = Builder { source, findings, done: Vec::new(), open: Vec::new(), nodes: 0 };
    for event in Parser::new_from_str_with_options(text, options) {
        match event {
            Ok((event, span)) => {
                let span = builder.span(&span);
                builder.event(event, span);
            }
            Err(error) => {
                let at = error.marker();
                let start = at.byte_offset().unwrap_or(text.len()).min(text.len());
                let end = start;
                let (line, column) = (number(at.line()), number(at.col()).saturating_add(1));
                let span = Span { source, start, end, line, column };
                builder.findings.error("E000", span, format!("this is not YAML: {}", error.info()));
                break;
            }
        }
        if builder.nodes > NODES_MAX {
            let span = Span { source, start: 0, end: 0, line: 1, column: 1 };
            let message = format!("the source has more than {NODES_MAX} values");
            builder.findings.error("E017", span, message);
            break;
        }
    }
    builder.done
}

fn number(value: usize) -> u32 {
    u32::try_from(value).unwrap_or(u32::MAX)
}

/// Turns events into trees.
struct Builder<'f, 's> {
    source: usize,
    findings: &'f mut Findings<'s>,
    done: Vec<Node>,
    open: Vec<Open>,
    nodes: usize,
}

/// A collection that has not ended.
enum Open {
    List { span: Span, items: Vec<Node> },
    Map { span: Span, entries: Vec<(Key, Node)>, key: Option<Key>, lines: Lines },
}

/// Where the keys of a mapping stand, once it has more of them than are looked through one by one.
#[derive(Default)]
struct Lines(HashMap<String, u32>);

impl Lines {
    const FEW: usize = 16;

    /// The line of this key in `entries`, all of which were [noted](Lines::note).
    fn of(&self, key: &str, entries: &[(Key, Node)]) -> Option<u32> {
        if entries.len() > Lines::FEW {
            return self.0.get(key).copied();
        }
        entries.iter().find(|(own, _)| own.text == key).map(|(own, _)| own.span.line)
    }

    fn note(&mut self, entries: &[(Key, Node)]) {
        if entries.len() > Lines::FEW {
            let new = entries.iter().skip(self.0.len());
            self.0.extend(new.map(|(key, _)| (key.text.clone(), key.span.line)));
        }
    }
}

impl Builder<'_, '_> {
    fn span(&self, span: &granit_parser::Span) -> Span {
        let range = span.byte_range().unwrap_or(0..0);
        Span {
            source: self.source,
            start: range.start,
            end: range.end,
            line: number(span.start.line()),
            column: number(span.start.col()).saturating_add(1),
        }
    }

    fn event(&mut self, event: Event<'_>, span: Span) {
        self.nodes += 1;
        self.findings.step(1);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(anchor, tag.is_some(), span);
                let plain = style == ScalarStyle::Plain;
                self.push(Node { span, value: Value::Scalar { text: text.into_owned(), plain } });
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.refuse(anchor, tag.is_some(), span);
                self.open.push(Open::List { span, items: Vec::new() });
            }
            Event::MappingStart(_, anchor, tag) => {
                self.refuse(anchor, tag.is_some(), span);
                self.open.push(Open::Map {
                    span,
                    entries: Vec::new(),
                    key: None,
                    lines: Lines::default(),
                });
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(span),
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.findings.error(
                    "E013",
                    span,
                    "aliases are not accepted; write the value again",
                );
                self.push(Node { span, value: Value::Scalar { text: String::new(), plain: true } });
            }
            _ => {}
        }
    }

    fn refuse(&mut self, anchor: usize, tagged: bool, span: Span) {
        if anchor != 0 {
            self.findings.error("E013", span, "anchors are not accepted; write the value again");
        }
        if tagged {
            self.findings.error("E013", span, "YAML tags are not accepted");
        }
    }

    fn close(&mut self, end: Span) {
        let node = match self.open.pop() {
            Some(Open::List { span, items }) => {
                Node { span: span.to(end), value: Value::List(items) }
            }
            Some(Open::Map { span, entries, .. }) => {
                Node { span: span.to(end), value: Value::Map(entries) }
            }
            None => return,
        };
        self.push(node);
    }

    fn push(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.done.push(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, key, lines, .. }) => match key.take() {
                Some(key) => {
                    if key.text == "<<" {
                        let message = "merge keys are not accepted; write the fields again";
                        self.findings.error("E013", key.span, message);
                    } else if let Some(line) = lines.of(&key.text, entries) {
                        let message = format!("`{}` stands here twice", shortened(&key.text));
                        self.findings
                            .error("E019", key.span, message)
                            .hint(format!("the first one is on line {line}; remove one of them"));
                    } else {
                        entries.push((key, node));
                        lines.note(entries);
                    }
                }
                None => {
                    let text = node.text().map(str::to_owned);
                    if text.is_none() {
                        self.findings.error("E013", node.span, "a key must be a plain word");
                    }
                    *key = Some(Key { text: text.unwrap_or_default(), span: node.span });
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    /// Each key of a mapping of any size is found again, whichever way it is looked for.
    #[test]
    fn every_key_that_stands_twice_is_named() {
        for size in [1, Lines::FEW - 1, Lines::FEW, Lines::FEW + 1, Lines::FEW + 2, 100] {
            for again in [0, size / 2, size - 1] {
                let keys: String = (0..size).map(|key| format!("k{key}: 1\n")).collect();
                let text = format!("{keys}k{again}: 2\nlast: 3\n");
                let sources = [Source { name: "a.yaml", text: &text }];
                let mut findings = Findings::new(&sources);
                let documents = documents(&mut findings, 0);
                let Value::Map(entries) = &documents[0].value else { panic!("{documents:?}") };
                assert_eq!(entries.len(), size + 1, "the second one is left out");
                let found = findings.finish().unwrap_err().0;
                let hint = format!("the first one is on line {}; remove one of them", again + 1);
                assert_eq!(found.len(), 1, "{found:?}");
                assert_eq!(found[0].message, format!("`k{again}` stands here twice"));
                assert_eq!(found[0].hint.as_deref(), Some(hint.as_str()));
            }
        }
    }
}
