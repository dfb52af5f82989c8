//! What can go wrong before there is an answer, in words that say whose fault it is.

use std::{fmt, io};

use http::Method;
use rustls::CertificateError;

use super::Url;

/// A call that got no answer.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{call}: {problem}")]
pub struct HttpsError {
    /// `POST https://vault.example.com:8200/v1/pki/sign/orders`.
    pub call: String,
    /// What went wrong.
    pub problem: Problem,
}

impl HttpsError {
    pub(super) fn new(method: &Method, url: &Url, problem: Problem) -> HttpsError {
        HttpsError { call: format!("{method} {url}"), problem }
    }
}

/// Why there is no answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// The answer broke off, or is not HTTP.
    #[error("the answer broke off or is not HTTP: {0}")]
    Broken(String),
    /// Nobody listens there.
    #[error("cannot connect to {address}: {error}")]
    Connect {
        /// Host and port.
        address: String,
        /// What the system said.
        error: String,
    },
    /// Plain HTTP to another machine.
    #[error("http:// is for loopback only, because nobody would know who answers; use https://")]
    Plain,
    /// A redirect that is not followed.
    #[error("it redirects to {to}: {problem}")]
    Redirect {
        /// Where to.
        to: String,
        /// Why it is not followed.
        problem: String,
    },
    /// The request cannot be sent as it is.
    #[error("the request cannot be sent: {0}")]
    Request(String),
    /// The name has no address.
    #[error("cannot find the host {host}: {error}")]
    Resolve {
        /// The host.
        host: String,
        /// What the system said.
        error: String,
    },
    /// The file with the authorities of the server cannot be used.
    #[error("the file with the server's authorities cannot be used: {path}: {problem}")]
    Roots {
        /// The file.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The deadline passed.
    #[error("no complete answer within {after_ms} ms")]
    TimedOut {
        /// The deadline.
        after_ms: u64,
    },
    /// The server did not prove who it is.
    #[error("tls: {0}")]
    Tls(String),
    /// The answer does not fit.
    #[error("the answer is larger than {bytes_max} bytes")]
    TooLarge {
        /// What would fit.
        bytes_max: usize,
    },
}

/// What a failed handshake says, with the words an operator can act on.
pub(super) fn tls_problem(error: &io::Error, trusted: &dyn fmt::Display) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(error)) => certificate_problem(error, trusted),
        Some(error) => error.to_string(),
        None => innermost(error),
    }
}

fn certificate_problem(error: &CertificateError, trusted: &dyn fmt::Display) -> String {
    match error {
        // A rotated authority often keeps its name: then it is the signature that does not fit.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            format!("the server's certificate is not signed by an authority of {trusted}")
        }
        CertificateError::NotValidForName => "certificate not valid for name".to_owned(),
        CertificateError::NotValidForNameContext { expected, presented } => {
            let presented =
                if presented.is_empty() { "nothing".into() } else { presented.join(", ") };
            format!(
                "certificate not valid for name \"{}\", it is for {presented}",
                expected.to_str()
            )
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the server's certificate has ended ({error})")
        }
        CertificateError::Other(rustls::OtherError(why)) => {
            format!("the server's certificate is not accepted: {why}")
        }
        other => format!("the server's certificate is not accepted: {other}"),
    }
}

/// The last cause: what really happened.
pub(super) fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
