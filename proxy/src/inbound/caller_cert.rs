//! Tells the app the certificate of the workload that calls, for apps that read it in a header:
//! Envoy's `X-Forwarded-Client-Cert`, and `Client-Cert` with `Client-Cert-Chain` of RFC 9440.
//!
//! Invariant: hygiene took out whatever the sender wrote under these names, so what the app reads
//! is of the handshake of this very connection; without a mesh peer there is nothing to say.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use countersign_config::{CallerCertificate, limits};
use countersign_workload_id::WorkloadId;
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::refusal::{Refusal, Refused, Stage};
use crate::tls::peer::MeshPeer;

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const CLIENT_CERT: HeaderName = HeaderName::from_static("client-cert");
const CLIENT_CERT_CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");

/// Adds the headers this process is configured to give.
///
/// # Errors
/// `context_too_large` where the certificates are too large for headers; nothing is truncated.
pub(super) fn describe(
    headers: &mut HeaderMap,
    which: &[CallerCertificate],
    peer: &MeshPeer,
    me: Option<&WorkloadId>,
) -> Result<(), Refused> {
    let mut bytes = 0;
    for one in which {
        let (name, text) = match one {
            CallerCertificate::Xfcc => (XFCC, Some(xfcc(peer, me))),
            CallerCertificate::ClientCert => (CLIENT_CERT, list(peer, 0..1)),
            CallerCertificate::ClientCertChain => (CLIENT_CERT_CHAIN, list(peer, 1..usize::MAX)),
        };
        let Some(text) = text else { continue };
        bytes += name.as_str().len() + text.len() + 4;
        if bytes > limits::CALLER_CERTIFICATE_BYTES_MAX {
            return Err(refuse(format!("{bytes} bytes of the caller's certificates")));
        }
        let value = HeaderValue::try_from(text).map_err(|error| refuse(error.to_string()))?;
        headers.insert(name, value);
    }
    Ok(())
}

/// One element, as Envoy writes it: who was called, hash of the leaf, who calls. SPIFFE IDs have
/// no character that would need quotes here.
fn xfcc(peer: &MeshPeer, me: Option<&WorkloadId>) -> String {
    let mut text = String::with_capacity(256);
    if let Some(me) = me {
        text.push_str("By=");
        text.push_str(me.as_str());
        text.push(';');
    }
    text.push_str("Hash=");
    for byte in peer.leaf_sha256() {
        // Writing to a `String` cannot fail.
        let _ = write!(text, "{byte:02x}");
    }
    text.push_str(";URI=");
    text.push_str(peer.id().as_str());
    text
}

/// Certificates as byte sequences of RFC 8941; `None` if there are none.
fn list(peer: &MeshPeer, which: std::ops::Range<usize>) -> Option<String> {
    let chain = peer.chain().der().iter().skip(which.start).take(which.len());
    let items: Vec<String> = chain.map(|der| format!(":{}:", STANDARD.encode(der))).collect();
    (!items.is_empty()).then(|| items.join(", "))
}

fn refuse(detail: String) -> Refused {
    Refused::new(Refusal::ContextTooLarge, Stage::Enrich, detail)
}
