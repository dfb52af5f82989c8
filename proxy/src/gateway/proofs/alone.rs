//! All that is read of a DPoP proof, for one fixed request: the door of the fuzz target and of the
//! replay of its corpus. The token is the one of the example in RFC 9449 §7.1, bound to whatever key
//! the proof carries. Decides nothing.

use countersign_policy::doc::ProofRules;
use countersign_policy::path::CanonicalOptions;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue};

use super::target::{Schemes, Target};
use super::{Shown, dpop};
use crate::clock::Now;
use crate::gateway::strict_json;
use crate::gateway::user_cache::sha256;

/// The example's access token.
const TOKEN: &str = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU";
const HOST: &str = "resource.example.org";

/// Whether `bytes` pass as a whole proof, and as the claims of one.
pub fn proof(bytes: &[u8], now: Now) -> [bool; 2] {
    let (mut headers, rules) = (HeaderMap::new(), ProofRules::default());
    if let Ok(value) = HeaderValue::from_bytes(bytes) {
        headers.insert(dpop::FIELD, value);
    }
    let authority = Authority::from_static(HOST);
    let target = Target {
        method: "GET",
        schemes: Schemes::Https,
        authority: &authority,
        host: HOST,
        path: "/protectedresource",
        options: CanonicalOptions::default(),
    };
    let shown = Shown { headers: &headers, target, certificate_sha256: None };
    let token = sha256(TOKEN.as_bytes());
    let whole = dpop::check_by_its_own_key(&shown, &token, &rules, now).is_ok();
    let claims = strict_json::object(bytes)
        .is_ok_and(|claims| dpop::check_claims(&claims, &shown, &token, &rules, now).is_ok());
    [whole, claims]
}
