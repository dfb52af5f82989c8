//! Keys that are made in the token for one certificate and end with it.
//!
//! They are session objects: the token forgets them when their session closes, also when this
//! process dies. Tokens without such objects (TPMs) get token objects, which are destroyed.
//! Invariant: sensitive, not extractable, of no use for anything but signing.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};
use cryptoki::{
    mechanism::Mechanism,
    object::{Attribute, AttributeType, KeyType as TokenKeyType, ObjectClass, ObjectHandle},
    session::Session,
};

use super::{
    super::{ExternalKey, KeyFailure, KeyType},
    find::{P256, sha256, sign},
    module::Entered,
    token::{Access, Open, Token},
    trouble::{Remedy, Trouble},
};

/// Bytes of an uncompressed P-256 point.
const POINT_BYTES: usize = 65;

/// What keeps a made key in the token.
pub(super) struct Keeper {
    epoch: u64,
    session: Session,
    private: ObjectHandle,
    public: ObjectHandle,
    lasting: bool,
}

impl Keeper {
    /// Ends the key.
    pub(super) fn destroy(self, module: &Entered<'_>) {
        if module.epoch() != self.epoch && !self.lasting {
            return; // it ended with the start of the module it was made in
        }
        if self.lasting && module.epoch() == self.epoch {
            for object in [self.private, self.public] {
                // What cannot be destroyed is named in the documentation, with its label.
                let _ = self.session.destroy_object(object);
            }
        }
        if module.epoch() == self.epoch {
            let _ = self.session.close();
        }
    }
}

/// A key that was made here.
pub(super) struct MadeKey {
    token: Arc<Token>,
    public_key: Vec<u8>,
    epoch: u64,
    private: ObjectHandle,
    keeper: Mutex<Option<Keeper>>,
    lost: Arc<AtomicBool>,
}

/// Makes a key on a thread of the token.
pub(super) fn make(token: &Arc<Token>) -> Result<MadeKey, Trouble> {
    let (keeper, public_key) = token.in_the_background("C_GenerateKeyPair", generate)?;
    Ok(MadeKey {
        token: Arc::clone(token),
        public_key,
        epoch: keeper.epoch,
        private: keeper.private,
        keeper: Mutex::new(Some(keeper)),
        lost: Arc::default(),
    })
}

impl ExternalKey for MadeKey {
    fn key_type(&self) -> KeyType {
        KeyType::P256
    }

    fn public_key(&self) -> &[u8] {
        &self.public_key
    }

    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyFailure> {
        let digest = sha256(message);
        let (epoch, private, lost) = (self.epoch, self.private, Arc::clone(&self.lost));
        self.token
            .on_data_path(move |open| {
                if open.module.epoch() != epoch {
                    lost.store(true, Ordering::Relaxed);
                }
                if lost.load(Ordering::Relaxed) {
                    return Err(gone());
                }
                sign(open.session, private, &digest).map_err(|trouble| {
                    if trouble.remedy == Remedy::Lookup {
                        lost.store(true, Ordering::Relaxed);
                        return gone();
                    }
                    trouble
                })
            })
            .map_err(|trouble| self.token.failure(trouble))
    }

    fn is_usable(&self) -> bool {
        !self.lost.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for MadeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "key made in {}", self.token.shared.config)
    }
}

impl Drop for MadeKey {
    fn drop(&mut self) {
        let keeper = self.keeper.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(keeper) = keeper {
            self.token.discard(keeper);
        }
    }
}

fn gone() -> Trouble {
    Trouble::new(
        "C_Sign",
        "the key ended with the connection to its token",
        Some("a new key and certificate are asked for at once"),
    )
}

fn generate(open: &Open<'_>) -> Result<(Keeper, Vec<u8>), Trouble> {
    let session = open.shared.open(open.module, Access::Write)?;
    match pair(&session) {
        Ok((public, private, lasting)) => {
            let keeper = Keeper { epoch: open.module.epoch(), session, private, public, lasting };
            match point(&keeper.session, public) {
                Ok(point) => Ok((keeper, point)),
                Err(trouble) => {
                    keeper.destroy(open.module);
                    Err(trouble)
                }
            }
        }
        Err(trouble) => {
            let _ = session.close();
            Err(trouble)
        }
    }
}

/// Public and private half, and whether they are token objects.
fn pair(session: &Session) -> Result<(ObjectHandle, ObjectHandle, bool), Trouble> {
    let mut id = [0; 16];
    SystemRandom::new()
        .fill(&mut id)
        .map_err(|_| Trouble::new("C_GenerateKeyPair", "no randomness for an id", None))?;
    let generate = |lasting| {
        let (public, private) = templates(&id, lasting);
        session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)
    };
    match generate(false) {
        Ok((public, private)) => Ok((public, private, false)),
        Err(first) => match generate(true) {
            Ok((public, private)) => Ok((public, private, true)),
            Err(_) => Err(first.into()),
        },
    }
}

fn templates(id: &[u8], lasting: bool) -> (Vec<Attribute>, Vec<Attribute>) {
    let shared = [
        Attribute::Token(lasting),
        Attribute::KeyType(TokenKeyType::EC),
        Attribute::Label(b"countersign".to_vec()),
        Attribute::Id(id.to_vec()),
    ];
    let public = [
        Attribute::Class(ObjectClass::PUBLIC_KEY),
        Attribute::EcParams(P256.to_vec()),
        Attribute::Verify(true),
    ];
    let private = [
        Attribute::Class(ObjectClass::PRIVATE_KEY),
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ];
    ([&shared[..], &public[..]].concat(), [&shared[..], &private[..]].concat())
}

/// The public point. The standard wraps it into an OCTET STRING, some tokens do not.
fn point(session: &Session, public: ObjectHandle) -> Result<Vec<u8>, Trouble> {
    let attributes = session.get_attributes(public, &[AttributeType::EcPoint])?;
    let Some(Attribute::EcPoint(der)) = attributes.first() else {
        return Err(Trouble::new("C_GetAttributeValue", "no CKA_EC_POINT", None));
    };
    let point = der.strip_prefix(&[0x04, 0x41]).filter(|point| point.len() == POINT_BYTES);
    let point = point.unwrap_or(der);
    if point.len() != POINT_BYTES || point.first() != Some(&0x04) {
        let answer = format!("CKA_EC_POINT of {} bytes is no point of P-256", der.len());
        return Err(Trouble::new("C_GetAttributeValue", answer, None));
    }
    Ok(point.to_vec())
}
