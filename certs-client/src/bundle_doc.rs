//! The SPIFFE bundle document: a JWK set with the authorities of one trust domain.
//!
//! Read whole or not at all. Entries of unknown kind are skipped, as the format asks; an entry of a
//! kind we know that breaks its rules refuses the document, so that an authority is never missing
//! by mistake. Invariant: an authority for certificates is never taken for a key of tokens, nor the
//! reverse; a document says nothing about which trust domain it is for.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use countersign_config::limits::{JWKS_BYTES_MAX, JWKS_KEYS_MAX};
use countersign_workload_id::TrustDomain;
use rustls_pki_types::CertificateDer;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    bundle::{Bundle, BundleError},
    bundle_map,
    jwt_bundle::{JwksForm, JwtBundle},
};

/// What one bundle document says.
#[derive(Clone, Debug, PartialEq)]
pub struct BundleDoc {
    /// The authorities; `None`: the document lists none, so nothing of that domain is valid.
    pub authorities: Option<Bundle>,
    /// The keys for JWT-SVIDs.
    pub jwt_keys: Option<JwtBundle>,
    /// `spiffe_sequence`: grows with each change, where the endpoint keeps count.
    pub sequence: Option<u64>,
    /// `spiffe_refresh_hint`, seconds.
    pub refresh_hint_s: Option<u64>,
}

#[derive(Deserialize)]
struct DocWire {
    keys: Vec<KeyWire>,
    spiffe_sequence: Option<u64>,
    spiffe_refresh_hint: Option<u64>,
}

/// One JWK. Members we look at may have any type: in an entry to be skipped nothing is wrong.
#[derive(Clone, Deserialize)]
pub(crate) struct KeyWire {
    #[serde(rename = "use")]
    key_use: Option<Value>,
    kty: Option<Value>,
    kid: Option<Value>,
    x5c: Option<Value>,
}

/// The key types of certificates that can be verified at all.
const KEY_TYPES: &[&str] = &["EC", "OKP", "RSA"];

impl KeyWire {
    /// B-5: the authority of an entry for certificates; `None` if it is for something else, or of
    /// a kind that is not known (B-4).
    pub(crate) fn authority(&self) -> Option<Result<CertificateDer<'static>, &'static str>> {
        let kty = self.kty.as_ref().and_then(Value::as_str)?;
        let key_use = self.key_use.as_ref().and_then(Value::as_str)?;
        (KEY_TYPES.contains(&kty) && key_use == "x509-svid").then(|| self.x509())
    }

    fn x509(&self) -> Result<CertificateDer<'static>, &'static str> {
        if self.kid.is_some() {
            return Err("an x509-svid key has a kid");
        }
        let chain = self.x5c.as_ref().ok_or("an x509-svid key has no x5c")?;
        let first = chain.as_array().and_then(|chain| chain.first());
        let first = first.ok_or("an x509-svid key has an empty x5c")?;
        let first = first.as_str().ok_or("x5c is not text")?;
        STANDARD.decode(first).map(CertificateDer::from).map_err(|_| "x5c is not base64")
    }
}

impl BundleDoc {
    /// Reads a document (B-1 to B-6).
    ///
    /// # Errors
    /// When it is none, or an entry of a known kind breaks the rules of that kind.
    pub fn parse(text: &[u8]) -> Result<BundleDoc, BundleError> {
        let bad = |problem: String| BundleError::BadDocument(problem);
        if text.len() > JWKS_BYTES_MAX {
            return Err(bad(format!("{} bytes, the limit is {JWKS_BYTES_MAX}", text.len())));
        }
        let wire: DocWire = serde_json::from_slice(text).map_err(|error| bad(error.to_string()))?;
        if wire.keys.len() > JWKS_KEYS_MAX {
            return Err(bad(format!("{} keys, the limit is {JWKS_KEYS_MAX}", wire.keys.len())));
        }
        let faulty = |problem: &str| bad(problem.to_owned());
        let authorities = wire
            .keys
            .iter()
            .filter_map(KeyWire::authority)
            .collect::<Result<Vec<_>, _>>()
            .map_err(faulty)?;
        let tokens = JwtBundle::parse(text, JwksForm::SpiffeBundle);
        let tokens = tokens.map_err(|error| bad(error.to_string()))?;
        let authorities = match authorities.is_empty() {
            true => None,
            false => Some(Bundle::from_certificates(authorities)?),
        };
        Ok(BundleDoc {
            authorities,
            jwt_keys: Some(tokens).filter(|tokens| !tokens.kids().is_empty()),
            sequence: wire.spiffe_sequence,
            refresh_hint_s: wire.spiffe_refresh_hint,
        })
    }

    /// Reads a file about one trust domain: PEM authorities, a bundle document, or a bundle map.
    ///
    /// # Errors
    /// When it is none of these, or does not speak of `domain`.
    pub fn of_file(text: &[u8], domain: &TrustDomain) -> Result<BundleDoc, BundleError> {
        if text.iter().find(|byte| !byte.is_ascii_whitespace()) != Some(&b'{') {
            return Ok(BundleDoc::of_authorities(Some(Bundle::from_pem(text)?)));
        }
        let is_map = serde_json::from_slice::<Value>(text)
            .is_ok_and(|value| value.get("trust_domains").is_some());
        if !is_map {
            return BundleDoc::parse(text);
        }
        let mut all = bundle_map::named(text)?;
        let missing = || BundleError::BadMap(format!("it does not speak of \"{domain}\""));
        all.remove(domain).map(BundleDoc::of_authorities).ok_or_else(missing)
    }

    fn of_authorities(authorities: Option<Bundle>) -> BundleDoc {
        BundleDoc { authorities, jwt_keys: None, sequence: None, refresh_hint_s: None }
    }

    /// The document of these authorities, as a bundle endpoint serves it. Keys of ours are not in
    /// it: the format has no place for them.
    pub fn render(
        authorities: &[CertificateDer<'_>],
        sequence: u64,
        refresh_hint_s: u64,
    ) -> Result<String, BundleError> {
        let keys: Vec<Value> = authorities
            .iter()
            .enumerate()
            .map(|(index, der)| {
                let detail = |detail: String| BundleError::BadCertificate {
                    position: index.saturating_add(1),
                    detail,
                };
                jwk(der).map_err(detail)
            })
            .collect::<Result<_, _>>()?;
        let document = json!({
            "keys": keys, "spiffe_sequence": sequence, "spiffe_refresh_hint": refresh_hint_s,
        });
        Ok(format!("{document:#}\n"))
    }
}

/// An authority as a JWK: its certificate, and its public key as the format asks for it.
fn jwk(der: &CertificateDer<'_>) -> Result<Value, String> {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use x509_parser::prelude::FromDer as _;

    let (_, certificate) =
        x509_parser::prelude::X509Certificate::from_der(der).map_err(|error| error.to_string())?;
    let mut jwk = json!({"use": "x509-svid", "x5c": [STANDARD.encode(der)]});
    let point = &certificate.public_key().subject_public_key.data;
    let (Some(x), Some(y), 65) = (point.get(1..33), point.get(33..65), point.len()) else {
        return Err("only authorities on P-256 are served".to_owned());
    };
    jwk["kty"] = json!("EC");
    jwk["crv"] = json!("P-256");
    jwk["x"] = json!(URL_SAFE_NO_PAD.encode(x));
    jwk["y"] = json!(URL_SAFE_NO_PAD.encode(y));
    Ok(jwk)
}
