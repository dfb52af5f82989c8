//! Twisted encodings, algorithms and keys of context tokens, over the wire (T7, T8, T11). Each bad
//! token is signed by the key it names wherever the attack has one, so that what refuses it is the
//! rule it breaks.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_integration::client::Call;
use countersign_integration::token::base64url;
use countersign_integration::{App, Authority, Lab, Tokens, documents};
use serde_json::{Value, json};

use super::tokens::refused_tokens;

/// What a test makes its tokens of: the lab, the claims of a sound token, its text.
fn world() -> (Lab, Value, String) {
    let lab = Lab::new();
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    let sound = lab.gateway.sign(&claims);
    (lab, claims, sound)
}

/// The token with its signature changed.
fn resigned(token: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let bytes = change(URL_SAFE_NO_PAD.decode(signature).unwrap());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(bytes))
}

fn headed(lab: &Lab, claims: &Value, change: impl FnOnce(&mut Value)) -> String {
    let mut header = lab.gateway.header();
    change(&mut header);
    lab.gateway.sign_with(&header, claims)
}

#[tokio::test]
async fn attack_sends_wrong_typ() {
    let (lab, claims, _) = world();
    let with = |typ: Value| headed(&lab, &claims, |header| header["typ"] = typ);
    let typs = ["JWT", "jwt", "TXNTOKEN+JWT", "txntoken+jwt ", "txntoken", "application/jwt"];
    let mut tokens: Vec<_> = typs.iter().map(|typ| ("token_malformed", with(json!(typ)))).collect();
    tokens.push(("token_malformed", with(json!(["txntoken+jwt"]))));
    let absent = headed(&lab, &claims, |header| {
        header.as_object_mut().unwrap().remove("typ");
    });
    tokens.push(("token_malformed", absent));
    refused_tokens(&lab, tokens).await;

    let app = App::mirror();
    let orders = lab.orders(&app, |spec| spec).await;
    let full = with(json!("application/txntoken+jwt"));
    let reply = lab.call_as_gateway(&orders, Call::get("orders.shop", "/").context(&full)).await;
    assert_eq!(reply.status, 200, "the same media type, written out: {}", reply.text());
}

#[tokio::test]
async fn attack_signs_hmac_with_public_key() {
    use aws_lc_rs::hmac;
    let (lab, claims, _) = world();
    let public = lab.gateway.jwk().to_string();
    let tokens = ["HS256", "HS512", "ES256"].map(|alg| {
        let token = headed(&lab, &claims, |header| header["alg"] = json!(alg));
        let (signed, _) = token.rsplit_once('.').unwrap();
        let key = hmac::Key::new(hmac::HMAC_SHA512, public.as_bytes());
        let tag = hmac::sign(&key, signed.as_bytes());
        let reason = if alg == "ES256" { "signature_invalid" } else { "token_malformed" };
        (reason, format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref())))
    });
    refused_tokens(&lab, tokens.into()).await;
}

#[tokio::test]
async fn attack_sends_rs256_context_token() {
    let (lab, claims, _) = world();
    let algs = ["RS256", "PS256", "ES384", "ES512", "ES256K", "EdDSA", "Ed448", "es256", "ES256 "];
    let tokens = algs
        .map(|alg| ("token_malformed", headed(&lab, &claims, |header| header["alg"] = json!(alg))));
    refused_tokens(&lab, tokens.into()).await;
}

#[tokio::test]
async fn attack_sends_wrong_length_signature() {
    let (lab, _, sound) = world();
    let tokens = vec![
        ("signature_invalid", resigned(&sound, |bytes| bytes[..63].to_vec())),
        ("signature_invalid", resigned(&sound, |bytes| [bytes, vec![0]].concat())),
        ("signature_invalid", resigned(&sound, |_| vec![0; 64])),
        ("signature_invalid", resigned(&sound, |bytes| [&bytes[32..], &bytes[..32]].concat())),
    ];
    refused_tokens(&lab, tokens).await;
}

/// What X.509 tools write instead of `r‖s`.
#[tokio::test]
async fn attack_sends_der_signature() {
    let (lab, _, sound) = world();
    let der = resigned(&sound, |fixed| {
        let integer = |bytes: &[u8]| [&[0x02, 33, 0][..], bytes].concat();
        let body = [integer(&fixed[..32]), integer(&fixed[32..])].concat();
        [&[0x30, u8::try_from(body.len()).unwrap()][..], &body].concat()
    });
    refused_tokens(&lab, vec![("signature_invalid", der)]).await;
}

#[tokio::test]
async fn attack_changes_claims_or_signature() {
    let (lab, claims, sound) = world();
    let parts: Vec<&str> = sound.split('.').collect();
    let mut other = claims.clone();
    other["sub"] = json!("user:root");
    let other = base64url(&other.to_string());
    let swapped = [parts[0], &other, parts[2]].join(".");
    let flipped = resigned(&sound, |mut bytes| {
        bytes[40] ^= 1;
        bytes
    });
    let tokens = vec![("signature_invalid", swapped), ("signature_invalid", flipped)];
    refused_tokens(&lab, tokens).await;
}

#[tokio::test]
async fn attack_nests_json_too_deep() {
    let (lab, claims, _) = world();
    let header = lab.gateway.header().to_string();
    let tokens = [9, 64, 900].map(|depth| {
        let deep = format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let text = claims.to_string().replacen('{', &format!("{{\"deep\":{deep},"), 1);
        ("token_malformed", lab.gateway.sign_text(&header, &text))
    });
    refused_tokens(&lab, tokens.into()).await;
}

/// The first or the last of two is what another parser would take.
#[tokio::test]
async fn attack_repeats_json_names() {
    let (lab, claims, _) = world();
    let header = lab.gateway.header().to_string();
    let claims = claims.to_string();
    let sign =
        |header: &str, claims: &str| ("token_malformed", lab.gateway.sign_text(header, claims));
    let end = |text: &str, more: &str| format!("{},{more}}}", text.strip_suffix('}').unwrap());
    let tokens = vec![
        sign(&header, &claims.replacen('{', "{\"sub\":\"user:root\",", 1)),
        sign(&header, &end(&claims, "\"sub\":\"user:root\"")),
        sign(&header, &end(&claims, "\"s\\u0075b\":\"user:root\"")),
        sign(&header, &claims.replacen("\"v\":1", "\"v\":1,\"v\":1", 1)),
        sign(&end(&header, "\"alg\":\"ES256\""), &claims),
        sign(&end(&header, "\"typ\":\"txntoken+jwt\""), &claims),
    ];
    refused_tokens(&lab, tokens).await;
}

#[tokio::test]
async fn attack_uses_noncanonical_base64() {
    let (lab, _, sound) = world();
    let parts: Vec<&str> = sound.split('.').collect();
    let join = |parts: [&str; 3]| ("token_malformed", parts.join("."));
    // 64 bytes leave four unused bits in the last of 86 characters.
    let last = parts[2].chars().next_back().unwrap();
    let twin = ALPHABET.chars().find(|c| twin_of(*c, last)).unwrap();
    let signature = format!("{}{twin}", &parts[2][..parts[2].len() - 1]);
    let tokens = vec![
        join([parts[0], parts[1], &signature]),
        join([parts[0], parts[1], &format!("{}==", parts[2])]),
        join([parts[0], &format!("{}=", parts[1]), parts[2]]),
        join([&parts[0].replacen('e', "+", 1), parts[1], parts[2]]),
        join([parts[0], "", parts[2]]),
        join([parts[0], parts[1], ""]),
    ];
    refused_tokens(&lab, tokens).await;
}

const ALPHABET: &str = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// Another character with the same two leading bits.
fn twin_of(other: char, last: char) -> bool {
    let value = |c: char| ALPHABET.find(c).unwrap();
    other != last && value(other) >> 4 == value(last) >> 4
}

#[tokio::test]
async fn attack_sends_encrypted_token() {
    let (lab, claims, sound) = world();
    let header = json!({"alg": "dir", "enc": "A256GCM", "typ": "txntoken+jwt", "kid": "k"});
    let five = format!(
        "{}..AAAAAAAAAAAAAAAA.{}.AAAA",
        base64url(&header.to_string()),
        base64url(&claims.to_string())
    );
    let zipped = headed(&lab, &claims, |header| header["zip"] = json!("DEF"));
    let tokens = vec![
        ("token_malformed", five),
        ("token_malformed", format!("{sound}.AAAA.AAAA")),
        ("token_malformed", zipped),
    ];
    refused_tokens(&lab, tokens).await;
}

#[tokio::test]
async fn attack_sends_json_serialisation() {
    let (lab, _, sound) = world();
    let parts: Vec<&str> = sound.split('.').collect();
    let flat = json!({"protected": parts[0], "payload": parts[1], "signature": parts[2]});
    let tokens = vec![
        ("token_malformed", base64url(&flat.to_string())),
        ("token_malformed", parts.concat()),
    ];
    refused_tokens(&lab, tokens).await;
}

#[tokio::test]
async fn attack_adds_critical_header_member() {
    let (lab, claims, _) = world();
    let tokens = [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(true)),
        ("cty", json!("JWT")),
        ("x5t#S256", json!("AAAA")),
        ("kid", json!("0123456789abcdef")),
        ("unheard-of", json!(1)),
    ]
    .map(|(name, value)| ("token_malformed", headed(&lab, &claims, |header| header[name] = value)));
    refused_tokens(&lab, tokens.into()).await;
}

#[tokio::test]
async fn attack_points_to_key_url() {
    let (lab, claims, _) = world();
    let tokens = ["jku", "x5u"].map(|name| {
        let token = headed(&lab, &claims, |header| {
            header.as_object_mut().unwrap().remove("x5c");
            header[name] = json!("http://169.254.169.254/keys");
        });
        ("token_malformed", token)
    });
    refused_tokens(&lab, tokens.into()).await;
}

#[tokio::test]
async fn attack_sends_oversized_x5c() {
    let (lab, claims, _) = world();
    let leaf = lab.gateway.header()["x5c"][0].clone();
    let chain = |certificates: Vec<Value>| {
        headed(&lab, &claims, |header| header["x5c"] = json!(certificates))
    };
    let tokens = vec![
        ("token_malformed", chain(vec![])),
        ("token_malformed", chain(vec![json!("AAAA"); 4])),
        ("token_malformed", chain(vec![json!("A".repeat(2_400))])),
        ("key_unknown", chain(vec![json!("MAA=")])),
        ("key_unknown", chain(vec![leaf.clone(), leaf])),
        ("token_malformed", chain(vec![json!("not base64")])),
        ("token_malformed", chain(vec![json!(1)])),
    ];
    refused_tokens(&lab, tokens).await;
}

/// What has a name in the list of everything wrong is refused before it is decoded.
#[tokio::test]
async fn attack_sends_token_over_the_limit() {
    let (lab, claims, sound) = world();
    let mut long = claims;
    long["padding"] = json!("x".repeat(4_096));
    let tokens = vec![
        ("token_too_large", lab.gateway.sign(&long)),
        ("token_too_large", format!("{}.{sound}", "A".repeat(4_096))),
    ];
    refused_tokens(&lab, tokens).await;
}

#[tokio::test]
async fn attack_sends_unknown_profile_version() {
    let (lab, claims, _) = world();
    let tokens = [json!(0), json!(2), json!("1"), json!(1.0), json!(null)].map(|version| {
        let mut claims = claims.clone();
        claims["rctx"]["v"] = version;
        ("claim_invalid", lab.gateway.sign(&claims))
    });
    let mut held = claims.clone();
    held["cnf"] = json!({"jkt": "AAAA"});
    let mut tokens = Vec::from(tokens);
    tokens.push(("claim_invalid", lab.gateway.sign(&held)));
    refused_tokens(&lab, tokens).await;
}

/// The key of one issuer signs in the name of another, named by `kid`.
#[tokio::test]
async fn attack_uses_kid_of_another_issuer() {
    let lab = Lab::new();
    let app = App::mirror();
    let jobs = Tokens::of(&lab.ca, "jobs", "issuer");
    let set = |name: &str, of: &Tokens| {
        let mut jwk = of.jwk();
        jwk["use"] = json!("csign-ctx");
        lab.write(name, &json!({"keys": [jwk]}))
    };
    let (edge_keys, jobs_keys) = (set("edge.json", &lab.gateway), set("jobs.json", &jobs));
    let mesh = lab.mesh().with(|spec| {
        let issuers = &mut spec["context"]["issuers"];
        issuers[0]["keys"] = json!("jwks");
        issuers[0]["jwks"] = json!({"file": edge_keys});
        issuers.as_array_mut().unwrap().push(json!({
            "id": lab.id("jobs", "issuer"), "keys": "jwks", "jwks": {"file": jobs_keys},
            "allow": {"origin": ["batch"], "sub": ["svc:*"], "scope": ["orders.*"]},
        }));
    });
    let orders = lab.orders_with(&app, &mesh, documents::anybody(), |spec| spec).await;
    let claims = lab.gateway.claims(&lab.id("shop", "orders"));
    let call = async |token: String| {
        lab.call_as_gateway(&orders, Call::get("orders.shop", "/").context(&token)).await
    };
    let sound = lab.gateway.sign_with(&lab.gateway.header_by_kid(), &claims);
    assert_eq!(call(sound).await.status, 200);
    let borrowed = jobs.sign_with(&jobs.header_by_kid(), &claims);
    let renamed = jobs.sign_with(&lab.gateway.header_by_kid(), &claims);
    let by_chain = lab.gateway.sign(&claims);
    for (reason, token) in
        [("key_unknown", borrowed), ("signature_invalid", renamed), ("key_unknown", by_chain)]
    {
        let reply = call(token).await;
        countersign_integration::outcome::refused(&orders, &reply, reason).await;
    }
    assert_eq!(app.seen().len(), 1);
}

/// A certificate of the right name under an authority of the attacker.
#[tokio::test]
async fn attack_foreign_ca_signs_our_identity() {
    let lab = Lab::new();
    let forger = Authority::new("lab.test");
    let gateway = Tokens::of(&forger, "edge", "gateway");
    let token = gateway.mint(&lab.id("shop", "orders"));
    refused_tokens(&lab, vec![("key_unknown", token)]).await;
}
