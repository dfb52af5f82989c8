//! End users of real OpenID providers, and CI runs that call like API clients: discovery, keys that
//! rotate under load, providers that are down, and tokens that were made for somebody else.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use countersign_integration::client::Call;
use countersign_integration::components::keycloak;
use countersign_integration::components::oidc_provider::OidcProvider;
use countersign_integration::outcome::refused;
use countersign_integration::token::now_s;
use countersign_integration::{Lab, wait};
use serde_json::{Value, json};

use super::edge::{API, Edge, PATH, context, for_anybody, of_group, provider};

#[tokio::test]
async fn users_of_oidc_provider() {
    let lab = Lab::new();
    let Some(idp) = OidcProvider::start("users_of_oidc_provider", lab.folder()).await else {
        return;
    };
    let spec = provider(&idp.issuer(), |spec| {
        spec["claims"]["uid"] = json!({"type": "string", "as": "accountId"});
    });
    let edge = Edge::with(lab, &[("corp", spec)], of_group("support"), |spec| spec).await;

    for resource in ["/rs256", "/es256"] {
        let alice = idp.login_for("webshop", "alice", resource).await;
        let reply = edge.get(&alice.access_token).await;
        assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"), "{}", reply.text());
        let context = context(&reply);
        let rctx = &context["rctx"];
        assert_eq!((&rctx["idp"], &rctx["acct"]), (&json!("corp"), &json!("alice")));
        assert_eq!((&rctx["groups"], &rctx["client_id"]), (&json!(["support"]), &json!("webshop")));
        assert_eq!(rctx.get("sc"), None, "anybody may use it: {rctx}");
        assert_eq!(reply.seen("authorization"), None);
    }
    let bob = idp.login("webshop", "bob").await;
    refused(&edge.orders, &edge.get(&bob.access_token).await, "policy_denied").await;
}

/// An ID token tells the shop who logged in; it opens nothing elsewhere.
#[tokio::test]
async fn attack_sends_id_token_as_access_token() {
    let lab = Lab::new();
    let name = "attack_sends_id_token_as_access_token";
    let Some(idp) = OidcProvider::start(name, lab.folder()).await else { return };
    // Even where the document takes any type of token.
    let spec = provider(&idp.issuer(), |spec| spec["tokenTypes"] = json!(["at+jwt", "JWT"]));
    let edge = Edge::with(lab, &[("corp", spec)], for_anybody(), |spec| spec).await;
    let alice = idp.login("webshop", "alice").await;
    let reply = edge.get(alice.id_token.as_deref().unwrap()).await;
    refused(&edge.gateway, &reply, "user_token_invalid").await;
    assert!(edge.app.seen().is_empty());
}

/// A person has one credential at a time; which of two would count is for nobody to guess.
#[tokio::test]
async fn attack_sends_two_user_credentials() {
    let lab = Lab::new();
    let name = "attack_sends_two_user_credentials";
    let Some(idp) = OidcProvider::start(name, lab.folder()).await else { return };
    let spec = provider(&idp.issuer(), |spec| {
        spec["from"] = json!([
            {"header": "Authorization", "scheme": "Bearer"}, {"header": "X-Access-Token"},
        ]);
        spec["senderConstraint"] = json!({"dpop": "optional"});
    });
    let edge = Edge::with(lab, &[("corp", spec)], for_anybody(), |spec| spec).await;
    let (alice, bob) = (idp.login("webshop", "alice").await, idp.login("webshop", "bob").await);
    let both = [
        Call::get(API, PATH).bearer(&alice.access_token).bearer(&bob.access_token),
        Call::get(API, PATH)
            .bearer(&alice.access_token)
            .header("authorization", &format!("DPoP {}", bob.access_token)),
        Call::get(API, PATH)
            .bearer(&alice.access_token)
            .header("x-access-token", &bob.access_token),
    ];
    for call in both {
        refused(&edge.gateway, &edge.call(call).await, "user_token_malformed").await;
    }
    assert!(edge.app.seen().is_empty());
}

/// Keycloak writes its tokens in its own way: roles inside `realm_access`, the kind of token in a
/// claim. Its sessions end and its keys rotate while the gateway runs.
#[tokio::test]
async fn users_of_keycloak() {
    let Some(idp) = keycloak::shared("users_of_keycloak").await else { return };
    let spec = provider(&idp.issuer(), |spec| {
        spec["claims"] = json!({
            "preferred_username": {"type": "string", "as": "id"},
            "sub": {"type": "string", "as": "accountId"},
            "roles": {"type": "stringList", "as": "groups", "at": "/realm_access/roles", "keep": ["support"]},
        });
        // Keycloak names the kind of a token in a claim, not in the header, unless told to.
        spec["tokenTypes"] = json!(["at+jwt", "JWT"]);
        spec["requiredClaims"] = json!({"typ": ["Bearer"]});
    });
    let edge = Edge::start(spec).await;

    for shop in ["webshop", "webshop-es256", "webshop-jwt"] {
        let alice = idp.login(shop, "alice").await;
        // Keycloak makes a key when it is first wanted, so its first token may come too early.
        until_taken(&edge, &alice.access_token).await;
        let reply = edge.get(&alice.access_token).await;
        assert_eq!(reply.seen("countersign-user").as_deref(), Some("alice"), "{shop}");
        assert_eq!(context(&reply)["rctx"]["groups"], json!(["support"]), "{shop}");
        for other in [alice.id_token, alice.refresh_token] {
            let reply = edge.get(&other.unwrap()).await;
            refused(&edge.gateway, &reply, "user_token_invalid").await;
        }
    }
    let bob = idp.login("webshop", "bob").await;
    let reply = wait::until("the keys", async || {
        let reply = edge.get(&bob.access_token).await;
        (reply.status != 401).then_some(reply)
    })
    .await;
    refused(&edge.orders, &reply, "policy_denied").await;

    // Who logged out gets no new tokens; the one in hand counts to its end, or until revoked.
    let alice = idp.login("webshop", "alice").await;
    assert!(idp.refresh("webshop", &alice).await.is_ok());
    let alice = idp.login("webshop", "alice").await;
    idp.log_out("webshop", &alice).await;
    assert!(idp.refresh("webshop", &alice).await.is_err());
    until_taken(&edge, &alice.access_token).await;
    edge.lab.revoke(json!({"users": [{
        "provider": "corp", "id": "alice", "issuedBefore": "2126-01-01T00:00:00Z",
    }]}));
    edge.gateway.reload();
    let refusal = wait::until("the revocation", async || {
        let reply = edge.get(&alice.access_token).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    refused(&edge.gateway, &refusal, "user_token_revoked").await;
}

/// A key that Keycloak signs with at once: its first token asks for the new keys.
#[tokio::test]
async fn keycloak_rotates_its_key() {
    let Some(idp) = keycloak::shared("keycloak_rotates_its_key").await else { return };
    let edge = Edge::with(
        Lab::new(),
        &[("corp", provider(&idp.issuer(), |_| {}))],
        for_anybody(),
        |spec| spec,
    )
    .await;
    let old = idp.login("webshop", "alice").await;
    until_taken(&edge, &old.access_token).await;
    idp.new_signing_key(500).await;
    let new = idp.login("webshop", "alice").await;
    until_taken(&edge, &new.access_token).await;
    assert_eq!(edge.get(&old.access_token).await.status, 200, "the old key is still published");
}

/// Keys rotate while requests run: published before use, withdrawn after the last token. No request
/// with a token of a published key is lost, and none of a withdrawn key is let in.
#[tokio::test]
async fn provider_rotates_keys_under_load() {
    let lab = Lab::new();
    let name = "provider_rotates_keys_under_load";
    let Some(idp) = OidcProvider::start(name, lab.folder()).await else { return };
    let spec = provider(&idp.issuer(), |_| {});
    let edge = Arc::new(Edge::with(lab, &[("corp", spec)], for_anybody(), |spec| spec).await);
    let old_keys = idp.client.keys(json!({"rs-old": "RS256", "es-old": "ES256"})).await;
    let new_keys = idp.client.keys(json!({"rs-new": "RS256", "es-new": "ES256"})).await;
    let chain = |first: &[Value], second: &[Value]| [first, second].concat();

    idp.run(&old_keys).await;
    let old = idp.login_for("webshop", "alice", "/es256").await.access_token;
    until_taken(&edge, &old).await;
    let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let load = {
        let (edge, old) = (Arc::clone(&edge), old.clone());
        let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                assert_eq!(edge.get(&old).await.status, 200, "{}", edge.gateway.log());
                sent.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    // Published, not yet used.
    idp.run(&chain(&old_keys, &new_keys)).await;
    fetched(&idp).await;
    // Used from now on; the very first token counts.
    idp.run(&chain(&new_keys, &old_keys)).await;
    let new = idp.login_for("webshop", "alice", "/es256").await.access_token;
    for _ in 0..20 {
        assert_eq!(edge.get(&new).await.status, 200);
    }
    // Down for a moment: nobody notices.
    idp.stop();
    let failed = || edge.gateway.log().contains("identity provider keys not fetched");
    wait::until_true("a failed fetch", failed).await;
    for token in [&old, &new] {
        assert_eq!(edge.get(token).await.status, 200);
    }
    stop.store(true, Ordering::Relaxed);
    wait::ends("the load", load).await.unwrap();
    assert!(sent.load(Ordering::Relaxed) > 20);
    // Withdrawn: its tokens end with it.
    idp.run(&new_keys).await;
    let refusal = wait::until("the end of the old key", async || {
        let reply = edge.get(&old).await;
        (reply.status != 200).then_some(reply)
    })
    .await;
    refused(&edge.gateway, &refusal, "user_token_invalid").await;
    assert_eq!(edge.get(&new).await.status, 200);
}

/// D8: a gateway starts without its identity provider, and serves everybody else's users meanwhile.
#[tokio::test]
async fn provider_down_at_start_only_affects_its_users() {
    let lab = Lab::new();
    let name = "provider_down_at_start_only_affects_its_users";
    let Some(idp) = OidcProvider::start(name, lab.folder()).await else { return };
    let keys = idp.first_keys().await;
    idp.run(&keys).await;
    let alice = idp.login("webshop", "alice").await.access_token;
    idp.stop();
    let others = countersign_integration::Tokens::of(&lab.ca, "idp", "keys");
    let mut jwk = others.jwk();
    jwk["use"] = json!("sig");
    let file = lab.write("partners.json", &json!({"keys": [jwk]}));
    let partners = provider("https://partners.example.com", |spec| {
        spec["keys"] = json!({"file": file});
        spec["subjectPrefix"] = json!("partners");
    });
    let providers = [("corp", provider(&idp.issuer(), |_| {})), ("partners", partners)];
    let edge = Edge::with(lab, &providers, for_anybody(), |spec| spec).await;

    refused(&edge.gateway, &edge.get(&alice).await, "user_keys_unavailable").await;
    let claims = json!({
        "iss": "https://partners.example.com", "aud": "https://api.example.com", "sub": "carol",
        "iat": now_s(), "exp": now_s() + 300,
    });
    let reply = edge.get(&others.user(&claims)).await;
    assert_eq!(reply.seen("countersign-user").as_deref(), Some("partners/carol"));
    idp.run(&keys).await;
    until_taken(&edge, &alice).await;
}

/// The shape of GitHub's tokens: who runs what, from where. The claims decide, not the name.
#[tokio::test]
async fn ci_runs_call_with_their_own_tokens() {
    let lab = Lab::new();
    let name = "ci_runs_call_with_their_own_tokens";
    let Some(idp) = OidcProvider::start(name, lab.folder()).await else { return };
    let text = documented("ci")
        .replace("https://token.actions.githubusercontent.com", &idp.issuer())
        .replace("token.actions.githubusercontent.com", "127.0.0.1");
    let document = json!(lab.write_text("ci.yaml", &text));
    let rules = json!([{
        "name": "releases", "effect": "allow", "context": "required",
        "match": super::edge::by_gateway(), "claims": super::edge::shown(),
        "require": {"user": {"provider": "ci", "claims": {
            "repository": {"anyOf": ["acme/shop"]}, "ref": {"anyOf": ["refs/heads/main"]},
        }}},
    }]);
    let edge = Edge::with(lab, &[("ci", document)], rules, |spec| spec).await;

    let reply = edge.get(&idp.ci_run("ci-main").await).await;
    // In a header `%` is written `%25`.
    let user = reply.seen("countersign-user");
    assert_eq!(user.as_deref(), Some("ci/repo:acme%252Fshop:ref:refs%252Fheads%252Fmain"));
    let context = context(&reply);
    assert_eq!(context["sub"], "user:ci/repo:acme%2Fshop:ref:refs%2Fheads%2Fmain");
    assert_eq!(context["rctx"]["claims"]["workflow"], "release");
    assert_eq!(context["scope"], "orders.read", "granted by the document: the token names none");

    let branch = edge.get(&idp.ci_run("ci-branch").await).await;
    refused(&edge.orders, &branch, "policy_denied").await;
    // Anybody's repository gets tokens of this issuer for this audience.
    let stranger = edge.get(&idp.ci_run("ci-stranger").await).await;
    let record = refused(&edge.gateway, &stranger, "user_token_invalid").await;
    assert_eq!(record["stage"], "identify", "{record}");
    assert_eq!(edge.app.seen().len(), 1);
}

/// The provider documents of `docs/context/users.md`, by name.
fn documented(name: &str) -> &'static str {
    let page = include_str!("../../../../docs/context/users.md");
    let heading = format!("metadata: {{name: {name}}}");
    let mut blocks = page.split("```yaml\n").filter_map(|block| block.split("```").next());
    let block = blocks.find(|block| block.contains(&heading));
    block.unwrap_or_else(|| panic!("the page has no provider `{name}`"))
}

/// Waits until a token counts.
async fn until_taken(edge: &Edge, token: &str) {
    wait::until("the keys", async || (edge.get(token).await.status == 200).then_some(())).await;
}

/// Waits until the gateway had these keys and asked again, so that it works with them.
async fn fetched(idp: &OidcProvider) {
    let before = idp.key_fetches();
    wait::until_true("the keys", || idp.key_fetches() >= before + 2).await;
}
