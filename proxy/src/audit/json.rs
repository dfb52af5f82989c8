//! Writes one JSON object straight into a buffer: no tree, no allocation, one look at each byte.
//!
//! Every record goes through here, on the clock of the same core as the requests. Keys are part of
//! the program and need no escaping; values are escaped by `serde_json`, where anything must be.

use std::io::Write as _;

use jiff::Timestamp;

/// An object that is being written.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    stamps: &'a mut Stamps,
    /// Nothing is in it yet.
    empty: bool,
}

impl<'a> Object<'a> {
    /// Writes one object: everything that `fill` adds to it.
    pub(super) fn write(
        out: &'a mut Vec<u8>,
        stamps: &'a mut Stamps,
        fill: impl FnOnce(&mut Object<'_>),
    ) {
        out.push(b'{');
        let mut object = Object { out, stamps, empty: true };
        fill(&mut object);
        object.out.push(b'}');
    }

    fn key(&mut self, key: &'static str) {
        let open: &[u8] = if self.empty { b"\"" } else { b",\"" };
        self.empty = false;
        self.out.extend_from_slice(open);
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    pub(super) fn text(&mut self, key: &'static str, value: &str) {
        self.key(key);
        string(self.out, value);
    }

    /// Adds nothing if there is nothing; so do all below that take an `Option`.
    pub(super) fn maybe_text(&mut self, key: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.text(key, value);
        }
    }

    /// A text of two parts with a slash between them.
    pub(super) fn pair(&mut self, key: &'static str, first: &str, second: &str) {
        self.key(key);
        pair(self.out, first, second);
    }

    pub(super) fn number(&mut self, key: &'static str, value: impl itoa::Integer) {
        self.key(key);
        self.out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    }

    pub(super) fn maybe_number(&mut self, key: &'static str, value: Option<impl itoa::Integer>) {
        if let Some(value) = value {
            self.number(key, value);
        }
    }

    pub(super) fn flag(&mut self, key: &'static str, value: Option<bool>) {
        if let Some(value) = value {
            self.key(key);
            self.out.extend_from_slice(if value { b"true" } else { b"false" });
        }
    }

    /// Bytes as lower-case hex.
    pub(super) fn hex(&mut self, key: &'static str, bytes: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let digit = |nibble: u8| DIGITS.get(usize::from(nibble)).copied().unwrap_or(b'0');
        self.key(key);
        self.out.push(b'"');
        self.out.extend(bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
        self.out.push(b'"');
    }

    /// An instant in microseconds since the Unix epoch, as RFC 3339, UTC.
    pub(super) fn instant(&mut self, key: &'static str, micros: u64) {
        self.key(key);
        self.out.push(b'"');
        self.stamps.write(self.out, micros);
        self.out.push(b'"');
    }

    /// A list, unless it is empty.
    pub(super) fn list<T>(
        &mut self,
        key: &'static str,
        values: impl IntoIterator<Item = T>,
        write: impl Fn(&mut Vec<u8>, T),
    ) {
        let mut values = values.into_iter();
        let Some(first) = values.next() else { return };
        self.key(key);
        self.out.push(b'[');
        write(self.out, first);
        for value in values {
            self.out.push(b',');
            write(self.out, value);
        }
        self.out.push(b']');
    }

    pub(super) fn object(&mut self, key: &'static str, fill: impl FnOnce(&mut Object<'_>)) {
        self.key(key);
        Object::write(self.out, self.stamps, fill);
    }

    /// An object whose keys are not part of the program, unless it is empty.
    pub(super) fn map(&mut self, key: &'static str, entries: &[(String, &str)]) {
        if entries.is_empty() {
            return;
        }
        self.key(key);
        for (index, (name, value)) in entries.iter().enumerate() {
            self.out.push(if index == 0 { b'{' } else { b',' });
            string(self.out, name);
            self.out.push(b':');
            string(self.out, value);
        }
        self.out.push(b'}');
    }
}

/// A string with its quotes.
pub(super) fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    escaped(out, value);
    out.push(b'"');
}

/// One string of two parts with a slash between them.
pub(super) fn pair(out: &mut Vec<u8>, first: &str, second: &str) {
    out.push(b'"');
    escaped(out, first);
    out.push(b'/');
    escaped(out, second);
    out.push(b'"');
}

fn escaped(out: &mut Vec<u8>, value: &str) {
    // Without an early exit, so that the compiler looks at many bytes at once.
    let is_plain = |byte: u8| byte >= 0x20 && byte != b'"' && byte != b'\\';
    if value.bytes().fold(true, |plain, byte| plain & is_plain(byte)) {
        out.extend_from_slice(value.as_bytes());
        return;
    }
    let quoted = serde_json::Value::from(value).to_string();
    let bare = quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    out.extend_from_slice(bare.unwrap_or_default().as_bytes());
}

/// The last second that was written: most records share it with the one before.
#[derive(Debug, Default)]
pub(super) struct Stamps {
    second: i64,
    /// `2026-11-18T11:06:40`, or nothing yet.
    text: String,
}

impl Stamps {
    fn write(&mut self, out: &mut Vec<u8>, micros: u64) {
        let second = i64::try_from(micros / 1_000_000).unwrap_or(i64::MAX);
        if self.text.is_empty() || self.second != second {
            let timestamp = Timestamp::from_second(second).unwrap_or(Timestamp::MAX);
            self.text = format!("{timestamp:.0}").trim_end_matches('Z').to_owned();
            self.second = second;
        }
        out.extend_from_slice(self.text.as_bytes());
        // A buffer takes everything.
        _ = write!(out, ".{:06}Z", micros % 1_000_000);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(fill: impl FnOnce(&mut Object<'_>)) -> String {
        let (mut out, mut stamps) = (Vec::new(), Stamps::default());
        Object::write(&mut out, &mut stamps, fill);
        String::from_utf8(out).unwrap()
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_again(text in any::<String>(), other in "\\PC*", n: u64) {
            let line = written(|object| {
                object.text("text", &text);
                object.pair("pair", &text, &other);
                object.maybe_number("n", Some(n));
                object.list("list", [&text, &other], |out, text| string(out, text));
                object.map("map", &[(text.clone(), other.as_str())]);
                object.object("inner", |inner| inner.hex("hex", text.as_bytes()));
            });
            prop_assert!(!line.contains(|byte: char| byte < ' '), "a second line: {line:?}");
            let read: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(read["text"].as_str(), Some(text.as_str()));
            prop_assert_eq!(read["pair"].as_str().unwrap(), format!("{text}/{other}"));
            prop_assert_eq!(read["n"].as_u64(), Some(n));
            prop_assert_eq!(read["list"][1].as_str(), Some(other.as_str()));
            prop_assert_eq!(read["map"][&text].as_str(), Some(other.as_str()));
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(read["inner"]["hex"].as_str(), Some(hex.as_str()));
        }

        #[test]
        fn instants_are_what_jiff_writes(micros in 0..253_402_207_200_000_000_u64) {
            let (mut out, mut stamps) = (Vec::new(), Stamps::default());
            for micros in [micros, micros + 1, micros + 1_000_000, micros] {
                out.clear();
                stamps.write(&mut out, micros);
                let same = Timestamp::from_microsecond(i64::try_from(micros).unwrap()).unwrap();
                prop_assert_eq!(String::from_utf8_lossy(&out), format!("{same:.6}"));
            }
        }
    }

    #[test]
    fn nothing_is_written_of_what_is_not_there() {
        let line = written(|object| {
            object.maybe_text("a", None);
            object.flag("b", None);
            object.maybe_number("c", None::<u64>);
            object.list("d", [] as [&str; 0], string);
            object.map("e", &[]);
            object.flag("f", Some(false));
        });
        assert_eq!(line, r#"{"f":false}"#);
    }
}
