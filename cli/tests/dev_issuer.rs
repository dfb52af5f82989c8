//! The development issuer, and the gateway that believes its tokens, in one process: discovery,
//! keys and a token over real sockets, through a key rotation.

use std::sync::Arc;
use std::time::Duration;

use countersign_cli::dev::issuer::{self, Algorithm, IssuerConfig};
use countersign_cli::dev::token;
use countersign_policy::Place;
use countersign_policy::doc::{
    ClaimDeclaration, ClaimRole, ClaimType, CredentialSource, IdentityProvider,
    ProviderKeys as KeySource, UserAlgorithm,
};
use countersign_proxy::clock::Now;
use countersign_proxy::gateway::identify::{EndUser, IdentifyError, UserVerifier};
use countersign_proxy::gateway::provider_fetch::Fetcher;
use countersign_proxy::gateway::provider_keys::{KeysReader, Provider, ProviderKeys};
use tokio_util::sync::CancellationToken;

const AUDIENCE: &str = "https://api.example.com";

fn provider(issuer: &str) -> Arc<Provider> {
    let claim =
        |kind, role| ClaimDeclaration { kind, role: Some(role), keep: Vec::new(), at: Vec::new() };
    let claims = [
        ("sub", claim(ClaimType::String, ClaimRole::Id)),
        ("uid", claim(ClaimType::String, ClaimRole::AccountId)),
        ("groups", claim(ClaimType::StringList, ClaimRole::Groups)),
    ];
    let spec = IdentityProvider {
        issuer: issuer.to_owned(),
        audiences: vec![AUDIENCE.to_owned()],
        algorithms: vec![UserAlgorithm::RS256, UserAlgorithm::ES256],
        token_types: vec!["at+jwt".to_owned()],
        keys: KeySource::Discovery {
            api_server: None,
            allowed_hosts: Vec::new(),
            refresh_s: 900,
            unknown_key_cooldown_s: 0,
            max_stale_s: 86_400,
        },
        from: vec![CredentialSource {
            header: "authorization".to_owned(),
            scheme: Some("Bearer".to_owned()),
        }],
        claims: claims.map(|(name, claim)| (name.to_owned(), claim)).into(),
        subject_prefix: None,
        grants: None,
        required_claims: Default::default(),
        sender: Default::default(),
    };
    let place = Place { file: "mesh.yaml".into(), line: 1, column: 1 };
    Arc::new(Provider { namespace: String::new(), name: "dev".to_owned(), spec, place })
}

/// The gateway's side.
struct Gateway {
    verifier: UserVerifier,
    keys: KeysReader,
    _tasks: ProviderKeys,
}

impl Gateway {
    fn of(issuer: &str) -> Gateway {
        let provider = provider(issuer);
        let mut tasks = ProviderKeys::new(Fetcher::with_roots(rustls::RootCertStore::empty()));
        tasks.set_providers(std::slice::from_ref(&provider));
        let keys = tasks.reader();
        Gateway { verifier: UserVerifier::new([provider]), keys, _tasks: tasks }
    }

    fn identify(&self, token: &str) -> Result<EndUser, IdentifyError> {
        let mut headers = http::HeaderMap::new();
        headers.insert("authorization", format!("Bearer {token}").parse().unwrap());
        self.verifier.identify(&headers, &self.keys.load(), Now::read()).map(Option::unwrap)
    }

    fn fetches(&self) -> u64 {
        self.keys.status().remove(0).fetches_total
    }

    async fn until_fetches(&self, count: u64) {
        for _ in 0..1_000 {
            if self.fetches() >= count {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("keys were not fetched: {:?}", self.keys.status());
    }
}

async fn check(algorithm: Algorithm) {
    let config = IssuerConfig {
        users: vec!["alice".parse().unwrap(), "ann:uid=7,groups=support".parse().unwrap()],
        audiences: vec![AUDIENCE.to_owned()],
        rotate: Duration::from_secs(3_600),
        token_ttl: Duration::from_secs(300),
        algorithm,
    };
    let (listener, issuer) = issuer::bind("127.0.0.1:0".parse().unwrap(), config).await.unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(issuer::serve(listener, issuer.clone(), stop.clone()));
    let gateway = Gateway::of(issuer.issuer());
    gateway.until_fetches(1).await;
    let token = async |user: &str| {
        token::fetch(issuer.issuer(), &token::user_form(user)).await.unwrap().unwrap()
    };

    let ann = gateway.identify(&token("ann").await).unwrap();
    assert_eq!(
        (ann.id(), ann.account(), ann.groups()),
        ("ann", Some("7"), &["support".to_owned()][..])
    );

    // The next key was published before it signed, so nobody has to fetch anything.
    let next_hour = Now::read().secs() + 3_601;
    let signing = issuer.advance(next_hour).unwrap();
    assert!(signing.is_some(), "rotated");
    assert_eq!(gateway.identify(&token("alice").await).unwrap().account(), Some("alice"));
    assert_eq!(gateway.fetches(), 1);

    // The one after it is new to the gateway: refused at once, fetched in the background.
    issuer.advance(next_hour + 3_601).unwrap();
    let newer = token("alice").await;
    assert_eq!(gateway.identify(&newer).unwrap_err().reason(), "user_token_invalid");
    gateway.until_fetches(2).await;
    assert_eq!(gateway.identify(&newer).unwrap().id(), "alice");

    let refused = token::fetch(issuer.issuer(), &token::user_form("bob")).await.unwrap();
    assert_eq!(refused.unwrap_err(), "no user `bob`; known: alice, ann");
    stop.cancel();
    serving.await.unwrap().unwrap();
}

#[test]
fn a_gateway_follows_the_issuer_through_rotations() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        check(Algorithm::Es256).await;
        check(Algorithm::Rs256).await;
    });
}
