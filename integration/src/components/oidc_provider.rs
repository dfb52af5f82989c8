//! oidc-provider: an OpenID provider on Node, with people, API clients and CI runners. Its keys are
//! what the test says, so that they can be rotated; over TLS it binds tokens to client certificates.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::oauth::{Grant, OAuthClient, script};
use crate::pki::{Authority, Request};
use crate::process::Process;
use crate::{ports, wait};

/// What its access tokens are for.
pub const AUDIENCE: &str = "https://api.example.com";

/// A running provider; dropping it stops it.
pub struct OidcProvider {
    /// Who gets tokens there.
    pub client: OAuthClient,
    address: SocketAddr,
    folder: PathBuf,
    tls: Value,
    process: Mutex<Option<Process>>,
}

impl OidcProvider {
    /// With one RSA and one P-256 key, named `rs-1` and `es-1`; `None` where Node or its packages
    /// are missing, which is said in the name of `test`.
    ///
    /// # Panics
    /// When the test-bed is required and missing, or the server does not start.
    pub async fn start(test: &str, parent: &Path) -> Option<OidcProvider> {
        let provider = OidcProvider::prepare(OAuthClient::find(test)?, parent, Value::Null);
        let keys = provider.first_keys().await;
        provider.run(&keys).await;
        Some(provider)
    }

    /// As [`OidcProvider::start`], over TLS, with a certificate from `ca`.
    ///
    /// # Panics
    /// As [`OidcProvider::start`].
    pub async fn start_tls(test: &str, parent: &Path, ca: &Authority) -> Option<OidcProvider> {
        let own = ca.issue(Request::new(&[]).dns("localhost")).write(parent, "oidc-provider.tls");
        let client = OAuthClient::find(test)?.over_tls(&ca.write_bundle(parent, "oidc-ca"), None);
        let tls = json!({"certificate": own.0, "key": own.1});
        let provider = OidcProvider::prepare(client, parent, tls);
        let keys = provider.first_keys().await;
        provider.run(&keys).await;
        Some(provider)
    }

    /// Installed, with an address, but not running.
    fn prepare(client: OAuthClient, parent: &Path, tls: Value) -> OidcProvider {
        let folder = parent.join("oidc-provider");
        fs::create_dir_all(&folder).unwrap();
        OidcProvider { client, address: ports::free(), folder, tls, process: Mutex::default() }
    }

    /// Two keys, `rs-1` and `es-1`.
    pub async fn first_keys(&self) -> Vec<Value> {
        self.client.keys(json!({"rs-1": "RS256", "es-1": "ES256"})).await
    }

    /// Its `iss`.
    pub fn issuer(&self) -> String {
        let port = self.address.port();
        if self.tls.is_null() {
            format!("http://{}", self.address)
        } else {
            format!("https://localhost:{port}")
        }
    }

    /// Starts it, or starts it again, with these keys; the first of an algorithm signs. What it
    /// knew of logins is gone.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn run(&self, keys: &[Value]) {
        let config = json!({
            "modules": self.client.modules, "issuer": self.issuer(), "audience": AUDIENCE,
            "keys": keys, "tls": self.tls,
        });
        let file = self.folder.join("config.json");
        fs::write(&file, config.to_string()).unwrap();
        self.stop();
        let mut command = Command::new("node");
        command.arg(script("oidc_provider.mjs")).arg(&file);
        let process = Process::start("oidc-provider", command, &self.folder);
        wait::until("oidc-provider", async || {
            if let Some(status) = process.exit_status() {
                panic!("oidc-provider ended with {status}\n{}", process.tail());
            }
            tokio::net::TcpStream::connect(self.address).await.ok().map(drop)
        })
        .await;
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }

    /// How often its keys were asked for, over all its lives.
    pub fn key_fetches(&self) -> usize {
        let log = fs::read_to_string(self.folder.join("oidc-provider.out")).unwrap_or_default();
        log.matches("keys were asked for").count()
    }

    /// Ends it at once.
    pub fn stop(&self) {
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Somebody logs in at a shop of this name; the token is signed with RS256.
    pub async fn login(&self, shop: &str, user: &str) -> Grant {
        self.login_for(shop, user, "/rs256").await
    }

    /// As [`OidcProvider::login`]; `/es256` gives a token signed with ES256.
    pub async fn login_for(&self, shop: &str, user: &str, resource: &str) -> Grant {
        let more = json!({
            "resource": format!("{AUDIENCE}{resource}"), "dpop": shop.ends_with("-dpop"),
        });
        self.client.login(&self.issuer(), shop, user, more).await
    }

    /// The token of a CI run.
    ///
    /// # Panics
    /// When there is none.
    pub async fn ci_run(&self, runner: &str) -> String {
        let form = json!({
            "grant_type": "client_credentials", "client_id": runner, "client_secret": "secret",
            "resource": AUDIENCE,
        });
        self.client.token(&self.issuer(), form, Value::Null).await.unwrap().access_token
    }
}
