//! `identity.source.vault`: an address, a role that signs, and one way to log in.

use countersign_policy::yaml::{Fields, Node, read};

use crate::identity::{IdentitySource, VaultLogin, VaultRoleId, VaultSource, VaultTokenLogin};
use crate::limits::{IDENTITY_LIFE_S_MAX, VAULT_LIFE_S_MIN, VAULT_TRUST_REFRESH_S_MIN};
use crate::read::Reader;

/// Life that is asked for when nothing is written.
const LIFE_S: u64 = 3_600;
/// Time between two looks at authorities and revocation lists when nothing is written.
const TRUST_REFRESH_S: u64 = 300;

impl Reader<'_, '_> {
    pub(super) fn vault(&mut self, node: &Node) -> Option<IdentitySource> {
        let mut fields = Fields::of(node, "`vault`", self.findings)?;
        let address = fields.required("address", self.findings);
        let address = address.and_then(|node| self.vault_address(node));
        let ca = fields.optional("ca").and_then(|node| self.path(node));
        let namespace = fields.optional("namespace").and_then(|node| self.vault_path(node));
        let mount = fields.optional("mount").map(|node| self.vault_path(node));
        let role = fields.required("role", self.findings);
        let role = role.and_then(|node| self.vault_name(node));
        let life = fields.optional("ttl").and_then(|node| self.vault_life(node));
        let bundle = fields.optional("bundle").and_then(|node| self.path(node));
        let refresh = fields.optional("trustRefresh").and_then(|node| self.trust_refresh(node));
        let login = fields.required("login", self.findings);
        let login = login.and_then(|node| self.vault_login(node));
        self.finish(fields);
        Some(IdentitySource::Vault(VaultSource {
            address: address?,
            ca,
            namespace,
            mount: mount.unwrap_or_else(|| Some("pki".to_owned()))?,
            role: role?,
            life_s: life.unwrap_or(LIFE_S),
            bundle,
            trust_refresh_s: refresh.unwrap_or(TRUST_REFRESH_S),
            login: login?,
        }))
    }

    /// `https://host[:port]`; `http` only to this machine.
    fn vault_address(&mut self, node: &Node) -> Option<String> {
        let text = read::short_string(node, 2048, self.findings)?;
        let address = text.trim_end_matches('/');
        let (host, is_secure) = match address.split_once("://") {
            Some(("https", host)) => (host, true),
            Some(("http", host)) => (host, false),
            _ => ("", false),
        };
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(sound) {
            let message = format!("`{text}` is not the address of a server");
            self.error(
                node.span,
                message,
                "as in `https://vault.example.com:8200`, without a path",
            );
            return None;
        }
        let is_local = ["127.0.0.1", "localhost", "[::1]"].iter().any(|local| {
            host.strip_prefix(local).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
        });
        if !is_secure && !is_local {
            let message = format!("`{text}`: credentials would travel unprotected");
            self.error(node.span, message, "`https`; plain `http` only to an agent on loopback");
            return None;
        }
        Some(address.to_owned())
    }

    /// A mount or namespace: names with `/` between.
    fn vault_path(&mut self, node: &Node) -> Option<String> {
        let text = read::short_string(node, 512, self.findings)?;
        let path = text.trim_matches('/');
        if path.split('/').all(is_segment) {
            return Some(path.to_owned());
        }
        let message = format!("`{text}` is not a path of the server");
        self.error(node.span, message, "as in `pki` or `teams/shop/pki`, without `v1/`");
        None
    }

    fn vault_name(&mut self, node: &Node) -> Option<String> {
        let text = read::short_string(node, 256, self.findings)?;
        if is_segment(&text) {
            return Some(text);
        }
        let hint = "the name alone, as in `orders`";
        self.error(node.span, format!("`{text}` is not the name of a role"), hint);
        None
    }

    fn vault_life(&mut self, node: &Node) -> Option<u64> {
        let life = read::duration_s(node, self.findings)?;
        if (VAULT_LIFE_S_MIN..=IDENTITY_LIFE_S_MAX).contains(&life) {
            return Some(life);
        }
        let message = format!("{life} s is no life for a certificate");
        let hint = format!("from {VAULT_LIFE_S_MIN} s to {IDENTITY_LIFE_S_MAX} s; `1h` is usual");
        self.error(node.span, message, hint);
        None
    }

    fn trust_refresh(&mut self, node: &Node) -> Option<u64> {
        let time = read::duration_s(node, self.findings)?;
        if time >= VAULT_TRUST_REFRESH_S_MIN {
            return Some(time);
        }
        let hint = format!("at least {VAULT_TRUST_REFRESH_S_MIN}s: every workload asks");
        self.error(node.span, "the authorities would be asked for too often", hint);
        None
    }

    fn vault_login(&mut self, node: &Node) -> Option<VaultLogin> {
        let mut fields = Fields::of(node, "`vault.login`", self.findings)?;
        let kubernetes = fields.optional("kubernetes");
        let jwt = fields.optional("jwt");
        let approle = fields.optional("appRole");
        let (span, empty) = (fields.span(), fields.is_empty());
        self.finish(fields);
        match (kubernetes, jwt, approle) {
            (Some(node), None, None) => {
                self.token_login(node, "kubernetes").map(VaultLogin::Kubernetes)
            }
            (None, Some(node), None) => self.token_login(node, "jwt").map(VaultLogin::Jwt),
            (None, None, Some(node)) => self.approle(node),
            (None, None, None) if !empty => None, // what is written instead was reported above
            _ => {
                let hint = "write `{kubernetes: {role: NAME, tokenFile: PATH}}`, `{jwt: …}` or \
                            `{appRole: {roleId: ID, secretIdFile: PATH}}`";
                self.error(span, "a vault source logs in one way", hint);
                None
            }
        }
    }

    fn token_login(&mut self, node: &Node, mount: &'static str) -> Option<VaultTokenLogin> {
        let mut fields = Fields::of(node, "`vault.login`", self.findings)?;
        let mount = self.login_mount(&mut fields, mount);
        let role = fields.required("role", self.findings);
        let role = role.and_then(|node| self.vault_name(node));
        let token_file = self.required_path(&mut fields, "tokenFile");
        self.finish(fields);
        Some(VaultTokenLogin { mount: mount?, role: role?, token_file })
    }

    fn approle(&mut self, node: &Node) -> Option<VaultLogin> {
        let mut fields = Fields::of(node, "`vault.login.appRole`", self.findings)?;
        let mount = self.login_mount(&mut fields, "approle");
        let written = fields.optional("roleId");
        let file = fields.optional("roleIdFile");
        let secret_id_file = self.required_path(&mut fields, "secretIdFile");
        self.finish(fields);
        let role_id = match (written, file) {
            (Some(node), None) => {
                read::short_string(node, 4096, self.findings).map(VaultRoleId::Written)
            }
            (None, Some(node)) => self.path(node).map(VaultRoleId::File),
            _ => {
                let hint = "`roleId: ID` or `roleIdFile: PATH`";
                self.error(node.span, "an `appRole` login has one role id", hint);
                None
            }
        };
        Some(VaultLogin::AppRole { mount: mount?, role_id: role_id?, secret_id_file })
    }

    fn login_mount(&mut self, fields: &mut Fields<'_>, default: &'static str) -> Option<String> {
        match fields.optional("mount") {
            Some(node) => self.vault_path(node),
            None => Some(default.to_owned()),
        }
    }
}

/// What may stand between two `/` of a request's path without being encoded.
fn is_segment(text: &str) -> bool {
    let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(sound)
}
