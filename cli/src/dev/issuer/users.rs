//! Users of the development issuer, as written on its command line:
//! `NAME[:CLAIM=VALUE[,CLAIM=VALUE]...]`.

use std::str::FromStr;

use anyhow::Context as _;
use serde_json::{Map, Value, json};

/// A named user and the claims their tokens carry.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    /// The name; `sub` of the tokens.
    pub name: String,
    /// Further claims; `uid` is there unless something else is written.
    pub claims: Map<String, Value>,
}

/// Claims the issuer writes itself.
const OWN_CLAIMS: [&str; 8] = ["iss", "sub", "aud", "iat", "nbf", "exp", "jti", "auth_time"];

impl FromStr for User {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<User> {
        let (name, claims) = match text.split_once(':') {
            None => (text, None),
            Some((name, claims)) => (name, Some(claims)),
        };
        anyhow::ensure!(!name.is_empty(), "the user has no name; write NAME:CLAIM=VALUE,...");
        let mut user = User { name: name.to_owned(), claims: Map::new() };
        user.claims.insert("uid".into(), json!(name));
        let mut written = Vec::new();
        for claim in claims.into_iter().flat_map(|claims| claims.split(',')) {
            let (name, value) = claim_of(claim)?;
            anyhow::ensure!(
                !OWN_CLAIMS.contains(&name),
                "claim `{name}` is written by the issuer itself"
            );
            user.add(name, value, written.contains(&name));
            written.push(name);
        }
        Ok(user)
    }
}

impl User {
    /// A claim that is written twice is a list; `groups` always is one.
    fn add(&mut self, name: &str, value: Value, again: bool) {
        let list = name == "groups" || again;
        let slot = self.claims.entry(name).or_insert(Value::Null);
        if !list {
            *slot = value;
            return;
        }
        match slot {
            Value::Array(values) if again => values.push(value),
            first if again => *first = json!([first.take(), value]),
            first if value.is_array() => *first = value,
            first => *first = json!([value]),
        }
    }
}

/// `name=text` or `name:=json`.
fn claim_of(claim: &str) -> anyhow::Result<(&str, Value)> {
    let Some((name, value)) = claim.split_once('=') else {
        anyhow::bail!("`{claim}` is not CLAIM=VALUE");
    };
    match name.strip_suffix(':') {
        None => Ok((name, json!(value))),
        Some(name) => {
            let value = serde_json::from_str(value);
            Ok((name, value.with_context(|| format!("the value of `{name}:=` is not JSON"))?))
        }
    }
}
