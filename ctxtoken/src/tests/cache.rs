//! What the token cache remembers, for how long, and what it never skips.
use std::sync::Arc;

use serde_json::json;

use super::world::*;
use crate::*;

fn hit(cache: &mut TokenCache, token: &str, world: &World) -> CacheResult {
    cache.verify(token.as_bytes(), 1, &world.with()).unwrap().1
}

#[test]
fn a_second_look_is_a_hit_with_the_same_claims() {
    let world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    let token = world.token(&base_claims());
    let (first, result) = cache.verify(token.as_bytes(), 1, &world.with()).unwrap();
    assert_eq!((result, cache.len()), (CacheResult::Miss, 1));
    let (second, result) = cache.verify(token.as_bytes(), 1, &world.with()).unwrap();
    assert_eq!(result, CacheResult::Hit);
    assert!(Arc::ptr_eq(&first, &second));
}

#[test]
fn every_generation_starts_empty() {
    let world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    let token = world.token(&base_claims());
    for generation in [1, 2, 1, 3] {
        let result = cache.verify(token.as_bytes(), generation, &world.with()).unwrap().1;
        assert_eq!(result, CacheResult::Miss, "{generation}");
    }
}

#[test]
fn refusals_are_not_remembered() {
    let mut world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    let token = world.token(&base_claims());
    world.list(KeyForms::Either, None);
    assert!(cache.verify(token.as_bytes(), 1, &world.with()).is_err());
    assert!(cache.is_empty());
    world.list(KeyForms::Either, Some(key_set(&[&world.gateway])));
    assert_eq!(hit(&mut cache, &token, &world), CacheResult::Miss);
}

#[test]
fn a_hit_checks_time_and_constraints_again() {
    let mut world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    let token = world.token(&base_claims());
    assert_eq!(hit(&mut cache, &token, &world), CacheResult::Miss);
    world.now = UnixTime(NOW.0 - 41);
    let error = cache.verify(token.as_bytes(), 1, &world.with()).unwrap_err();
    assert_eq!(error.reason(), "claim_invalid");
    world.now = NOW;
    let mut allow = user_constraints();
    allow.scopes.clear();
    let entry = Issuer { id: id(GATEWAY), keys: KeyForms::Either, allow, jwks: None };
    world.issuers = IssuerSet::new(vec![entry]).unwrap();
    let error = cache.verify(token.as_bytes(), 1, &world.with()).unwrap_err();
    assert_eq!(error.reason(), "constraint_violated");
}

#[test]
fn entries_live_to_their_end_at_most() {
    let mut world = World::new();
    world.limits.cache_age_s_max = 20;
    let mut cache = TokenCache::new(&world.limits);
    let token = world.token(&base_claims());
    assert_eq!(hit(&mut cache, &token, &world), CacheResult::Miss);
    for (later, expected) in
        [(19, CacheResult::Hit), (20, CacheResult::Miss), (21, CacheResult::Hit)]
    {
        world.now = NOW.plus(later);
        assert_eq!(hit(&mut cache, &token, &world), expected, "{later} s later");
    }
    // Between `exp` and the end of the skew a token is accepted, and looked at in full.
    world.now = NOW.plus(55);
    for _ in 0..2 {
        assert_eq!(hit(&mut cache, &token, &world), CacheResult::Miss);
    }
}

#[test]
fn entries_and_bytes_are_bounded() {
    let mut world = World::new();
    world.limits.cache_entries_max = 8;
    world.limits.cache_bytes_max = 8 * 4096;
    let mut cache = TokenCache::new(&world.limits);
    for n in 0..40 {
        let token = world.changed(|claims| claims["n"] = json!(n));
        assert_eq!(hit(&mut cache, &token, &world), CacheResult::Miss);
        assert!(cache.len() <= 8, "{}", cache.len());
    }
    let fat = |n: u64| {
        world.changed(|claims| {
            claims["n"] = json!(n);
            claims["padding"] = json!("x".repeat(2300));
        })
    };
    for n in 0..40 {
        hit(&mut cache, &fat(n), &world);
    }
    assert!(cache.len() <= 7, "longer tokens weigh more: {}", cache.len());
}

#[test]
fn chains_of_issuers_are_validated_once() {
    let mut world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    let header = x5c_header("gateway").to_string();
    let token = |n: u64, world: &World| {
        let mut claims = base_claims();
        claims["n"] = json!(n);
        signed(&header, &claims.to_string(), &world.gateway)
    };
    for n in 0..5 {
        assert_eq!(hit(&mut cache, &token(n, &world), &world), CacheResult::Miss);
    }
    assert_eq!(world.chains.asked.get(), 1);
    // A known chain is no proof by itself: the signature is checked each time.
    let forged = signed(&header, &base_claims().to_string(), &p256());
    let error = cache.verify(forged.as_bytes(), 1, &world.with()).unwrap_err();
    assert_eq!(error, VerifyError::SignatureInvalid);
    // A new generation may have another bundle.
    let error = cache.verify(token(6, &world).as_bytes(), 2, &world.with());
    assert!(error.is_ok());
    assert_eq!(world.chains.asked.get(), 2);
    world.chains.known.clear();
    assert!(cache.verify(token(7, &world).as_bytes(), 3, &world.with()).is_err());
}

#[test]
fn chains_of_others_are_never_remembered() {
    let mut world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    let pod = p256();
    world.certify("pod", POD, &pod);
    let token = signed(&x5c_header("pod").to_string(), &base_claims().to_string(), &pod);
    for asked in 1..=3 {
        assert!(cache.verify(token.as_bytes(), 1, &world.with()).is_err());
        assert_eq!(world.chains.asked.get(), asked);
    }
}

#[test]
fn a_known_chain_is_forgotten_when_it_ends() {
    let mut world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    world.chains.known.get_mut(&certificate("gateway")).unwrap().not_after = NOW.plus(50);
    let token = world.headed(&x5c_header("gateway"));
    assert_eq!(hit(&mut cache, &token, &world), CacheResult::Miss);
    world.now = NOW.plus(51);
    assert_eq!(hit(&mut cache, &token, &world), CacheResult::Miss);
    assert_eq!(world.chains.asked.get(), 2, "the validator has the last word on an ended leaf");
}

#[test]
fn a_header_met_before_changes_no_answer() {
    let world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    let whole = world.headed(&x5c_header("gateway"));
    assert_eq!(hit(&mut cache, &whole, &world), CacheResult::Miss);
    let parts: Vec<_> = whole.split('.').collect();
    let [header, payload, signature] = parts[..] else { panic!("three parts") };
    let flipped = {
        let first = if signature.starts_with('A') { "B" } else { "A" };
        format!("{first}{}", &signature[1..])
    };
    let by_kid = world.token(&base_claims());
    let longer = format!("{header}A.{payload}.{signature}");
    for token in [
        header.to_owned(),
        format!("{header}."),
        format!("{header}.."),
        format!("{header}.{payload}"),
        format!("{header}.{payload}."),
        format!("{header}..{signature}"),
        format!("{header}.{payload}.{signature}."),
        format!("{header}.{payload}.{signature}.x"),
        format!("{header}.{payload}!.{signature}"),
        format!("{header}.{payload}.{signature},{whole}"),
        format!("{header}.{payload}.{}", &signature[1..]),
        format!("{header}.{payload}.{signature}A"),
        format!("{header}.{payload}.{flipped}"),
        format!(".{payload}.{signature}"),
        format!("{}.{payload}.{signature}", &header[1..]),
        longer,
        format!("{header}.{}.{signature}", jws::encode(b"[]")),
        format!("{}{whole}", "x".repeat(world.limits.token_bytes_max)),
        by_kid,
    ] {
        let fresh = world.verify(&token).map(|verified| *verified.token_sha256());
        let met = cache.verify(token.as_bytes(), 1, &world.with());
        assert_eq!(met.map(|(verified, _)| *verified.token_sha256()), fresh, "{token}");
    }
    assert_eq!(hit(&mut cache, &whole, &world), CacheResult::Hit);
}

#[test]
fn ids_met_before_read_the_same() {
    let world = World::new();
    let mut cache = TokenCache::new(&world.limits);
    // More IDs than are kept, each once more when it was forgotten.
    for n in (0..12).chain(0..12) {
        let token = world.changed(|claims| {
            claims["rctx"]["to"] = json!(format!("{ORDERS}-{n}"));
            claims["n"] = json!(n);
        });
        let (met, _) = cache.verify(token.as_bytes(), 1, &world.with()).unwrap();
        assert_eq!(met.rctx.to, id(&format!("{ORDERS}-{n}")));
        assert_eq!(met.get(), world.verify(&token).unwrap().get());
    }
}

#[test]
fn a_folded_token_unfolds_to_what_it_said_and_nothing_else_does() {
    let world = World::new();
    for token in [world.headed(&x5c_header("gateway")), world.token(&base_claims())] {
        let verified = world.verify(&token).unwrap();
        let folded = verified.fold();
        let again = folded.unfold(token.as_bytes()).unwrap();
        assert_eq!(again.get(), verified.get());
        assert_eq!(again.token_sha256(), verified.token_sha256());
        // A sound token of the same key, and the same token by another signature, are others.
        let other = world.changed(|claims| claims["sub"] = json!("user:mallory"));
        assert!(world.verify(&other).is_ok());
        let signed_again = world.token(&base_claims());
        for wrong in [other, signed_again, format!("{token}A"), token[1..].to_owned()] {
            assert!(folded.unfold(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
