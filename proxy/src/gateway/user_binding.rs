//! What a user's token is bound to: the `cnf` claim (RFC 7800) of a verified token.
//! Invariant: a binding that nobody here can check refuses the token. Taking a bound token for one
//! that anybody may use is exactly what whoever stole it hopes for.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};

use super::identify::IdentifyError;

/// What must be proven before a token counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Binding {
    /// `jkt`: SHA-256 thumbprint (RFC 7638) of the key a DPoP proof is made with (RFC 9449 §6.1).
    pub key: Option<[u8; 32]>,
    /// `x5t#S256`: SHA-256 of the certificate the client presents (RFC 8705 §3.1).
    pub certificate: Option<[u8; 32]>,
}

impl Binding {
    /// Reads `cnf`; a token without it is bound to nothing.
    ///
    /// # Errors
    /// When it is no object, is empty, or asks for anything but the two known proofs.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Binding, IdentifyError> {
        let invalid = || IdentifyError::ClaimInvalid { claim: "cnf".to_owned() };
        let confirmation = match claims.get("cnf") {
            None => return Ok(Binding::default()),
            Some(Value::Object(members)) if !members.is_empty() => members,
            Some(_) => return Err(invalid()),
        };
        let mut binding = Binding::default();
        for (name, value) in confirmation {
            let place = match name.as_str() {
                "jkt" => &mut binding.key,
                "x5t#S256" => &mut binding.certificate,
                _ => return Err(IdentifyError::BindingUnknown),
            };
            *place = Some(thumbprint(value).ok_or_else(invalid)?);
        }
        Ok(binding)
    }

    /// Whether the token is worth nothing to whoever merely holds it.
    pub fn is_bound(self) -> bool {
        self.key.is_some() || self.certificate.is_some()
    }
}

fn thumbprint(value: &Value) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(value.as_str()?).ok()?.try_into().ok()
}
