//! What somebody can do about an answer: the fix at the role, the policy, the mount or the server.
//! Pure; the texts are those of OpenBao and Vault, and an unknown one gets no hint.

use std::borrow::Cow;

use countersign_config::identity::{VaultLogin, VaultSource};
use countersign_workload_id::WorkloadId;
use rustls_pki_types::CertificateDer;

use crate::svid::{self, SvidError};

/// Something people are told to do.
pub(super) type Hint = Option<Cow<'static, str>>;

/// What holds for every call.
fn general(source: &VaultSource, status: u16, text: &str) -> Hint {
    if text.contains("namespace not found") {
        let named = source.namespace.as_deref().unwrap_or("(none)");
        return Some(format!("`namespace: {named}` does not exist on this server").into());
    }
    match status {
        301..=308 => Some(
            "a standby that does not forward; configure the address of the active node or of the \
             load balancer before it"
                .into(),
        ),
        429 => Some("a rate limit quota of the server; it is asked again later".into()),
        503 if text.contains("sealed") => {
            Some("the server is sealed: `bao operator unseal` (or `vault operator unseal`)".into())
        }
        500..=599 => Some("the server's own log says more".into()),
        _ => None,
    }
}

/// About a refused login.
pub(super) fn login(source: &VaultSource, status: u16, text: &str) -> Hint {
    if let Some(hint) = general(source, status, text) {
        return Some(hint);
    }
    let mount = source.login.mount();
    if text.contains("audience") {
        return Some(
            format!(
                "the token is for another audience: project one for the `audience` (or \
                 `bound_audiences`) of the role at `auth/{mount}`"
            )
            .into(),
        );
    }
    match &source.login {
        VaultLogin::AppRole { .. } => approle(mount, status),
        VaultLogin::Kubernetes(login) => kubernetes(mount, &login.role, status, text),
        VaultLogin::Jwt(login) => jwt(mount, &login.role, status, text),
    }
}

fn approle(mount: &str, status: u16) -> Hint {
    match status {
        400 => Some("role id or secret id is wrong, used up or expired: issue a new one".into()),
        403 | 404 => Some(no_method(mount, "approle")),
        _ => None,
    }
}

fn kubernetes(mount: &str, role: &str, status: u16, text: &str) -> Hint {
    if text.contains("not authorized") {
        let names = "bound_service_account_names and bound_service_account_namespaces";
        return Some(format!("{names} of `auth/{mount}/role/{role}` decide who may").into());
    }
    if text.contains("invalid role name") || text.contains("could not be found") {
        return Some(format!("there is no role `auth/{mount}/role/{role}`").into());
    }
    let reviewer = "the server could not have the token reviewed: is it still good, does its pod \
                    still exist, and may the reviewer review (system:auth-delegator)?";
    match status {
        403 => Some(format!("{reviewer} Or {}", no_method(mount, "kubernetes")).into()),
        404 => Some(no_method(mount, "kubernetes")),
        _ => None,
    }
}

fn jwt(mount: &str, role: &str, status: u16, text: &str) -> Hint {
    if text.contains("could not be found") || text.contains("missing role") {
        return Some(format!("there is no role `auth/{mount}/role/{role}`").into());
    }
    if text.contains("expired") {
        return Some("the token file holds an expired token: who writes it has stopped".into());
    }
    if text.contains("subject") || text.contains("claim") {
        return Some(format!("bound_subject, bound_claims of `auth/{mount}/role/{role}`").into());
    }
    match status {
        403 | 404 => Some(no_method(mount, "jwt")),
        _ => None,
    }
}

fn no_method(mount: &str, kind: &str) -> Cow<'static, str> {
    format!("is a method of kind `{kind}` enabled at `auth/{mount}`, in this namespace?").into()
}

/// About a refused signature.
pub(super) fn sign(source: &VaultSource, id: &WorkloadId, status: u16, text: &str) -> Hint {
    if let Some(hint) = general(source, status, text) {
        return Some(hint);
    }
    let role = format!("{}/roles/{}", source.mount, source.role);
    let hint = match status {
        400 if text.contains("requires keys of type") || text.contains("key size") => {
            format!("set key_type=ec key_bits=256 at `{role}`")
        }
        400 if text.contains("URI Subject Alternative Name") => {
            format!("set allowed_uri_sans={id} at `{role}`")
        }
        400 if text.contains("field is required") => {
            format!("set require_cn=false at `{role}`")
        }
        400 if text.contains("unknown role") => format!("there is no role `{role}`"),
        400 if text.contains("beyond the expiration of the CA") => format!(
            "the issuer of `{}` ends too soon: rotate it, or ask for a shorter `ttl`",
            source.mount
        ),
        400 if text.contains("no default issuer") || text.contains("no issuer") => {
            format!("`{}` has no issuer yet: generate or import one", source.mount)
        }
        403 => format!(
            "the policy of this login must hold: path \"{}/sign/{}\" {{ capabilities = \
             [\"update\"] }}",
            source.mount, source.role
        ),
        404 | 405 => no_mount(source),
        _ => return None,
    };
    Some(hint.into())
}

/// About refused authorities or revocation lists, which are public.
pub(super) fn trust(source: &VaultSource, status: u16, text: &str) -> Hint {
    general(source, status, text).or_else(|| match status {
        // To who does not log in, a mount that is not there is a forbidden one.
        403..=405 => Some(no_mount(source).into()),
        _ => None,
    })
}

fn no_mount(source: &VaultSource) -> String {
    format!("is a `pki` engine mounted at `{}`, in this namespace?", source.mount)
}

/// What is wrong with a certificate that was signed for `id`, as far as the role decides it.
pub(super) fn certificate(
    source: &VaultSource,
    id: &WorkloadId,
    leaf: &CertificateDer<'_>,
) -> Option<(String, String)> {
    let role = format!("{}/roles/{}", source.mount, source.role);
    // The time does not matter: what ended or has not begun is the gate's business.
    let found = svid::problems(std::slice::from_ref(leaf), svid::unix_time(0));
    found.into_iter().find_map(|problem| {
        let fix = match &problem {
            SvidError::BadSan(_) => format!(
                "`{role}` dropped the name: it needs use_csr_sans=true (the default) and \
                 allowed_uri_sans={id}"
            ),
            SvidError::BadEku => {
                format!("set server_flag=true client_flag=true (the default) at `{role}`")
            }
            SvidError::BadKeyUsage(_) => format!("set key_usage=DigitalSignature at `{role}`"),
            SvidError::NotALeaf => {
                format!("`{}` signs authorities: use a role, not sign-intermediate", source.mount)
            }
            _ => return None,
        };
        Some((problem.to_string(), fix))
    })
}
