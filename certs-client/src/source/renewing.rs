//! Sources where this process makes the key and asks an authority for a certificate.
//!
//! An [`Authority`] knows one protocol: it turns a request for a certificate into a certificate.
//! When to ask, with which key, how long to wait and what to do with the answer is the same for
//! all of them and decided here. Invariants: every attempt has a key pair of its own; what comes
//! back passes the gate like any delivery; a failure keeps the last good identity.

use std::{borrow::Cow, fmt, future::Future, time::Duration};

use countersign_workload_id::WorkloadId;
use rustls_pki_types::CertificateDer;
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use super::publish::{Failed, Publisher};
use crate::{
    bundle::TrustBundles,
    crl::Crl,
    csr::{self, Csr, CsrError},
    gate::{Delivered, GateError},
    key::{KeyError, KeyMaker, SigningKey},
    renewal::machine::{Event, Next},
};

/// One attempt, however many calls the authority needs for it.
const ATTEMPT_MAX: Duration = Duration::from_secs(60);

/// Who turns requests into certificates.
pub trait Authority: Send {
    /// Who it is, for people: `https://vault.example.com:8200`.
    fn name(&self) -> String;

    /// The life to ask for, in seconds.
    fn life_s(&self) -> u64;

    /// Asks once. Credentials are read again for every call; nothing is tried twice in here.
    ///
    /// # Errors
    /// [`IssueError`], which names the call and the answer.
    fn issue(
        &mut self,
        wanted: &Wanted<'_>,
    ) -> impl Future<Output = Result<Issued, IssueError>> + Send;
}

/// What a certificate is asked for with.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// The request, PEM (PKCS#10).
    pub csr_pem: &'a str,
    /// The request, DER.
    pub csr_der: &'a [u8],
    /// The identity that is expected, if the configuration names it; the request holds it too.
    pub expected: Option<&'a WorkloadId>,
    /// The life to ask for, in seconds.
    pub life_s: u64,
}

/// What an authority answered.
#[derive(Debug)]
pub struct Issued {
    /// Certificates, leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whom to trust, as far as the authority says.
    pub bundles: TrustBundles,
    /// Revocation lists that came along.
    pub crls: Vec<Crl>,
}

/// Why no certificate came.
#[derive(Clone, Debug)]
pub struct IssueError {
    /// What was asked: `POST /v1/pki/sign/orders`, `create CertificateSigningRequest`.
    pub call: &'static str,
    /// What came back, for people.
    pub answer: String,
    /// What somebody can do about it.
    pub hint: Option<Cow<'static, str>>,
    /// When the authority wants to be asked again.
    pub retry_after: Option<Duration>,
    /// What it means.
    pub verdict: IssueVerdict,
}

/// What a failed request means for what we hold and what comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IssueVerdict {
    /// Ask again after a wait; what we hold stays.
    Retry,
    /// The authority says that this identity is no longer ours: stop using it, and ask again
    /// after a wait.
    Withdrawn,
    /// The answer will not change until somebody changes something here: do not ask again.
    Never,
}

impl IssueError {
    /// A failure that is worth another try.
    pub fn retry(call: &'static str, answer: impl Into<String>) -> IssueError {
        IssueError {
            call,
            answer: answer.into(),
            hint: None,
            retry_after: None,
            verdict: IssueVerdict::Retry,
        }
    }

    /// The same with what somebody can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> IssueError {
        self.hint = Some(hint.into());
        self
    }

    /// The same with the wait the authority asked for.
    #[must_use]
    pub fn after(mut self, wait: Option<Duration>) -> IssueError {
        self.retry_after = wait;
        self
    }

    /// The same with another meaning.
    #[must_use]
    pub fn verdict(mut self, verdict: IssueVerdict) -> IssueError {
        self.verdict = verdict;
        self
    }
}

impl fmt::Display for IssueError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.call, self.answer)
    }
}

impl From<KeyError> for IssueError {
    fn from(error: KeyError) -> IssueError {
        IssueError::retry("make a key pair", error.to_string())
    }
}

impl From<CsrError> for IssueError {
    fn from(error: CsrError) -> IssueError {
        IssueError::retry("sign the request", error.to_string())
    }
}

/// Keeps an identity of `authority` published for as long as the process lives; returns only when
/// asking again is pointless.
pub(crate) async fn run<A: Authority>(publisher: &Publisher, mut authority: A, keys: &KeyMaker) {
    let name = authority.name();
    loop {
        match publisher.next() {
            Next::Stop => return,
            Next::Wait(wait) => sleep(wait).await,
            Next::Ask { .. } => {
                publisher.asks();
                if let Err(error) = once(publisher, &mut authority, keys).await {
                    report(publisher, &name, error);
                }
            }
        }
    }
}

fn report(publisher: &Publisher, authority: &str, error: IssueError) {
    let IssueError { call, answer, hint, retry_after, verdict } = error;
    let event = match verdict {
        IssueVerdict::Retry => Event::Failed { retry_after },
        IssueVerdict::Withdrawn => {
            publisher.withdraw_identity();
            Event::Failed { retry_after }
        }
        IssueVerdict::Never => Event::Refused,
    };
    publisher.attempt_failed(Failed { authority, call, answer, hint }, event);
}

/// One attempt: a new key pair, a request for it, and the answer through the gate.
async fn once<A: Authority>(
    publisher: &Publisher,
    authority: &mut A,
    keys: &KeyMaker,
) -> Result<(), IssueError> {
    let expected = publisher.expected_id();
    let (key, csr) = sign_request(keys.clone(), expected.cloned()).await?;
    let wanted =
        Wanted { csr_pem: &csr.pem, csr_der: &csr.der, expected, life_s: authority.life_s() };
    let issued = timeout(ATTEMPT_MAX, authority.issue(&wanted)).await.map_err(|_| {
        IssueError::retry("issue", format!("no certificate within {} s", ATTEMPT_MAX.as_secs()))
    })??;
    deliver(publisher, key, issued)
        .map_err(|error| IssueError::retry("check the certificate", error.to_string()))
}

/// A token may take its time, so not on the thread that runs everything else.
async fn sign_request(
    keys: KeyMaker,
    expected: Option<WorkloadId>,
) -> Result<(SigningKey, Csr), IssueError> {
    let made = spawn_blocking(move || {
        let key = keys.make()?;
        let csr = csr::request(&key, expected.as_ref())?;
        Ok((key, csr))
    });
    made.await
        .unwrap_or_else(|_| Err(IssueError::retry("make a key pair", "the attempt broke off")))
}

fn deliver(publisher: &Publisher, key: SigningKey, issued: Issued) -> Result<(), GateError> {
    let Issued { chain, bundles, crls } = issued;
    publisher.deliver(Delivered { chain, key, crls }, bundles)
}
