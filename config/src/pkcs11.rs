//! Which PKCS#11 token holds a key, and how the key is named in it: `pkcs11:` URIs (RFC 7512).
//!
//! Pure: nothing is loaded or asked here. A PIN is never part of a configuration, only the file
//! it stands in; attributes that this program would ignore are refused, not skipped.

use std::{fmt, path::PathBuf, time::Duration};

/// Attributes of a token; those that are set must all match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenName {
    /// `CKA_LABEL` of the token.
    pub label: Option<String>,
    /// Who made it.
    pub manufacturer: Option<String>,
    /// Its model.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
}

/// A token, and the module and PIN that open it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Token {
    /// The shared library with the PKCS#11 functions.
    pub module: PathBuf,
    /// Which of its tokens.
    pub token: TokenName,
    /// The file with the user PIN; `None`: the token asks for none.
    pub pin_file: Option<PathBuf>,
    /// How long a handshake or a token waits for a signature.
    pub sign_timeout: Duration,
}

/// One private key in a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Key {
    /// Where it is.
    pub token: Pkcs11Token,
    /// Its label there.
    pub object: Option<String>,
    /// Its `CKA_ID` there.
    pub id: Option<Vec<u8>>,
}

/// What a `pkcs11:` URI says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pkcs11Uri {
    /// Which token.
    pub token: TokenName,
    /// Label of the object.
    pub object: Option<String>,
    /// `CKA_ID` of the object.
    pub id: Option<Vec<u8>>,
    /// Path of the module.
    pub module: Option<PathBuf>,
    /// File with the PIN.
    pub pin_file: Option<PathBuf>,
}

/// Why a `pkcs11:` URI cannot be used, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UriProblem {
    /// What is wrong.
    pub message: String,
    /// What helps.
    pub hint: &'static str,
}

const EXAMPLE: &str = "as in `pkcs11:token=mesh;object=orders?module-path=/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so&pin-source=file:/run/secrets/pin`";

impl Pkcs11Uri {
    /// Whether a text is meant as such a URI.
    pub fn is_meant(text: &str) -> bool {
        text.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("pkcs11:"))
    }

    /// Reads a URI.
    ///
    /// # Errors
    /// Attributes that are unknown, come twice, are not encoded well or would be ignored.
    pub fn parse(text: &str) -> Result<Pkcs11Uri, UriProblem> {
        let body = text
            .get(7..)
            .filter(|_| Pkcs11Uri::is_meant(text))
            .ok_or_else(|| problem(format!("`{text}` is not a PKCS#11 URI"), EXAMPLE))?;
        let (path, query) = body.split_once('?').unwrap_or((body, ""));
        let mut uri = Pkcs11Uri::default();
        for attribute in path.split(';').filter(|attribute| !attribute.is_empty()) {
            uri.path_attribute(attribute)?;
        }
        for attribute in query.split('&').filter(|attribute| !attribute.is_empty()) {
            uri.query_attribute(attribute)?;
        }
        Ok(uri)
    }

    fn path_attribute(&mut self, attribute: &str) -> Result<(), UriProblem> {
        let (name, value) = decoded(attribute)?;
        match name {
            "token" => once(&mut self.token.label, name, text(name, value)?),
            "manufacturer" => once(&mut self.token.manufacturer, name, text(name, value)?),
            "model" => once(&mut self.token.model, name, text(name, value)?),
            "serial" => once(&mut self.token.serial, name, text(name, value)?),
            "object" => once(&mut self.object, name, text(name, value)?),
            "id" => once(&mut self.id, name, value),
            "type" if value == b"private" => Ok(()),
            "type" => {
                Err(problem("`type` names something else than a private key", "leave it out"))
            }
            _ => Err(problem(
                format!("`{name}` is not looked at in a PKCS#11 URI"),
                "a key is found by `token`, `manufacturer`, `model`, `serial`, `object` and `id`",
            )),
        }
    }

    fn query_attribute(&mut self, attribute: &str) -> Result<(), UriProblem> {
        let (name, value) = decoded(attribute)?;
        match name {
            "module-path" => once(&mut self.module, name, text(name, value)?.into()),
            "pin-source" => {
                let text = text(name, value)?;
                let path = text.strip_prefix("file://").or_else(|| text.strip_prefix("file:"));
                let path = path.unwrap_or(&text);
                if path.is_empty() || path.starts_with('|') || path.contains("://") {
                    return Err(problem(
                        format!("`pin-source={text}` is not a file"),
                        "write `pin-source=file:/run/secrets/pin`",
                    ));
                }
                once(&mut self.pin_file, name, path.into())
            }
            "pin-value" => Err(problem(
                "a PIN does not belong into a configuration",
                "write it into a file of mode 0400 and name that: `pin-source=file:/run/secrets/pin`",
            )),
            "module-name" => Err(problem(
                "`module-name` says nothing about where the module is",
                "write `module-path=/usr/lib/…/p11-kit-client.so`",
            )),
            _ => Err(problem(
                format!("`{name}` is not looked at in a PKCS#11 URI"),
                "the query holds `module-path` and `pin-source`",
            )),
        }
    }
}

impl TokenName {
    /// Whether nothing is said, so that any token would match.
    pub fn is_empty(&self) -> bool {
        *self == TokenName::default()
    }

    /// Whether a token with these four attributes is meant.
    pub fn matches(&self, label: &str, manufacturer: &str, model: &str, serial: &str) -> bool {
        let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
        fits(&self.label, label)
            && fits(&self.manufacturer, manufacturer)
            && fits(&self.model, model)
            && fits(&self.serial, serial)
    }
}

impl fmt::Display for TokenName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attributes = [
            ("", &self.label),
            ("manufacturer ", &self.manufacturer),
            ("model ", &self.model),
            ("serial ", &self.serial),
        ];
        let said = attributes
            .iter()
            .filter_map(|(name, value)| value.as_ref().map(|value| format!("{name}\"{value}\"")))
            .collect::<Vec<_>>();
        if said.is_empty() { f.write_str("(any)") } else { f.write_str(&said.join(", ")) }
    }
}

impl fmt::Display for Pkcs11Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PKCS#11 token {} of {}", self.token, self.module.display())
    }
}

impl fmt::Display for Pkcs11Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(object) = &self.object {
            write!(f, "key \"{object}\" ")?;
        }
        if let Some(id) = &self.id {
            f.write_str("key ")?;
            id.iter().try_for_each(|byte| write!(f, "%{byte:02x}"))?;
            f.write_str(" ")?;
        }
        write!(f, "in {}", self.token)
    }
}

fn problem(message: impl Into<String>, hint: &'static str) -> UriProblem {
    UriProblem { message: message.into(), hint }
}

fn once<T>(place: &mut Option<T>, name: &str, value: T) -> Result<(), UriProblem> {
    if place.replace(value).is_some() {
        return Err(problem(format!("`{name}` comes twice in a PKCS#11 URI"), "keep one"));
    }
    Ok(())
}

fn text(name: &str, value: Vec<u8>) -> Result<String, UriProblem> {
    let text = String::from_utf8(value)
        .map_err(|_| problem(format!("`{name}` of a PKCS#11 URI is not UTF-8"), EXAMPLE))?;
    if text.is_empty() {
        return Err(problem(format!("`{name}` of a PKCS#11 URI is empty"), EXAMPLE));
    }
    Ok(text)
}

/// One attribute, its value without percent-encoding.
fn decoded(attribute: &str) -> Result<(&str, Vec<u8>), UriProblem> {
    let (name, value) = attribute.split_once('=').ok_or_else(|| {
        problem(format!("`{attribute}` of a PKCS#11 URI is not NAME=VALUE"), EXAMPLE)
    })?;
    let mut bytes = value.bytes();
    let mut out = Vec::with_capacity(value.len());
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let mut digit = || bytes.next().and_then(|byte| char::from(byte).to_digit(16));
        let (Some(high), Some(low)) = (digit(), digit()) else {
            let message = format!("`{attribute}` of a PKCS#11 URI holds a `%` without two digits");
            return Err(problem(message, "write `%25` for a percent sign"));
        };
        out.push(u8::try_from(high * 16 + low).unwrap_or_default());
    }
    Ok((name, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_a_key_is_found_by() {
        let uri = Pkcs11Uri::parse(
            "pkcs11:token=my%20mesh;manufacturer=SoftHSM%20project;model=SoftHSM%20v2;serial=1f;\
             object=orders;id=%01%aB;type=private\
             ?module-path=/usr/lib/p11.so&pin-source=file:/run/pin",
        )
        .unwrap();
        assert_eq!(uri.token.label.as_deref(), Some("my mesh"));
        assert_eq!(uri.token.serial.as_deref(), Some("1f"));
        assert_eq!(uri.object.as_deref(), Some("orders"));
        assert_eq!(uri.id.as_deref(), Some(&[1, 0xab][..]));
        assert_eq!(uri.module, Some("/usr/lib/p11.so".into()));
        assert_eq!(uri.pin_file, Some("/run/pin".into()));
        assert!(uri.token.matches("my mesh", "SoftHSM project", "SoftHSM v2", "1f"));
        assert!(!uri.token.matches("my mesh", "SoftHSM project", "SoftHSM v2", "1e"));
        assert_eq!(Pkcs11Uri::parse("PKCS11:").unwrap(), Pkcs11Uri::default());
        let file = Pkcs11Uri::parse("pkcs11:?pin-source=file:///run/pin").unwrap();
        assert_eq!(file.pin_file, Some("/run/pin".into()));
    }

    #[test]
    fn what_would_be_ignored_is_refused() {
        for (uri, says) in [
            ("file:/key.pem", "not a PKCS#11 URI"),
            ("pkcs11", "not a PKCS#11 URI"),
            ("pkcs11:token", "not NAME=VALUE"),
            ("pkcs11:token=a;token=b", "comes twice"),
            ("pkcs11:token=", "is empty"),
            ("pkcs11:token=%4", "without two digits"),
            ("pkcs11:token=%zz", "without two digits"),
            ("pkcs11:token=%ff", "is not UTF-8"),
            ("pkcs11:slot-id=3", "`slot-id` is not looked at"),
            ("pkcs11:type=cert", "something else than a private key"),
            ("pkcs11:object=a?pin-value=1234", "a PIN does not belong"),
            ("pkcs11:object=a?pin-source=|/bin/pin", "is not a file"),
            ("pkcs11:object=a?pin-source=https://vault/pin", "is not a file"),
            ("pkcs11:object=a?module-name=softhsm2", "says nothing about where"),
            ("pkcs11:object=a?x-vendor=1", "`x-vendor` is not looked at"),
        ] {
            let problem = Pkcs11Uri::parse(uri).unwrap_err();
            assert!(problem.message.contains(says), "{uri}: {}", problem.message);
        }
    }
}
