//! Whom a mount vouches with and what it has revoked: all its issuers, with their lists.
//!
//! Invariant: all or nothing. A list that could not be fetched fails the whole look, because an
//! empty one in its place would bring revoked certificates back.

use std::fs;

use countersign_config::limits::VAULT_ISSUERS_MAX;
use countersign_workload_id::TrustDomain;
use rustls_pki_types::CertificateDer;

use super::{
    answers::Answer,
    explain,
    server::{Call, Server},
    trust,
};
use crate::{
    bundle::{Bundle, TrustBundles},
    crl::Crl,
    source::renewing::IssueError,
};

/// What a mount says about trust.
#[derive(Debug)]
pub(super) struct Authorities {
    bundle: Bundle,
    lists: Result<Vec<Crl>, IssueError>,
}

impl Authorities {
    /// Asks the mount, and reads the configured file in place of its authorities if there is one.
    pub(super) async fn fetch(server: &Server) -> Result<Authorities, IssueError> {
        let (all, lists) = of_mount(server).await?;
        let bundle = match &server.source.bundle {
            Some(path) => {
                let failed = |problem: String| {
                    let answer = format!("{}: {problem}", path.display());
                    IssueError::retry("read the authorities", answer)
                };
                let text = fs::read(path).map_err(|error| failed(error.to_string()))?;
                Bundle::from_pem(&text).map_err(|error| failed(error.to_string()))?
            }
            None => Bundle::from_certificates(trust::anchors(&all)).map_err(|error| {
                IssueError::retry("read the authorities", error.to_string())
                    .hint(format!("every issuer of `{}` has to be one", server.source.mount))
            })?,
        };
        Ok(Authorities { bundle, lists })
    }

    /// The certificates that end a path.
    pub(super) fn anchors(&self) -> &[CertificateDer<'static>] {
        self.bundle.certificates()
    }

    /// As they are published: for our own trust domain, and for no other. The revocation lists
    /// stand by themselves: that they cannot be had takes no authority away.
    pub(super) fn of_domain(
        self,
        domain: &TrustDomain,
    ) -> (TrustBundles, Result<Vec<Crl>, IssueError>) {
        ([(domain.clone(), self.bundle)].into_iter().collect(), self.lists)
    }
}

type Found = (Vec<CertificateDer<'static>>, Result<Vec<Crl>, IssueError>);

async fn of_mount(server: &Server) -> Result<Found, IssueError> {
    let mount = &server.source.mount;
    let path = format!("{mount}/issuers?list=true");
    let call = Call::public("list the issuers", &path);
    let answer = server.ask(&call).await?;
    // A mount without issuers answers 404 as well; Vault before 1.11 knows one issuer only.
    if matches!(answer.status, 403..=405) {
        return of_the_default(server).await;
    }
    if !answer.is_good() {
        return Err(refused(server, &call, &answer));
    }
    let issuers = answer.keys().map_err(|unusable| call.unusable(unusable))?;
    if issuers.len() > VAULT_ISSUERS_MAX {
        let found = issuers.len();
        let error = call.failed(format!("{found} issuers, {VAULT_ISSUERS_MAX} are taken"));
        return Err(error.hint("a mount of its own for this trust domain, or remove old issuers"));
    }
    let (mut all, mut lists) = (Vec::new(), Ok(Vec::new()));
    for issuer in issuers {
        let path = format!("{mount}/issuer/{issuer}/json");
        let call = Call::public("fetch an issuer", &path);
        let answer = server.ask(&call).await?;
        if !answer.is_good() {
            return Err(refused(server, &call, &answer));
        }
        all.extend(answer.issuer().map_err(|unusable| call.unusable(unusable))?);
        if let Ok(crls) = &mut lists {
            match list(server, &format!("{mount}/issuer/{issuer}/crl/pem")).await {
                Ok(found) => crls.extend(found),
                Err(error) => lists = Err(error),
            }
        }
    }
    Ok((all, lists))
}

async fn of_the_default(server: &Server) -> Result<Found, IssueError> {
    let mount = &server.source.mount;
    let path = format!("{mount}/ca_chain");
    let call = Call::public("fetch the authorities", &path);
    let answer = server.ask(&call).await?;
    if answer.status == 204 {
        let error = call.failed("the mount has no issuer");
        return Err(error.hint("generate or import one, as in docs/identity/vault.md"));
    }
    if !answer.is_good() {
        return Err(refused(server, &call, &answer));
    }
    let all = answer.pem_certificates().map_err(|unusable| call.unusable(unusable))?;
    let list = list(server, &format!("{mount}/crl/pem")).await;
    Ok((all, list.map(|crl| crl.into_iter().collect())))
}

/// A revocation list; an issuer that signs none has none.
async fn list(server: &Server, path: &str) -> Result<Option<Crl>, IssueError> {
    let call = Call::public("fetch a revocation list", path);
    let answer = server.ask_for_list(&call).await?;
    match answer.status {
        204 | 404 => Ok(None),
        200 if answer.body.is_empty() => Ok(None),
        200 => answer.pem_crl().map(Some).map_err(|unusable| call.unusable(unusable)),
        _ => Err(refused(server, &call, &answer)),
    }
}

fn refused(server: &Server, call: &Call<'_>, answer: &Answer) -> IssueError {
    call.refused(answer, &[], |status, text| explain::trust(&server.source, status, text))
}
