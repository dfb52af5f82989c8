//! What the server's answers say. Pure: bytes in, values or a reason out.
//!
//! Invariants: an answer of another form is a failure that shows its beginning, never a panic and
//! never half an answer; what is shown to people is short, one line, and holds nothing secret that
//! was sent.

use std::{fmt, time::Duration};

use bytes::Bytes;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, pem::PemObject as _};
use serde::{Deserialize, de::DeserializeOwned};
use zeroize::Zeroizing;

use super::review::Role;
use crate::{crl::Crl, pem};

/// Characters of an answer that people get to see.
const SHOWN_CHARS_MAX: usize = 300;
/// A secret shorter than this is not looked for in answers: it would blank out ordinary words.
const SECRET_CHARS_MIN: usize = 8;

/// One answer, whatever its status.
#[derive(Debug)]
pub(super) struct Answer {
    /// HTTP status.
    pub(super) status: u16,
    /// The wait the server asked for.
    pub(super) retry_after: Option<Duration>,
    /// The whole body.
    pub(super) body: Bytes,
}

/// An answer with a good status that cannot be used.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Unusable(pub(super) String);

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A token of the server and how long it lives.
pub(super) struct Lease {
    /// What goes into `X-Vault-Token`.
    pub(super) token: Zeroizing<String>,
    /// Seconds; 0 never ends.
    pub(super) life_s: u64,
    /// Whether it can be made to live longer.
    pub(super) renewable: bool,
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("life_s", &self.life_s)
            .field("renewable", &self.renewable)
            .finish_non_exhaustive()
    }
}

/// A signed certificate with the authorities above it.
#[derive(Debug)]
pub(super) struct Signed {
    /// The leaf.
    pub(super) leaf: CertificateDer<'static>,
    /// Its issuer first, up to whatever the server knows.
    pub(super) authorities: Vec<CertificateDer<'static>>,
}

#[derive(Deserialize)]
struct Enveloped<T> {
    data: Option<T>,
}

#[derive(Deserialize)]
struct LoginWire {
    auth: Option<AuthWire>,
}

#[derive(Deserialize)]
struct AuthWire {
    client_token: String,
    #[serde(default)]
    lease_duration: u64,
    #[serde(default)]
    renewable: bool,
}

#[derive(Deserialize)]
struct SignedWire {
    certificate: String,
    issuing_ca: Option<String>,
    ca_chain: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct KeysWire {
    keys: Vec<String>,
}

#[derive(Deserialize)]
struct IssuerWire {
    certificate: String,
    ca_chain: Option<Vec<String>>,
}

#[derive(Deserialize)]
struct ErrorsWire {
    errors: Vec<String>,
}

impl Answer {
    /// Whether the server did what was asked.
    pub(super) fn is_good(&self) -> bool {
        self.status == 200
    }

    /// Status and errors for people; `secrets` are what was sent and must not come back out.
    pub(super) fn shown(&self, secrets: &[&str]) -> String {
        let errors = serde_json::from_slice::<ErrorsWire>(&self.body).map(|wire| wire.errors);
        let text = match errors {
            Ok(errors) if errors.is_empty() => return format!("status {}", self.status),
            Ok(errors) => errors.join(", "),
            Err(_) if self.body.is_empty() => return format!("status {}", self.status),
            Err(_) => String::from_utf8_lossy(&self.body).into_owned(),
        };
        format!("status {}: {}", self.status, shorten(&withhold(text, secrets)))
    }

    /// The token of a login or of its renewal.
    pub(super) fn lease(&self) -> Result<Lease, Unusable> {
        let wire: LoginWire = self.json()?;
        let auth = wire.auth.ok_or_else(|| Unusable("the answer holds no `auth`".to_owned()))?;
        if auth.client_token.is_empty() || !auth.client_token.bytes().all(|b| b.is_ascii_graphic())
        {
            return Err(Unusable("the answer holds no usable `client_token`".to_owned()));
        }
        let AuthWire { client_token, lease_duration, renewable } = auth;
        Ok(Lease { token: Zeroizing::new(client_token), life_s: lease_duration, renewable })
    }

    /// The certificate that was asked for.
    pub(super) fn signed(&self) -> Result<Signed, Unusable> {
        let wire: SignedWire = self.data()?;
        let [leaf] = <[_; 1]>::try_from(certificates("certificate", &wire.certificate)?)
            .map_err(|found| Unusable(format!("`certificate` holds {} of them", found.len())))?;
        let mut above = wire.ca_chain.unwrap_or_default();
        if above.is_empty() {
            above.extend(wire.issuing_ca);
        }
        let authorities = chain("ca_chain", &above)?;
        Ok(Signed { leaf, authorities })
    }

    /// The names of a list.
    pub(super) fn keys(&self) -> Result<Vec<String>, Unusable> {
        let wire: KeysWire = self.data()?;
        let sound = |key: &String| {
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        match wire.keys.iter().find(|key| !sound(key)) {
            Some(key) => Err(Unusable(format!("`{}` is not the id of an issuer", shorten(key)))),
            None => Ok(wire.keys),
        }
    }

    /// One issuer and everything above it.
    pub(super) fn issuer(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        let wire: IssuerWire = self.data()?;
        let mut all = certificates("certificate", &wire.certificate)?;
        all.extend(chain("ca_chain", &wire.ca_chain.unwrap_or_default())?);
        Ok(all)
    }

    /// What a role allows.
    pub(super) fn role(&self) -> Result<Role, Unusable> {
        self.data()
    }

    /// Certificates that are the whole body, PEM.
    pub(super) fn pem_certificates(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        pem::certificates(&self.body)
            .map_err(|error| Unusable(format!("the body is not PEM: {error}")))
    }

    /// A revocation list that is the whole body, PEM.
    pub(super) fn pem_crl(&self) -> Result<Crl, Unusable> {
        CertificateRevocationListDer::from_pem_slice(&self.body)
            .map(|list| Crl::from_der(list.as_ref()))
            .map_err(|error| Unusable(format!("the body is not a revocation list: {error}")))
    }

    fn data<T: DeserializeOwned>(&self) -> Result<T, Unusable> {
        let envelope: Enveloped<T> = self.json()?;
        envelope.data.ok_or_else(|| Unusable("the answer holds no `data`".to_owned()))
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, Unusable> {
        // The text of the error shows no values, which may be secret.
        serde_json::from_slice(&self.body).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Data => "JSON of another form",
                _ => "not JSON",
            };
            let (line, column) = (error.line(), error.column());
            Unusable(format!("the answer is {what} (line {line}, column {column})"))
        })
    }
}

fn chain(field: &str, all: &[String]) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let each = all.iter().map(|text| certificates(field, text));
    Ok(each.collect::<Result<Vec<_>, _>>()?.concat())
}

fn certificates(field: &str, text: &str) -> Result<Vec<CertificateDer<'static>>, Unusable> {
    let found = pem::certificates(text.as_bytes())
        .map_err(|error| Unusable(format!("`{field}` is not PEM: {error}")))?;
    if found.is_empty() {
        return Err(Unusable(format!("`{field}` holds no certificate")));
    }
    Ok(found)
}

/// Takes out what we sent and nobody may read in a log.
fn withhold(text: String, secrets: &[&str]) -> String {
    let long = secrets.iter().filter(|secret| secret.len() >= SECRET_CHARS_MIN);
    long.fold(text, |text, secret| text.replace(*secret, "(withheld)"))
}

/// One line of bounded length without control characters.
fn shorten(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words: Vec<&str> = clean.split_whitespace().collect();
    let line = words.join(" ");
    match line.char_indices().nth(SHOWN_CHARS_MAX) {
        Some((end, _)) => format!("{}…", line.get(..end).unwrap_or_default()),
        None => line,
    }
}
