//! Strict JSON: the shape every part of a token must have before anything in it is believed.
//!
//! `serde_json` checks syntax, UTF-8 and escapes; the visitor here adds what it lets pass: a name
//! twice in one object (compared after unescaping), nesting, long arrays, integers that other
//! JSON readers would round. It walks everything once and builds nothing.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize,
    de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor},
};

/// Objects and arrays inside each other, the outermost counted.
const DEPTH_MAX: usize = 8;
/// Items of one array.
const ARRAY_MAX: usize = 64;
/// Members of one object.
const MEMBERS_MAX: usize = 64;
/// 2^53: the largest integer every JSON reader keeps exactly.
pub(crate) const INTEGER_MAX: u64 = 1 << 53;

/// The few claims that are looked at before the signature was checked.
#[derive(Debug, Default)]
pub(crate) struct Peek<'a> {
    pub(crate) iss: Option<Cow<'a, str>>,
    pub(crate) aud: Option<Cow<'a, str>>,
    pub(crate) exp: Option<u64>,
}

/// Checks one JSON object, strictly, and picks out what is needed to find a key.
pub(crate) fn peek(json: &[u8]) -> Result<(&str, Peek<'_>), &'static str> {
    let text = std::str::from_utf8(json).map_err(|_| NOT_UTF8)?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let peek = reader.deserialize_map(PeekVisitor).map_err(|e| explain(&e))?;
    reader.end().map_err(|_| TRAILING)?;
    Ok((text, peek))
}

/// Checks one JSON object, strictly.
pub(crate) fn check(json: &[u8]) -> Result<&str, &'static str> {
    peek(json).map(|(text, _)| text)
}

pub(crate) const ARRAY: &str = "an array with more than 64 items";
const DEPTH: &str = "JSON nested deeper than 8";
const DUPLICATE: &str = "a name twice in one JSON object";
const MEMBERS: &str = "an object with more than 64 members";
const NOT_UTF8: &str = "text that is not UTF-8";
const NUMBER: &str = "a number over 2^53";
const SYNTAX: &str = "not one JSON object";
const TRAILING: &str = "bytes after the JSON object";

/// Finds the own message in a library error, whose text may quote the input.
fn explain(error: &serde_json::Error) -> &'static str {
    let text = error.to_string();
    [ARRAY, DEPTH, DUPLICATE, MEMBERS, NUMBER]
        .into_iter()
        .find(|own| text.starts_with(own))
        .unwrap_or(SYNTAX)
}

/// What a strict walk reports of one value.
enum Seen<'a> {
    Integer(u64),
    Text(Cow<'a, str>),
    Other,
}

/// Walks a value that stands inside `depth` containers.
struct Walk {
    depth: usize,
}

impl Walk {
    fn deeper<E: Error>(&self) -> Result<Self, E> {
        if self.depth >= DEPTH_MAX {
            return Err(E::custom(DEPTH));
        }
        Ok(Self { depth: self.depth + 1 })
    }
}

impl<'de> DeserializeSeed<'de> for Walk {
    type Value = Seen<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Seen<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk {
    type Value = Seen<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: Error>(self) -> Result<Seen<'de>, E> {
        Ok(Seen::Other)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Seen<'de>, E> {
        Ok(Seen::Other)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Seen<'de>, E> {
        if number > INTEGER_MAX {
            return Err(E::custom(NUMBER));
        }
        Ok(Seen::Integer(number))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Seen<'de>, E> {
        if number.unsigned_abs() > INTEGER_MAX {
            return Err(E::custom(NUMBER));
        }
        Ok(Seen::Other)
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<Seen<'de>, E> {
        // An integer too large for 64 bits arrives here.
        if number.abs() > 9.0e15 {
            return Err(E::custom(NUMBER));
        }
        Ok(Seen::Other)
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Seen<'de>, E> {
        Ok(Seen::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Seen<'de>, E> {
        Ok(Seen::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Seen<'de>, A::Error> {
        let mut count = 0;
        while items.next_element_seed(self.deeper()?)?.is_some() {
            count += 1;
            if count > ARRAY_MAX {
                return Err(A::Error::custom(ARRAY));
            }
        }
        Ok(Seen::Other)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Seen<'de>, A::Error> {
        walk_members(self.deeper()?, map, |_, _| {})?;
        Ok(Seen::Other)
    }
}

/// Walks all members of an object whose values stand inside `inside.depth` containers.
fn walk_members<'de, A: MapAccess<'de>>(
    inside: Walk,
    mut map: A,
    mut each: impl FnMut(&str, Seen<'de>),
) -> Result<(), A::Error> {
    let mut names = Names::default();
    while let Some(Text(name)) = map.next_key::<Text<'de>>()? {
        let value = map.next_value_seed(Walk { depth: inside.depth })?;
        each(&name, value);
        names.add(name)?;
    }
    Ok(())
}

/// The names of one object. A list, because objects are small and bounded, and without asking the
/// heap, because most have few members.
#[derive(Default)]
struct Names<'a> {
    first: [Cow<'a, str>; 16],
    count: usize,
    more: Vec<Cow<'a, str>>,
}

impl<'a> Names<'a> {
    fn add<E: Error>(&mut self, name: Cow<'a, str>) -> Result<(), E> {
        let first = self.first.get(..self.count).unwrap_or(&self.first);
        if first.contains(&name) || self.more.contains(&name) {
            return Err(E::custom(DUPLICATE));
        }
        if self.count >= MEMBERS_MAX {
            return Err(E::custom(MEMBERS));
        }
        match self.first.get_mut(self.count) {
            Some(place) => *place = name,
            None => self.more.push(name),
        }
        self.count += 1;
        Ok(())
    }
}

/// Walks the outermost object and keeps three of its members.
struct PeekVisitor;

impl<'de> Visitor<'de> for PeekVisitor {
    type Value = Peek<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Peek<'de>, A::Error> {
        let mut peek = Peek::default();
        walk_members(Walk { depth: 1 }, map, |name, value| match (name, value) {
            ("iss", Seen::Text(text)) => peek.iss = Some(text),
            ("aud", Seen::Text(text)) => peek.aud = Some(text),
            ("exp", Seen::Integer(number)) => peek.exp = Some(number),
            _ => {}
        })?;
        Ok(peek)
    }
}

/// A string that borrows from its JSON where it holds no escapes.
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Text)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}
