//! A token stolen at every depth, with a valid certificate and a stolen key.

use countersign_integration::client::{Call, Conn};
use countersign_integration::outcome::{allowed, refused};
use countersign_integration::pki::Request;
use countersign_integration::row::{certificate, record, signed, signed_under, thumbprint};
use countersign_integration::{App, Authority, Lab, Proxy, Row, Tokens};
use serde_json::{Value, json};

use crate::interception::live::hex;

/// Workloads with sound certificates, and a real sidecar `orders` that is asked to believe them.
struct Heist {
    lab: Lab,
    orders: Proxy,
    app: App,
    keys: Vec<(&'static str, Tokens)>,
}

const WORKLOADS: [&str; 5] = ["a", "b", "c", "d", "thief"];

impl Heist {
    async fn new() -> Heist {
        let (lab, app) = (Lab::new(), App::mirror());
        let orders = lab.orders(&app, |spec| spec).await;
        let keys = WORKLOADS.map(|name| (name, Tokens::of(&lab.ca, "shop", name))).into();
        Heist { lab, orders, app, keys }
    }

    fn id(&self, name: &str) -> String {
        self.lab.id("shop", name)
    }

    fn key(&self, name: &str) -> &Tokens {
        &self.keys.iter().find(|(own, _)| *own == name).unwrap().1
    }

    fn token(&self, first: &str) -> String {
        self.lab.gateway.mint(&self.id(first))
    }

    /// The sound list of a path.
    fn list(&self, token: &str, path: &[&str]) -> Vec<String> {
        let mut list: Vec<String> = Vec::new();
        for pair in path.windows(2) {
            let claims = record(token, &list, &self.id(pair[0]), &self.id(pair[1]));
            list.push(signed(self.key(pair[0]), &claims));
        }
        list
    }

    /// Everybody's certificates: a thief is not refused for want of them.
    fn certs(&self) -> String {
        let items: Vec<_> = self.keys.iter().map(|(_, key)| certificate(key.leaf())).collect();
        items.join(", ")
    }

    async fn peer(&self, name: &str) -> Conn {
        self.lab.peer(&self.orders, self.key(name).leaf()).await
    }

    fn call(&self, token: &str, list: &[String]) -> Call {
        let call = Call::get("orders.shop", "/").context(token);
        let call = call.header("countersign-certs", &self.certs());
        if list.is_empty() { call } else { call.header("countersign-hops", &list.join(", ")) }
    }

    async fn refuses(&self, peer: &mut Conn, token: &str, list: &[String]) -> Value {
        let seen = self.app.seen().len();
        let reply = peer.send(self.call(token, list)).await.unwrap();
        let record = refused(&self.orders, &reply, "custody_broken").await;
        assert_eq!(self.app.seen().len(), seen, "the app saw a stolen token");
        record
    }

    /// One of many tries: 1 if it had to be believed, and was.
    async fn believed(&self, peer: &mut Conn, token: &str, list: &[String], leads: bool) -> u32 {
        let reply = peer.send(self.call(token, list)).await.unwrap();
        let expected = if leads { 200 } else { 401 };
        assert_eq!(reply.status, expected, "{list:?}: {}", reply.text());
        u32::from(leads)
    }

    async fn accepts(&self, peer: &mut Conn, token: &str, list: &[String]) -> Value {
        allowed(&self.orders, &peer.send(self.call(token, list)).await.unwrap()).await
    }
}

/// Stolen at every depth of a -> b -> c -> d, presented by everybody, with every piece of the list
/// and every key there is: accepted only from where a piece of the path leads, with that holder's
/// own record.
#[tokio::test]
async fn a_stolen_token_is_worth_something_only_where_its_path_leads() {
    let heist = Heist::new().await;
    let path = ["a", "b", "c", "d"];
    let (mut accepted, mut tried) = (0_u32, 0_u32);
    for depth in 1..=path.len() {
        let held = &path[..depth];
        let token = heist.token("a");
        let stolen = heist.list(&token, held);
        for thief in WORKLOADS {
            let mut peer = heist.peer(thief).await;
            // As it was: addressed to whom it was stolen from.
            let rightful = stolen.is_empty() && thief == "a";
            tried += 1;
            if rightful {
                accepted += heist.believed(&mut peer, &token, &stolen, true).await;
            } else {
                heist.believed(&mut peer, &token, &stolen, false).await;
            }
            for kept in 0..=stolen.len() {
                let before = &stolen[..kept];
                for signer in WORKLOADS {
                    for (sub, aud) in
                        [(thief, "orders"), (path[kept], "orders"), (path[kept], thief)]
                    {
                        let claims = record(&token, before, &heist.id(sub), &heist.id(aud));
                        let mut list = before.to_vec();
                        list.push(signed(heist.key(signer), &claims));
                        let leads = path[kept] == thief && sub == thief && aud == "orders";
                        tried += 1;
                        let leads = leads && signer == thief;
                        accepted += heist.believed(&mut peer, &token, &list, leads).await;
                    }
                }
            }
        }
    }
    let broken = ["reason=\"custody_broken\""];
    let refused = heist.orders.metric("countersign_refusals_total", &broken).await;
    assert_eq!(refused, f64::from(tried - accepted), "each for the same reason");
    assert_eq!(heist.app.seen().len(), accepted as usize, "the app saw a stolen token");
    assert!(accepted > 10 && tried > accepted * 10, "{accepted} of {tried}");
}

/// With the key of a sidecar that is not on the path nobody gets onto it.
#[tokio::test]
async fn attack_presents_token_with_hop_list_of_another() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    let list = heist.list(&token, &["a", "b", "orders"]);
    let mut thief = heist.peer("thief").await;
    heist.refuses(&mut thief, &token, &list).await;
    heist.accepts(&mut heist.peer("b").await, &token, &list).await;
    // Nor with a list that led to the thief with another token.
    let other = heist.list(&heist.token("a"), &["a", "thief", "orders"]);
    heist.refuses(&mut thief, &token, &other).await;
}

#[tokio::test]
async fn attack_presents_token_without_hop_list() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    for name in ["b", "thief"] {
        heist.refuses(&mut heist.peer(name).await, &token, &[]).await;
    }
}

#[tokio::test]
async fn attack_widens_scope_in_hop_record() {
    let heist = Heist::new().await;
    let mut claims = heist.lab.gateway.claims(&heist.id("a"));
    claims["scope"] = json!("orders.read orders.list");
    let token = heist.lab.gateway.sign(&claims);
    let scoped = |before: &[String], from: &str, to: &str, scope: &str| {
        let mut claims = record(&token, before, &heist.id(from), &heist.id(to));
        claims["scope"] = json!(scope);
        signed(heist.key(from), &claims)
    };
    let narrow = scoped(&[], "a", "b", "orders.read");
    let mut b = heist.peer("b").await;
    for wider in ["orders.read orders.list", "orders.list", "orders.read orders.write"] {
        let wider = scoped(std::slice::from_ref(&narrow), "b", "orders", wider);
        heist.refuses(&mut b, &token, &[narrow.clone(), wider]).await;
    }
    let own = signed(
        heist.key("b"),
        &record(&token, std::slice::from_ref(&narrow), &heist.id("b"), &heist.id("orders")),
    );
    let record = heist.accepts(&mut b, &token, &[narrow, own]).await;
    assert_eq!(record["scope"], json!(["orders.read"]), "{record}");
    assert_eq!(heist.app.last().header("countersign-scope"), Some("orders.read"));
}

#[tokio::test]
async fn attack_drops_the_first_hop() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    let list = heist.list(&token, &["a", "b", "c", "orders"]);
    let mut c = heist.peer("c").await;
    heist.accepts(&mut c, &token, &list).await;
    heist.refuses(&mut c, &token, &list[1..]).await;
    heist.refuses(&mut c, &token, &list[2..]).await;
    heist.refuses(&mut c, &token, &[list[0].clone(), list[2].clone()]).await;
}

#[tokio::test]
async fn attack_reorders_hops() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    let list = heist.list(&token, &["a", "b", "c", "orders"]);
    let mut c = heist.peer("c").await;
    for order in [[1, 0, 2], [0, 2, 1], [2, 1, 0]] {
        let list = order.map(|at: usize| list[at].clone());
        heist.refuses(&mut c, &token, &list).await;
    }
}

#[tokio::test]
async fn attack_moves_hop_record_to_another_token() {
    let heist = Heist::new().await;
    let (mine, stolen) = (heist.token("a"), heist.token("a"));
    let list = heist.list(&mine, &["a", "b", "orders"]);
    heist.refuses(&mut heist.peer("b").await, &stolen, &list).await;
    // With an own record for the stolen token the older one still gives it away.
    let own = record(&stolen, &list[..1], &heist.id("b"), &heist.id("orders"));
    let moved = [list[0].clone(), signed(heist.key("b"), &own)];
    heist.refuses(&mut heist.peer("b").await, &stolen, &moved).await;
}

#[tokio::test]
async fn attack_presents_hop_record_meant_for_another_callee() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    for list in [heist.list(&token, &["a", "b"]), heist.list(&token, &["a", "c"])] {
        heist.refuses(&mut heist.peer("a").await, &token, &list).await;
    }
}

#[tokio::test]
async fn attack_signs_hop_record_with_certificate_of_another() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    let claims = record(&token, &[], &heist.id("a"), &heist.id("thief"));
    let own = |before: &str| {
        let before = [before.to_owned()];
        let claims = record(&token, &before, &heist.id("thief"), &heist.id("orders"));
        [before[0].clone(), signed(heist.key("thief"), &claims)]
    };
    let mut thief = heist.peer("thief").await;
    let of_a = thumbprint(heist.key("a").leaf());
    for forged in [
        // The thief's key under the name of a's certificate, and under its own.
        signed_under(heist.key("thief"), &of_a, &claims),
        signed(heist.key("thief"), &claims),
        // A stolen key of somebody off the path.
        signed(heist.key("d"), &claims),
    ] {
        heist.refuses(&mut thief, &token, &own(&forged)).await;
    }
    heist.accepts(&mut thief, &token, &own(&signed(heist.key("a"), &claims))).await;
}

#[tokio::test]
async fn attack_sends_hop_certificate_of_other_domain() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    // Authorities nobody here trusts: of another domain, and of our own name.
    for domain in ["other.test", "lab.test"] {
        let foreign = Tokens::of(&Authority::new(domain), "shop", "a");
        let claims = record(&token, &[], &heist.id("a"), &heist.id("b"));
        let first = signed(&foreign, &claims);
        let before = [first.clone()];
        let own = record(&token, &before, &heist.id("b"), &heist.id("orders"));
        let list = [first, signed(heist.key("b"), &own)];
        let call = Call::get("orders.shop", "/").context(&token);
        let call = call.header("countersign-hops", &list.join(", "));
        let call = call.header("countersign-certs", &certificate(foreign.leaf()));
        let reply = heist.peer("b").await.send(call).await.unwrap();
        let record = refused(&heist.orders, &reply, "custody_broken").await;
        assert_eq!(reply.header("countersign-certs"), None, "a bad certificate is not asked for");
        assert_eq!(record["stage"], "context");
    }
}

#[tokio::test]
async fn attack_uses_hop_certificate_after_its_end() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    for leaf in [
        heist.lab.ca.issue(Request::new(&[&heist.id("a")]).expired()),
        heist.lab.ca.issue(Request::new(&[&heist.id("a")]).not_yet_valid()),
    ] {
        let old = Tokens::new(heist.lab.ca.domain(), &heist.id("a"), leaf);
        let first = signed(&old, &record(&token, &[], &heist.id("a"), &heist.id("b")));
        let before = [first.clone()];
        let own = record(&token, &before, &heist.id("b"), &heist.id("orders"));
        let list = [first, signed(heist.key("b"), &own)];
        let call = Call::get("orders.shop", "/").context(&token);
        let call = call.header("countersign-hops", &list.join(", "));
        let call = call.header("countersign-certs", &certificate(old.leaf()));
        let reply = heist.peer("b").await.send(call).await.unwrap();
        refused(&heist.orders, &reply, "custody_broken").await;
    }
}

/// The channel stands for the peer's own record; whoever relies on it later finds it out, and does
/// not hold it against the one who passed it on.
#[tokio::test]
async fn attack_hands_on_a_bad_own_record() {
    let row = Row::start(&["s1", "s2"], |_| {}, |_, spec| spec).await;
    let lab = &row.lab;
    let liar = Tokens::of(&lab.ca, "shop", "liar");
    let token = lab.gateway.mint(&lab.id("shop", "liar"));
    let claims = record(&token, &[], &lab.id("shop", "liar"), &lab.id("shop", "s1"));
    let sound = signed(&liar, &claims);
    let bad = signed_under(&Tokens::of(&lab.ca, "shop", "x"), &thumbprint(liar.leaf()), &claims);
    let mut peer = lab.peer(row.sidecar("s1"), liar.leaf()).await;
    let mut call = async |list: &str, next: &str| {
        let call = Call::get("s1.shop", "/").context(&token).header("countersign-hops", list);
        peer.send(call.header("x-route", next)).await.unwrap()
    };
    assert_eq!(call(&bad, "").await.status, 200, "the channel stands for it");
    for _ in 0..30 {
        assert_eq!(call(&bad, "s2").await.status, 401);
    }
    row.refused_amidst("s2", "custody_broken", 30).await;
    let reply = call(&sound, "s2").await;
    assert_eq!(reply.status, 200, "s1 is not to blame: {}", reply.text());
}

/// The limit of custody, as documented: a path that returned to a workload can be cut back to that
/// workload's earlier stay, by that workload.
#[tokio::test]
async fn attack_cuts_hops_back_to_its_earlier_stay() {
    let heist = Heist::new().await;
    let token = heist.token("a");
    let list = heist.list(&token, &["a", "b", "a", "orders"]);
    let mut a = heist.peer("a").await;
    heist.accepts(&mut a, &token, &list).await;
    let cut = heist.list(&token, &["a", "orders"]);
    heist.accepts(&mut a, &token, &cut).await;
    heist.refuses(&mut heist.peer("b").await, &token, &cut).await;
}

/// A revoked holder's records count no more, cached or not, in the middle of a path.
#[tokio::test]
async fn attack_uses_records_of_a_revoked_holder() {
    let (lab, app) = (Lab::new(), App::mirror());
    let orders = lab
        .revocable(app.address, countersign_integration::documents::anybody(), |spec| spec)
        .await;
    let [a, b] = ["a", "b"].map(|name| Tokens::of(&lab.ca, "shop", name));
    let id = |name: &str| lab.id("shop", name);
    let token = lab.gateway.mint(&id("a"));
    let first = signed(&a, &record(&token, &[], &id("a"), &id("b")));
    let before = [first.clone()];
    let own = signed(&b, &record(&token, &before, &id("b"), &id("orders")));
    let call = || {
        let call = Call::get("orders.shop", "/").context(&token);
        let call = call.header("countersign-hops", &format!("{first}, {own}"));
        call.header("countersign-certs", &certificate(a.leaf()))
    };
    let mut peer = lab.peer(&orders, b.leaf()).await;
    allowed(&orders, &peer.send(call()).await.unwrap()).await;
    lab.revoke(
        json!({"identities": [{"spiffeId": id("a"), "issuedBefore": "2126-01-01T00:00:00Z"}]}),
    );
    orders.reload();
    let reply = countersign_integration::wait::until("the revocation", async || {
        let reply = peer.send(call()).await.unwrap();
        (reply.status != 200).then_some(reply)
    })
    .await;
    refused(&orders, &reply, "custody_broken").await;
}

/// A revoked certificate of an issuer: what it signed, or signs, counts no more, whoever presents it.
/// That is not held against those who were handed it.
#[tokio::test]
async fn attack_revoked_issuer_keeps_minting() {
    let (lab, app) = (Lab::new(), App::mirror());
    let orders = lab
        .revocable(app.address, countersign_integration::documents::anybody(), |spec| spec)
        .await;
    let a = Tokens::of(&lab.ca, "shop", "a");
    let mut peer = lab.peer(&orders, a.leaf()).await;
    let old = lab.gateway.mint(&lab.id("shop", "a"));
    let mut call =
        async |token: &str| peer.send(Call::get("orders.shop", "/").context(token)).await.unwrap();
    let (gateway, never) = (lab.id("edge", "gateway"), "2126-01-01T00:00:00Z");
    for entries in [
        json!({"certificates": [{"sha256": hex(lab.gateway.leaf())}]}),
        json!({"identities": [{"spiffeId": gateway, "issuedBefore": never}]}),
    ] {
        allowed(&orders, &call(&old).await).await;
        lab.revoke(entries);
        let reply = countersign_integration::wait::until("the revocation", async || {
            let reply = call(&old).await;
            (reply.status != 200).then_some(reply)
        })
        .await;
        refused(&orders, &reply, "token_revoked").await;
        let seen = app.seen().len();
        for _ in 0..30 {
            let fresh = lab.gateway.mint(&lab.id("shop", "a"));
            refused(&orders, &call(&fresh).await, "token_revoked").await;
        }
        assert_eq!(app.seen().len(), seen, "the app saw a token of a revoked issuer");
        lab.revoke(json!({}));
        let back = async || (call(&old).await.status == 200).then_some(());
        countersign_integration::wait::until("its end", back).await;
    }
}
