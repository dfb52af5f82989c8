//! Every file of the fuzz corpora of the gateway, replayed: read or refused, never a panic.

use std::fs;
use std::path::Path;

use countersign_certs_client::{JwksForm, JwtBundle};

use super::issuer::b64;
use crate::clock::Now;
use crate::gateway::callers::jwt_svid::SvidKeys;
use crate::gateway::callers::unproven::{service_account_token, token_review};
use crate::gateway::proofs::alone;

const AUDIENCE: &str = "countersign.dev/prod.example.com";
/// When the tokens of the corpus live.
const NOW: Now = Now::from_micros(1_790_000_000_000_000);

pub(super) fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(target);
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap());
    files
        .map(|file| (file.file_name().into_string().unwrap(), fs::read(file.path()).unwrap()))
        .collect()
}

#[test]
fn the_corpus_of_caller_tokens_replays() {
    let domain = "prod.example.com".parse().unwrap();
    let (mut reviewed, mut alone) = (Vec::new(), Vec::new());
    for (name, bytes) in corpus("caller_token") {
        let of_claims = format!("{}.{}.AAAA", b64(br#"{"alg":"RS256","kid":"k1"}"#), b64(&bytes));
        let whole = String::from_utf8(bytes).ok();
        for token in whole.iter().chain([&of_claims]) {
            let passed = service_account_token(token, AUDIENCE, &domain, NOW);
            reviewed.extend(passed[0].then(|| name.clone()));
            alone.extend(passed[1].then(|| name.clone()));
        }
    }
    let passed = |name: &str| (reviewed.iter().any(|n| n == name), alone.iter().any(|n| n == name));
    assert_eq!((passed("pod"), passed("whole")), ((true, true), (true, true)));
    assert_eq!(passed("hour"), (true, false), "longer than what nobody is asked about");
    for name in ["year", "unbound", "user", "largest", "no_exp", "audience_mixed", "whole_crit"] {
        assert_eq!(passed(name), (false, false), "{name}");
    }
}

/// `rfc9449` is the example of the specification; `claims_…` are looked at without a signature.
#[test]
fn the_corpus_of_dpop_proofs_replays() {
    let now = Now::from_micros(1_562_262_620_000_000);
    let (mut whole, mut claims) = (Vec::new(), Vec::new());
    for (name, bytes) in corpus("dpop") {
        let [as_proof, as_claims] = alone::proof(&bytes, now);
        whole.extend(as_proof.then(|| name.clone()));
        claims.extend(as_claims.then_some(name));
    }
    claims.sort();
    assert_eq!(whole, ["rfc9449"]);
    assert_eq!(claims, ["claims_escaped_url", "claims_fraction", "claims_sound"]);
}

#[test]
fn the_corpus_of_reviews_replays() {
    let good = corpus("token_review").into_iter().filter(|(_, body)| token_review(body, AUDIENCE));
    let good: Vec<String> = good.map(|(name, _)| name).collect();
    assert_eq!(good, ["yes"]);
}

/// Keys that cannot be used are left out, whatever they are.
#[test]
fn keys_are_made_of_the_corpus_of_jwt_bundles() {
    let mut bundles = 0;
    for (name, text) in corpus("jwt_bundle") {
        let Ok(bundle) = JwtBundle::parse(&text, JwksForm::SpiffeBundle) else { continue };
        bundles += 1;
        let keys = format!("{:?}", SvidKeys::of(&bundle));
        let none = matches!(name.as_str(), "off_curve" | "wrong_types" | "short_rsa" | "nobody");
        assert!(!none || keys == "[]", "{name}: {keys}");
        assert!(name != "ec" || keys.contains("Es512"), "{keys}");
    }
    assert!(bundles >= 6, "{bundles}");
}
