//! A key that somebody put into the token: found by label or id, proven by a signature.
//!
//! Invariant: it signs only after one of its signatures verified with the public key it must
//! have, again after each time it was looked up anew. A replaced key is noticed, not used.

use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::{
    digest,
    signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey},
};
use countersign_config::pkcs11::Pkcs11Key;
use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType as TokenKeyType, ObjectClass, ObjectHandle},
    session::Session,
};
use tracing::warn;

use super::{
    super::{ExternalKey, KeyFailure, KeyType},
    token::{Open, Token},
    trouble::{Remedy, Trouble},
};

/// `prime256v1` as `CKA_EC_PARAMS`: its object identifier, DER.
pub(super) const P256: [u8; 10] = [0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];

/// Keys of one name that are tried.
const CANDIDATES_MAX: usize = 8;
/// Keys that are named in a message about one that is not there.
const NAMED_MAX: usize = 8;

/// A key in a token.
pub(super) struct FoundKey {
    token: Arc<Token>,
    state: Arc<State>,
}

struct State {
    key: Pkcs11Key,
    public_key: Vec<u8>,
    /// Where it was found, and in which start of the module.
    handle: Mutex<Option<(u64, ObjectHandle)>>,
}

impl FoundKey {
    pub(super) fn new(token: Arc<Token>, key: Pkcs11Key, public_key: Vec<u8>) -> FoundKey {
        let state = Arc::new(State { key, public_key, handle: Mutex::default() });
        FoundKey { token, state }
    }

    /// Looks the key up and has it prove itself.
    pub(super) fn look_up(&self) -> Result<(), Trouble> {
        let state = Arc::clone(&self.state);
        self.token.in_the_background("C_FindObjects", move |open| {
            state.forget();
            state.handle(open).map(drop)
        })
    }
}

impl ExternalKey for FoundKey {
    fn key_type(&self) -> KeyType {
        KeyType::P256
    }

    fn public_key(&self) -> &[u8] {
        &self.state.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyFailure> {
        let digest = sha256(message);
        let state = Arc::clone(&self.state);
        self.token
            .on_data_path(move |open| {
                let handle = state.handle(open)?;
                let result = sign(open.session, handle, &digest);
                if matches!(&result, Err(trouble) if trouble.remedy == Remedy::Lookup) {
                    state.forget();
                }
                result
            })
            .map_err(|trouble| trouble.into_failure(self.state.key.to_string()))
    }
}

impl std::fmt::Debug for FoundKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.state.key)
    }
}

impl State {
    fn forget(&self) {
        *self.handle.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn handle(&self, open: &Open<'_>) -> Result<ObjectHandle, Trouble> {
        let mut held = self.handle.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((epoch, handle)) = *held
            && epoch == open.module.epoch()
        {
            return Ok(handle);
        }
        let handle = self.find(open)?;
        *held = Some((open.module.epoch(), handle));
        Ok(handle)
    }

    /// The one that belongs to the certificate: while keys rotate, two have the name.
    fn find(&self, open: &Open<'_>) -> Result<ObjectHandle, Trouble> {
        let candidates = candidates(open.session, &self.key)?;
        let proven = |handle: ObjectHandle| {
            check(open.session, handle, &self.key)?;
            self.prove(open, handle).map(|()| handle)
        };
        match candidates.as_slice() {
            [handle] => proven(*handle),
            [] => Err(Trouble::new(
                "C_FindObjects",
                format!("no private key of this name; there {}", others(open.session)?),
                Some("was it made, and does the PIN open the right token?"),
            )),
            many => {
                let found = many.iter().take(CANDIDATES_MAX).find_map(|one| proven(*one).ok());
                found.ok_or_else(|| {
                    Trouble::new(
                        "C_FindObjects",
                        format!("{} private keys have this name, and none signs for the certificate", many.len()),
                        Some("name one by `id` as well as `object`; was the certificate issued for another key?"),
                    )
                })
            }
        }
    }

    /// One signature over something nobody can use, verified with the key of the certificate.
    fn prove(&self, open: &Open<'_>, handle: ObjectHandle) -> Result<(), Trouble> {
        const MESSAGE: &[u8] = b"countersign: does this key belong to the certificate?";
        let signature = sign(open.session, handle, &sha256(MESSAGE))?;
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.public_key)
            .verify(MESSAGE, &signature)
            .map_err(|_| {
                Trouble::new(
                    "C_Sign",
                    "its signature does not fit the public key of the certificate",
                    Some("was the certificate issued for another key?"),
                )
            })
    }
}

/// SHA-256; `CKM_ECDSA` signs digests.
pub(super) fn sha256(message: &[u8]) -> Vec<u8> {
    digest::digest(&digest::SHA256, message).as_ref().to_vec()
}

/// Signs a digest; `r‖s`.
pub(super) fn sign(
    session: &Session,
    key: ObjectHandle,
    digest: &[u8],
) -> Result<Vec<u8>, Trouble> {
    Ok(session.sign(&Mechanism::Ecdsa, key, digest)?)
}

/// The private keys of this name.
fn candidates(session: &Session, key: &Pkcs11Key) -> Result<Vec<ObjectHandle>, Trouble> {
    let mut template = vec![Attribute::Class(ObjectClass::PRIVATE_KEY)];
    template.extend(key.object.as_ref().map(|label| Attribute::Label(label.as_bytes().to_vec())));
    template.extend(key.id.as_ref().map(|id| Attribute::Id(id.clone())));
    Ok(session.find_objects(&template)?)
}

/// The type must be right; a key that could be read out is worth a word.
fn check(session: &Session, handle: ObjectHandle, key: &Pkcs11Key) -> Result<(), Trouble> {
    let mut curve = None;
    let wanted = [AttributeType::KeyType];
    if let Some(Attribute::KeyType(kind)) = session.get_attributes(handle, &wanted)?.first()
        && *kind != TokenKeyType::EC
    {
        return Err(unsupported(&format!("the key is {kind}")));
    }
    let flags = [
        AttributeType::EcParams,
        AttributeType::AlwaysAuthenticate,
        AttributeType::Extractable,
        AttributeType::Sensitive,
    ];
    let mut readable = false;
    for attribute in session.get_attributes(handle, &flags)? {
        match attribute {
            Attribute::EcParams(parameters) => curve = Some(parameters),
            Attribute::AlwaysAuthenticate(true) => {
                return Err(Trouble::new(
                    "C_GetAttributeValue",
                    "the key wants the PIN for every signature",
                    Some("make it without CKA_ALWAYS_AUTHENTICATE"),
                ));
            }
            Attribute::Extractable(true) | Attribute::Sensitive(false) => readable = true,
            _ => {}
        }
    }
    if readable {
        warn!(%key, "the key can be read out of its token: make it sensitive and not extractable");
    }
    match curve {
        Some(curve) if curve != P256 => Err(unsupported("the key is on another curve")),
        _ => Ok(()),
    }
}

fn unsupported(answer: &str) -> Trouble {
    Trouble::new(
        "C_GetAttributeValue",
        format!("{answer}; ECDSA P-256 is needed"),
        Some("pkcs11-tool --keypairgen --key-type EC:prime256v1"),
    )
}

/// The names of the private keys that are there, for a message.
fn others(session: &Session) -> Result<String, Trouble> {
    let keys = session.find_objects(&[Attribute::Class(ObjectClass::PRIVATE_KEY)])?;
    let mut names = Vec::new();
    for key in keys.iter().take(NAMED_MAX) {
        for attribute in session.get_attributes(*key, &[AttributeType::Label])? {
            if let Attribute::Label(label) = attribute {
                names.push(format!("\"{}\"", String::from_utf8_lossy(&label)));
            }
        }
    }
    Ok(if names.is_empty() { "is none".to_owned() } else { format!("are {}", names.join(", ")) })
}
