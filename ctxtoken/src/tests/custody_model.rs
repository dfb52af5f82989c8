//! Custody against a slow, obvious model, over every small world there is.
//!
//! Two models. The first judges a list as a picture of it: who signed which record with what, and
//! whether each rule of the profile holds, one line per rule. Every list of up to three records over
//! three workloads is compared, and then every such list with one thing wrong in one place. The
//! second does not know the rules at all. It knows who honestly passed the token on to whom and whose
//! keys a thief has, and says who can possibly hold the token; a thief tries every list it can make.
use std::collections::BTreeSet;

use serde_json::json;

use super::{hops_world::*, world::*};
use crate::{verify::sha256, *};

const A: &str = ORDERS;
const B: &str = "spiffe://prod.example.com/ns/shop/sa/billing";
const C: &str = "spiffe://prod.example.com/ns/shop/sa/ledger";
const D: &str = "spiffe://prod.example.com/ns/shop/sa/thief";

/// What is wrong with a record, besides whom it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// Signed with the key of `D`, under the name of the sender's certificate.
    OthersKey,
    /// Signed by `D`, under the certificate of `D`.
    OthersCertificate,
    /// The signature's bytes are nobody's.
    NoSignature,
    Number,
    Previous,
    NoPrevious,
    OtherToken,
    TooOld,
    TooNew,
    BeforeTheLast,
    WiderScope,
    UnknownCertificate,
}

const FAULTS: [Fault; 12] = [
    Fault::OthersKey,
    Fault::OthersCertificate,
    Fault::NoSignature,
    Fault::Number,
    Fault::Previous,
    Fault::NoPrevious,
    Fault::OtherToken,
    Fault::TooOld,
    Fault::TooNew,
    Fault::BeforeTheLast,
    Fault::WiderScope,
    Fault::UnknownCertificate,
];

#[derive(Clone, Copy, Debug)]
struct Picture {
    sub: &'static str,
    aud: &'static str,
    fault: Fault,
}

/// The record a picture shows, behind the others.
fn drawn(picture: &Picture, before: &[String], token: &str) -> String {
    let Picture { sub, aud, fault } = *picture;
    let (key_of, leaf) = match fault {
        Fault::OthersKey => (D, leaf_of(sub)),
        Fault::OthersCertificate => (D, leaf_of(D)),
        Fault::UnknownCertificate => (sub, [9; 32]),
        _ => (sub, leaf_of(sub)),
    };
    let mut header = hop_header(sub);
    header["kid"] = json!(jws::encode(&leaf));
    let mut payload = hop_payload(sub, aud, token);
    payload["n"] = json!(before.len() + usize::from(fault == Fault::Number));
    let previous = before.last().map(|text| jws::encode(&sha256(text.as_bytes())));
    let previous = match fault {
        Fault::Previous => Some(jws::encode(&[1; 32])),
        Fault::NoPrevious => None,
        _ => previous,
    };
    if let Some(previous) = previous {
        payload["prev"] = json!(previous);
    }
    match fault {
        Fault::OtherToken => payload["tth"] = json!(jws::encode(&[2; 32])),
        Fault::TooOld => payload["iat"] = json!(NOW.0 - 10 - 31),
        Fault::TooNew => payload["iat"] = json!(NOW.0 + 50 + 31),
        Fault::BeforeTheLast => payload["iat"] = json!(NOW.0 - 31),
        Fault::WiderScope => payload["scope"] = json!("orders.read orders.write"),
        _ => {}
    }
    let text = record(&header, &payload, key_of);
    match fault {
        Fault::NoSignature => {
            let (signed, _) = text.rsplit_once('.').unwrap();
            format!("{signed}.{}", jws::encode(&[3; 64]))
        }
        _ => text,
    }
}

/// Whether the profile accepts what the pictures show.
fn accepted(list: &[Picture], peer: &str, me: &str) -> bool {
    let Some(own) = list.last() else { return peer == A || (peer == GATEWAY && me == A) };
    let sound = list.iter().enumerate().all(|(at, picture)| match picture.fault {
        // The channel proves the peer's own record; whose signature it has is not looked at, only
        // that the certificate named is the connection's.
        Fault::None => true,
        Fault::OthersKey | Fault::NoSignature if at + 1 == list.len() => true,
        // Signed by its own key under its own certificate.
        Fault::OthersKey | Fault::OthersCertificate => picture.sub == D,
        Fault::NoPrevious => at == 0,
        // As old as the token may be, so only wrong after another record.
        Fault::BeforeTheLast => at == 0,
        _ => false,
    });
    let linked = list.windows(2).all(|pair| {
        let back = pair[1].fault == Fault::None && pair[0].fault == Fault::TooNew;
        pair[0].aud == pair[1].sub && !back
    });
    sound && linked && list[0].sub == A && own.sub == peer && own.aud == me
}

struct Trial {
    token: Verified<RequestContext>,
    text: String,
    keys: Leaves,
}

impl Trial {
    fn new() -> Self {
        let world = World::new();
        let text = world.token(&base_claims());
        let token = world.verify(&text).unwrap();
        Self { token, text, keys: Leaves::of(&[GATEWAY, A, B, C, D]) }
    }

    fn list(&self, pictures: &[Picture]) -> Option<HopList> {
        let mut texts: Vec<String> = Vec::new();
        for picture in pictures {
            texts.push(drawn(picture, &texts, &self.text));
        }
        (!texts.is_empty()).then(|| read(&texts.join(", ")))
    }

    fn check(&self, list: Option<&HopList>, peer: &str, me: &str) -> bool {
        custody_by(&self.token, peer, me, list, &self.keys).is_ok()
    }

    fn compare(&self, pictures: &[Picture], peers: &[&str]) {
        let list = self.list(pictures);
        for peer in peers {
            for me in peers {
                let (model, code) =
                    (accepted(pictures, peer, me), self.check(list.as_ref(), peer, me));
                assert_eq!(code, model, "{pictures:?} by {peer} to {me}");
            }
        }
    }
}

/// Every list of `length` sound records over these workloads.
fn lists(length: usize, over: &[&'static str]) -> Vec<Vec<Picture>> {
    let mut all = vec![Vec::new()];
    for _ in 0..length {
        all = all
            .iter()
            .flat_map(|list| {
                over.iter().flat_map(move |sub| {
                    over.iter().map(move |aud| {
                        let next = Picture { sub, aud, fault: Fault::None };
                        [&list[..], &[next]].concat()
                    })
                })
            })
            .collect();
    }
    all
}

#[test]
fn every_small_list_is_judged_as_the_model_judges_it() {
    let trial = Trial::new();
    for length in 0..=3 {
        for list in lists(length, &[A, B, D]) {
            trial.compare(&list, &[GATEWAY, A, B, D]);
        }
    }
}

#[test]
fn every_fault_in_every_place_is_judged_as_the_model_judges_it() {
    let trial = Trial::new();
    let mut refused = BTreeSet::new();
    for length in 1..=3 {
        let linked = |list: &Vec<Picture>| {
            list[0].sub == A && list.windows(2).all(|pair| pair[0].aud == pair[1].sub)
        };
        for list in lists(length, &[A, B, D]).into_iter().filter(linked) {
            for at in 0..length {
                for fault in FAULTS {
                    let mut list = list.clone();
                    list[at].fault = fault;
                    let last = list[length - 1];
                    trial.compare(&list, &[last.sub, last.aud]);
                    if !accepted(&list, last.sub, last.aud) {
                        refused.insert(format!("{fault:?}"));
                    }
                }
            }
        }
    }
    assert_eq!(refused.len(), FAULTS.len(), "a fault that is never refused: {refused:?}");
}

/// Who can hold the token: the first holder; whom a holder honestly gave it; and, once a thief with
/// the keys of a holder is there, everybody it may address.
fn reachable(honest: &[&'static str], stolen: &str) -> BTreeSet<&'static str> {
    let mut held = BTreeSet::new();
    for holder in honest {
        held.insert(*holder);
        if *holder == stolen {
            held.extend([A, B, C, D]);
        }
    }
    held
}

/// The lists a thief can make: honest records where they stood, and its own anywhere.
fn forgeries(
    trial: &Trial,
    honest: &[String],
    stolen: &'static str,
    before: &mut Vec<String>,
    from: &'static str,
    found: &mut Vec<(Vec<String>, &'static str, &'static str)>,
    honest_path: &[&'static str],
) {
    if before.len() == 3 {
        return;
    }
    for aud in [A, B, C, D] {
        let mut texts = Vec::new();
        let at = before.len();
        if honest_path.get(at) == Some(&from) && honest_path.get(at + 1) == Some(&aud) {
            texts.extend(honest.get(at).cloned());
        }
        // Its own key, under the certificate of whoever's name it writes, and under its own.
        for fault in [Fault::OthersKey, Fault::OthersCertificate] {
            let picture = Picture { sub: from, aud, fault };
            texts.push(drawn_by(stolen, &picture, before, &trial.text));
        }
        for text in texts {
            before.push(text);
            found.push((before.clone(), from, aud));
            forgeries(trial, honest, stolen, before, aud, found, honest_path);
            before.pop();
        }
    }
}

/// As [`drawn`], by a thief with the key of `stolen`.
fn drawn_by(stolen: &'static str, picture: &Picture, before: &[String], token: &str) -> String {
    let mut header = hop_header(picture.sub);
    if picture.fault == Fault::OthersCertificate {
        header = hop_header(stolen);
    }
    let mut payload = hop_payload(picture.sub, picture.aud, token);
    payload["n"] = json!(before.len());
    if let Some(previous) = before.last() {
        payload["prev"] = json!(jws::encode(&sha256(previous.as_bytes())));
    }
    record(&header, &payload, stolen)
}

/// A thief with the token, every record on the wire and the keys of one workload presents every list
/// it can make, as that workload. It gets in only where its workload held the token.
#[test]
fn a_thief_gets_no_further_than_the_workload_whose_keys_it_has() {
    let trial = Trial::new();
    let paths: [&[&'static str]; 6] =
        [&[A], &[A, B], &[A, B, C], &[A, C, B], &[A, B, A], &[A, B, C, B]];
    let mut accepted = 0;
    for path in paths {
        let mut honest: Vec<String> = Vec::new();
        for pair in path.windows(2) {
            let picture = Picture { sub: pair[0], aud: pair[1], fault: Fault::None };
            honest.push(drawn(&picture, &honest, &trial.text));
        }
        for stolen in [A, B, C, D] {
            let held = reachable(path, stolen);
            let mut found = Vec::new();
            for from in [A, stolen] {
                forgeries(&trial, &honest, stolen, &mut Vec::new(), from, &mut found, path);
            }
            for (texts, sub, aud) in found {
                // The peer is whoever the thief can be: the holder of the stolen keys.
                if sub != stolen {
                    continue;
                }
                let list = read(&texts.join(", "));
                let ok = trial.check(Some(&list), stolen, aud);
                assert!(!ok || held.contains(stolen), "{path:?}, {stolen}: {list:?}");
                accepted += usize::from(ok);
            }
            // Without any list: only the first holder needs none.
            assert_eq!(trial.check(None, stolen, C), stolen == A);
        }
        // The honest path itself works, for its end and for nobody else.
        let (Some(own), true) = (path.windows(2).last(), path.len() > 1) else { continue };
        let list = read(&honest.join(", "));
        for peer in [GATEWAY, A, B, C, D] {
            for me in [GATEWAY, A, B, C, D] {
                let expected = peer == own[0] && me == own[1];
                assert_eq!(
                    trial.check(Some(&list), peer, me),
                    expected,
                    "{path:?}: {peer} to {me}"
                );
            }
        }
    }
    assert!(accepted > 0, "a holder's own lists are accepted");
}
