//! What a client is told to come back with: `WWW-Authenticate` by the schemes the gateway's
//! providers take (RFC 6750 §3, RFC 9449 §7.1), and a nonce where one is wanted.

use countersign_policy::doc::{BearerTokens, Demand, UserAlgorithm};
use http::HeaderValue;
use http::header::{HeaderName, WWW_AUTHENTICATE};

use super::{ProofError, Proofs};
use crate::clock::Now;
use crate::gateway::identify::{IdentifyError, UserVerifier};
use crate::refusal::Refused;

/// Carries a nonce to the client.
pub const NONCE: HeaderName = HeaderName::from_static("dpop-nonce");

/// Adds the challenges to the refusal of a token.
pub fn of_token(refused: Refused, error: &IdentifyError, users: &UserVerifier) -> Refused {
    let told = match error {
        IdentifyError::KeysUnavailable { .. } => return refused,
        IdentifyError::Missing => None,
        _ => Some("invalid_token"),
    };
    let Some(algorithms) = dpop_algorithms(users) else { return refused };
    let refused = if takes_bearer(users) {
        let bearer = told.map_or("Bearer".to_owned(), |error| format!("Bearer error=\"{error}\""));
        challenged(refused, &bearer)
    } else {
        refused
    };
    challenged(refused, &dpop(told, &algorithms))
}

/// Adds the challenge to the refusal of a proof.
pub fn of_proof(error: ProofError, users: &UserVerifier, proofs: &Proofs, now: Now) -> Refused {
    let refused = error.refused();
    let told = match error {
        ProofError::AlgorithmNotPermitted
        | ProofError::FromTheFuture { .. }
        | ProofError::KeyWrong
        | ProofError::Malformed(_)
        | ProofError::MethodWrong
        | ProofError::Missing
        | ProofError::Repeated
        | ProofError::Replayed
        | ProofError::SignatureInvalid
        | ProofError::TokenWrong
        | ProofError::TooOld { .. }
        | ProofError::UrlWrong => "invalid_dpop_proof",
        ProofError::NonceWanted => "use_dpop_nonce",
        ProofError::NotBound
        | ProofError::NotBoundToKey
        | ProofError::NotTaken { .. }
        | ProofError::SentAsBearer => "invalid_token",
        ProofError::CertificateMissing
        | ProofError::CertificateRevoked
        | ProofError::CertificateWrong
        | ProofError::NoPlaceForProof
        | ProofError::TooMany => return refused,
    };
    let Some(algorithms) = dpop_algorithms(users) else { return refused };
    let refused = challenged(refused, &dpop(Some(told), &algorithms));
    match proofs.nonce(now).filter(|_| error == ProofError::NonceWanted) {
        Some(nonce) => refused.answering(NONCE, nonce),
        None => refused,
    }
}

fn dpop(error: Option<&str>, algorithms: &str) -> String {
    let error = error.map(|error| format!("error=\"{error}\", ")).unwrap_or_default();
    format!("DPoP {error}algs=\"{algorithms}\"")
}

fn challenged(refused: Refused, challenge: &str) -> Refused {
    match HeaderValue::from_str(challenge) {
        Ok(value) => refused.answering(WWW_AUTHENTICATE, value),
        Err(_) => refused,
    }
}

/// The algorithms of proofs some provider takes; `None` where none takes proofs.
fn dpop_algorithms(users: &UserVerifier) -> Option<String> {
    let mut rules = users.sender_rules().filter(|rules| rules.dpop != Demand::Off).peekable();
    rules.peek()?;
    let taken: Vec<UserAlgorithm> =
        rules.flat_map(|rules| rules.proofs.algorithms.clone()).collect();
    let names = UserAlgorithm::ALL.iter().filter(|(_, algorithm)| taken.contains(algorithm));
    let names: Vec<&str> = names.map(|(name, _)| *name).collect();
    Some(names.join(" "))
}

/// Whether some provider's tokens count when sent as `Bearer`.
fn takes_bearer(users: &UserVerifier) -> bool {
    users.sender_rules().any(|rules| {
        rules.dpop != Demand::Required
            && (rules.bearer == BearerTokens::Taken || rules.mtls != Demand::Off)
    })
}
