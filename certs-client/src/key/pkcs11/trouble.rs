//! What a module answers instead of a result, and what follows from it.

use cryptoki::{
    context::Function,
    error::{Error, RvError},
};

use super::super::KeyFailure;

/// Something did not work.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) call: &'static str,
    pub(super) answer: String,
    pub(super) hint: Option<&'static str>,
    pub(super) remedy: Remedy,
    /// The token could not be seen. It may be back in a moment.
    pub(super) unseen: bool,
}

/// What may help.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Remedy {
    /// To start the module again: whoever is behind it went away.
    Reconnect,
    /// To open the session again.
    Reopen,
    /// To look the object up again.
    Lookup,
    /// Nothing that this program can do.
    None,
}

impl Trouble {
    pub(super) fn new(
        call: &'static str,
        answer: impl Into<String>,
        hint: Option<&'static str>,
    ) -> Trouble {
        Trouble { call, answer: answer.into(), hint, remedy: Remedy::None, unseen: false }
    }

    pub(super) fn into_failure(self, holder: String) -> KeyFailure {
        KeyFailure { holder, call: self.call, answer: self.answer, hint: self.hint }
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        match error {
            Error::Pkcs11(answer, function) => Trouble {
                call: name(function),
                answer: format!("{answer:?}"),
                hint: hint(answer),
                remedy: remedy(answer),
                unseen: is_unreadable(answer, function),
            },
            Error::LibraryLoading(error) => Trouble::new(
                "load the module",
                error.to_string(),
                Some("does the file exist, is it a PKCS#11 module, and is this no static build?"),
            ),
            other => Trouble::new("call the module", other.to_string(), None),
        }
    }
}

/// What SoftHSM answers before a session is open, while another program writes to its token.
fn is_unreadable(answer: RvError, function: Function) -> bool {
    matches!(function, Function::GetTokenInfo | Function::OpenSession)
        && matches!(answer, RvError::GeneralError)
}

fn remedy(answer: RvError) -> Remedy {
    match answer {
        RvError::CryptokiNotInitialized
        | RvError::DeviceError
        | RvError::DeviceRemoved
        | RvError::GeneralError
        | RvError::SlotIdInvalid
        | RvError::TokenNotPresent => Remedy::Reconnect,
        RvError::OperationActive
        | RvError::SessionClosed
        | RvError::SessionHandleInvalid
        | RvError::UserNotLoggedIn => Remedy::Reopen,
        RvError::KeyHandleInvalid | RvError::ObjectHandleInvalid => Remedy::Lookup,
        _ => Remedy::None,
    }
}

fn hint(answer: RvError) -> Option<&'static str> {
    Some(match answer {
        RvError::PinIncorrect => {
            "the PIN file is wrong; it is not tried again until the file changes"
        }
        RvError::PinLocked => "the security officer must unlock the token",
        RvError::DeviceError | RvError::DeviceRemoved | RvError::TokenNotPresent => {
            "is the token plugged in, and does its server (p11-kit server) run?"
        }
        RvError::MechanismInvalid | RvError::CurveNotSupported => {
            "the token must know ECDSA on P-256"
        }
        RvError::KeyFunctionNotPermitted => "the key must have CKA_SIGN",
        RvError::TokenWriteProtected => "the token cannot make keys; make it writable",
        _ => return None,
    })
}

fn name(function: Function) -> &'static str {
    match function {
        Function::CloseSession => "C_CloseSession",
        Function::DestroyObject => "C_DestroyObject",
        Function::Finalize => "C_Finalize",
        Function::FindObjects => "C_FindObjects",
        Function::FindObjectsInit => "C_FindObjectsInit",
        Function::GenerateKeyPair => "C_GenerateKeyPair",
        Function::GetAttributeValue => "C_GetAttributeValue",
        Function::GetSlotList => "C_GetSlotList",
        Function::GetTokenInfo => "C_GetTokenInfo",
        Function::Initialize => "C_Initialize",
        Function::Login => "C_Login",
        Function::OpenSession => "C_OpenSession",
        Function::Sign => "C_Sign",
        Function::SignInit => "C_SignInit",
        _ => "a function of the module",
    }
}
