//! Logging in. Tokens lock themselves after a few wrong PINs, so one is tried once.
//!
//! Invariant: a PIN that was refused is not tried again before its file holds another one, and the
//! last try that a token grants is never ours to lose.

use std::{
    fs,
    path::Path,
    sync::{Mutex, PoisonError},
};

use cryptoki::{
    context::Pkcs11,
    error::{Error, RvError},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use zeroize::Zeroizing;

use super::trouble::Trouble;
use crate::bundle::sha256;

/// Bytes of a PIN file.
const PIN_BYTES_MAX: usize = 255;

/// What is known about the PIN of a token.
#[derive(Default)]
pub(super) struct Pin {
    /// Digest of the PIN that was refused. Holding the lock is the right to try one.
    refused: Mutex<Option<[u8; 32]>>,
}

impl Pin {
    /// Logs the user in, if the token wants that and nobody did yet.
    pub(super) fn login(
        &self,
        library: &Pkcs11,
        slot: Slot,
        session: &Session,
        file: Option<&Path>,
    ) -> Result<(), Trouble> {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let token = library.get_token_info(slot)?;
        if !token.login_required() {
            return Ok(());
        }
        let Some(file) = file else {
            return Err(Trouble::new(
                "C_Login",
                "the token asks for a PIN and none is configured",
                Some("name the file it stands in: `pinFile`, or `pin-source` in the URI"),
            ));
        };
        let pin = read(file)?;
        let digest = sha256(pin.as_bytes());
        if *refused == Some(digest) {
            return Err(Trouble::new(
                "C_Login",
                "PinIncorrect (not tried again)",
                Some("the PIN file is wrong; write the right PIN into it"),
            ));
        }
        if token.user_pin_locked() {
            return Err(Error::Pkcs11(RvError::PinLocked, LOGIN).into());
        }
        if token.user_pin_final_try() {
            return Err(Trouble::new(
                "C_Login",
                "one try is left before the token locks itself, so none is made",
                Some(
                    "log in once by hand with the right PIN (pkcs11-tool --login), which resets the count",
                ),
            ));
        }
        match session.login(UserType::User, Some(&AuthPin::from(pin.as_str()))) {
            Ok(()) | Err(Error::Pkcs11(RvError::UserAlreadyLoggedIn, _)) => Ok(()),
            Err(error) => {
                if let Error::Pkcs11(
                    RvError::PinIncorrect | RvError::PinInvalid | RvError::PinLenRange,
                    _,
                ) = error
                {
                    *refused = Some(digest);
                }
                Err(error.into())
            }
        }
    }
}

const LOGIN: cryptoki::context::Function = cryptoki::context::Function::Login;

fn read(file: &Path) -> Result<Zeroizing<String>, Trouble> {
    let unreadable = |answer: String| {
        Trouble::new(
            "read the PIN file",
            format!("{}: {answer}", file.display()),
            Some("it holds the user PIN and nothing else; check path, owner and mode"),
        )
    };
    let bytes = Zeroizing::new(fs::read(file).map_err(|error| unreadable(error.to_string()))?);
    if bytes.len() > PIN_BYTES_MAX {
        return Err(unreadable(format!("more than {PIN_BYTES_MAX} bytes")));
    }
    let text = std::str::from_utf8(&bytes).map_err(|_| unreadable("not UTF-8".to_owned()))?;
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}
