//! A client of identity providers that is not ours: Node, with the JOSE library of oidc-provider's
//! author. It logs people in, gets tokens, and makes DPoP proofs.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{process, programs};

/// What a provider issued.
#[derive(Clone, Debug)]
pub struct Grant {
    /// The access token.
    pub access_token: String,
    /// The ID token, where somebody logged in.
    pub id_token: Option<String>,
    /// The refresh token, where the provider gives one.
    pub refresh_token: Option<String>,
    /// The private key a DPoP-bound token is bound to.
    jwk: Value,
}

/// The client.
#[derive(Clone, Debug)]
pub struct OAuthClient {
    /// Where `node_modules` is.
    pub modules: PathBuf,
    tls: Value,
}

impl OAuthClient {
    /// `None` where the Node packages are missing, which is said in the name of `test`.
    ///
    /// # Panics
    /// When the test-bed is required and missing.
    pub fn find(test: &str) -> Option<OAuthClient> {
        programs::system(test, "node")?;
        let modules = programs::node_packages(test)?.join("node_modules/oidc-provider");
        Some(OAuthClient { modules, tls: Value::Null })
    }

    /// For a provider whose certificate comes from `ca`; with a certificate of its own.
    #[must_use]
    pub fn over_tls(mut self, ca: &Path, own: Option<&(PathBuf, PathBuf)>) -> OAuthClient {
        self.tls =
            json!({"ca": ca, "certificate": own.map(|(c, _)| c), "key": own.map(|(_, k)| k)});
        self
    }

    /// Somebody logs in through the provider's forms.
    ///
    /// # Panics
    /// When nothing is issued.
    pub async fn login(&self, issuer: &str, client: &str, user: &str, more: Value) -> Grant {
        let mut asked = json!({"do": "login", "issuer": issuer, "client": client, "user": user});
        merge(&mut asked, more);
        grant(self.ask(asked).await.unwrap_or_else(|error| panic!("{user}: {error}")))
    }

    /// Another grant at the token endpoint.
    ///
    /// # Errors
    /// What the provider answered.
    pub async fn token(&self, issuer: &str, form: Value, more: Value) -> Result<Grant, String> {
        let mut asked = json!({"do": "token", "issuer": issuer, "form": form});
        merge(&mut asked, more);
        self.ask(asked).await.map(grant)
    }

    /// A proof for one request with this token.
    ///
    /// # Panics
    /// When the token is bound to no key.
    pub async fn proof(
        &self,
        grant: &Grant,
        method: &str,
        url: &str,
        nonce: Option<&str>,
    ) -> String {
        assert!(grant.jwk.is_object(), "the token is bound to no key");
        let asked = json!({
            "do": "proof", "jwk": grant.jwk, "method": method, "url": url, "nonce": nonce,
            "token": grant.access_token,
        });
        let made = self.ask(asked).await.unwrap();
        made["proof"].as_str().unwrap().to_owned()
    }

    /// Private keys for a provider: name and algorithm of each.
    ///
    /// # Panics
    /// When they cannot be made.
    pub async fn keys(&self, wanted: Value) -> Vec<Value> {
        let made = self.ask(json!({"do": "keys", "keys": wanted})).await.unwrap();
        made.as_array().unwrap().clone()
    }

    async fn ask(&self, mut asked: Value) -> Result<Value, String> {
        asked["modules"] = json!(self.modules);
        if self.tls.is_object() {
            asked["tls"] = self.tls.clone();
        }
        let done = tokio::task::spawn_blocking(move || {
            let mut command = Command::new("node");
            process::run(command.arg(script("oauth_client.mjs")).arg(asked.to_string()))
        });
        let done = done.await.unwrap();
        if !done.status.success() {
            return Err(String::from_utf8_lossy(&done.stderr).into_owned());
        }
        serde_json::from_slice(&done.stdout).map_err(|error| error.to_string())
    }
}

/// A script beside this file.
pub(super) fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/components").join(name)
}

fn merge(asked: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    for (name, value) in more {
        asked[name] = value;
    }
}

fn grant(answer: Value) -> Grant {
    let text = |name: &str| answer[name].as_str().map(str::to_owned);
    Grant {
        access_token: text("access_token").unwrap(),
        id_token: text("id_token"),
        refresh_token: text("refresh_token"),
        jwk: answer["jwk"].clone(),
    }
}
