//! Keycloak: a second OpenID provider, whose tokens look different. One server for all tests of a
//! run, because it takes half a minute to start; each test has people and clients of the one realm.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use http::Method;
use serde_json::{Value, json};
use tokio::sync::OnceCell;

use super::oauth::{Grant, OAuthClient};
use crate::client::{self, Call, Reply};
use crate::process::Process;
use crate::{ports, programs, wait};

/// A running server.
pub struct Keycloak {
    /// Who gets tokens there.
    pub client: OAuthClient,
    address: std::net::SocketAddr,
    // In this order: the process ends before its folder goes.
    process: Process,
    _folder: tempfile::TempDir,
}

/// Longest start on a busy machine with two cores.
const START: Duration = Duration::from_secs(150);
/// Client secret of everybody there.
const SECRET: &str = "secret";

/// The server of this test run; `None` where it, Java or Node are missing, which is said in the
/// name of `test`.
///
/// # Panics
/// When the test-bed is required and missing, or the server does not start.
pub async fn shared(test: &str) -> Option<&'static Keycloak> {
    static SHARED: OnceCell<Option<Keycloak>> = OnceCell::const_new();
    SHARED.get_or_init(|| Keycloak::start(test)).await.as_ref()
}

impl Keycloak {
    async fn start(test: &str) -> Option<Keycloak> {
        let home = programs::of_maven(test, "keycloak")?;
        programs::system(test, "java")?;
        let client = OAuthClient::find(test)?;
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path();
        for name in ["conf", "lib"] {
            symlink(home.join(name), own.join(name)).unwrap();
        }
        for name in ["data/import", "providers"] {
            fs::create_dir_all(own.join(name)).unwrap();
        }
        fs::write(own.join("data/import/shop-realm.json"), realm().to_string()).unwrap();
        let address = ports::free();
        let process = Process::start("keycloak", command(&home, own, address), own);
        let keycloak = Keycloak { client, address, process, _folder: folder };
        wait::until_within(START, "Keycloak", async || {
            if let Some(status) = keycloak.process.exit_status() {
                panic!("Keycloak ended with {status}\n{}", keycloak.process.tail());
            }
            let mut conn = client::Conn::h1(address).await.ok()?;
            let reply = conn.send(Call::get(&address.to_string(), "/realms/shop")).await.ok()?;
            (reply.status == 200).then_some(())
        })
        .await;
        Some(keycloak)
    }

    /// The `iss` of its realm.
    pub fn issuer(&self) -> String {
        format!("http://{}/realms/shop", self.address)
    }

    /// Somebody's token through one of its clients: `webshop`, `webshop-es256`, `webshop-jwt` whose
    /// access tokens do not say in their header that they are such, `webshop-dpop`.
    ///
    /// # Panics
    /// When there is none.
    pub async fn login(&self, shop: &str, user: &str) -> Grant {
        let form = json!({
            "grant_type": "password", "client_id": shop, "client_secret": SECRET,
            "username": user, "password": "pw", "scope": "openid",
        });
        let more = json!({"dpop": shop == "webshop-dpop"});
        self.client.token(&self.issuer(), form, more).await.unwrap()
    }

    /// Uses a refresh token.
    ///
    /// # Errors
    /// What Keycloak answered.
    pub async fn refresh(&self, shop: &str, grant: &Grant) -> Result<Grant, String> {
        let form = json!({
            "grant_type": "refresh_token", "client_id": shop, "client_secret": SECRET,
            "refresh_token": grant.refresh_token,
        });
        self.client.token(&self.issuer(), form, Value::Null).await
    }

    /// Ends the session behind a token.
    ///
    /// # Panics
    /// When Keycloak refuses.
    pub async fn log_out(&self, shop: &str, grant: &Grant) {
        let token = grant.refresh_token.as_deref().unwrap();
        let form = format!("client_id={shop}&client_secret={SECRET}&refresh_token={token}");
        let path = "/realms/shop/protocol/openid-connect/logout";
        let call = Call::post(&self.address.to_string(), path, form)
            .header("content-type", "application/x-www-form-urlencoded");
        let reply = client::call(self.address, call).await;
        assert_eq!(reply.status, 204, "{}", reply.text());
    }

    /// Makes a new RSA key that signs from now on; the others stay published.
    ///
    /// # Panics
    /// When Keycloak refuses.
    pub async fn new_signing_key(&self, priority: u32) {
        let realm = self.admin(Method::GET, "/admin/realms/shop", None).await.json();
        let key = json!({
            "name": format!("key-{priority}"), "providerId": "rsa-generated",
            "providerType": "org.keycloak.keys.KeyProvider", "parentId": realm["id"],
            "config": {"priority": [priority.to_string()], "keySize": ["2048"]},
        });
        let reply = self.admin(Method::POST, "/admin/realms/shop/components", Some(key)).await;
        assert_eq!(reply.status, 201, "{}", reply.text());
    }

    async fn admin(&self, method: Method, path: &str, body: Option<Value>) -> Reply {
        let issuer = format!("http://{}/realms/master", self.address);
        let form = json!({
            "grant_type": "password", "client_id": "admin-cli", "username": "admin", "password": "pw",
        });
        let token = self.client.token(&issuer, form, Value::Null).await.unwrap().access_token;
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        let call = Call::post(&self.address.to_string(), path, body).method(method).bearer(&token);
        client::call(self.address, call.header("content-type", "application/json")).await
    }
}

/// As `kc.sh start --optimized` runs it, with a folder of the test's own.
fn command(home: &Path, own: &Path, address: std::net::SocketAddr) -> Command {
    let mut command = Command::new("java");
    command.current_dir(own).args(["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    for name in ["java.util", "java.util.concurrent", "java.security"] {
        command.arg(format!("--add-opens=java.base/{name}=ALL-UNNAMED"));
    }
    command.arg("-Djava.security.egd=file:/dev/urandom");
    command.arg("-Djava.util.logging.manager=org.jboss.logmanager.LogManager");
    command.arg(format!("-Dkc.home.dir={}", own.display()));
    command.arg(format!("-Djboss.server.config.dir={}", own.join("conf").display()));
    command.arg("-cp").arg(home.join("lib/quarkus-run.jar"));
    command.arg("io.quarkus.bootstrap.runner.QuarkusEntryPoint");
    command.args(["start", "--optimized", "--import-realm", "--cache=local"]);
    command.args(["--http-enabled=true", "--http-host=127.0.0.1"]);
    command.arg(format!("--http-port={}", address.port()));
    command.arg(format!("--hostname=http://{address}"));
    command.env("KC_BOOTSTRAP_ADMIN_USERNAME", "admin").env("KC_BOOTSTRAP_ADMIN_PASSWORD", "pw");
    command
}

fn realm() -> Value {
    let user = |name: &str, roles: &[&str]| {
        json!({
            "username": name, "enabled": true, "firstName": name, "lastName": "Example",
            "email": format!("{name}@example.com"), "emailVerified": true, "realmRoles": roles,
            "credentials": [{"type": "password", "value": "pw"}],
        })
    };
    let scope = json!({
        "name": "orders.read", "protocol": "openid-connect",
        "attributes": {"include.in.token.scope": "true"},
    });
    let shop = |name: &str, attributes: Value| {
        json!({
            "clientId": name, "secret": SECRET, "publicClient": false,
            "directAccessGrantsEnabled": true, "standardFlowEnabled": false,
            "attributes": attributes, "protocolMappers": mappers(),
            "defaultClientScopes": ["orders.read"], "optionalClientScopes": [],
        })
    };
    let typed = "access.token.header.type.rfc9068";
    json!({
        "realm": "shop", "enabled": true, "sslRequired": "none", "clientScopes": [scope],
        "roles": {"realm": [{"name": "support"}, {"name": "billing"}]},
        "users": [user("alice", &["support", "billing"]), user("bob", &[])],
        "clients": [
            shop("webshop", json!({typed: "true"})),
            shop("webshop-jwt", json!({})),
            shop("webshop-es256", json!({typed: "true", "access.token.signed.response.alg": "ES256"})),
            shop("webshop-dpop", json!({typed: "true", "dpop.bound.access.tokens": "true"})),
        ],
    })
}

/// What an access token says beside what every token does; the scopes that say so by default do not
/// exist in a realm that names its own.
fn mappers() -> Value {
    let mapper = |name: &str, of: &str, config: Value| {
        let mut config = config;
        config["access.token.claim"] = json!("true");
        json!({
            "name": name, "protocol": "openid-connect", "protocolMapper": of, "config": config,
        })
    };
    let audience = json!({"included.custom.audience": "https://api.example.com"});
    let user = json!({
        "user.attribute": "username", "claim.name": "preferred_username", "jsonType.label": "String",
    });
    let roles = json!({
        "claim.name": "realm_access.roles", "jsonType.label": "String", "multivalued": "true",
    });
    json!([
        mapper("audience", "oidc-audience-mapper", audience),
        mapper("sub", "oidc-sub-mapper", json!({})),
        mapper("user", "oidc-usermodel-attribute-mapper", user),
        mapper("roles", "oidc-usermodel-realm-role-mapper", roles),
    ])
}
