//! A `pki` engine of OpenBao or Vault: this process makes the key, logs in with what proves who
//! it is, and a role of the engine signs the one identity it asks for.
//!
//! Invariants: the key never leaves the process; a certificate without exactly our name is refused
//! with the fix at the role; whatever the server does, the last good identity stays until its end.

mod answers;
mod authorities;
mod explain;
mod review;
mod server;
#[cfg(test)]
mod tests;
mod tokens;
mod trust;

use std::{borrow::Cow, time::Duration};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use countersign_config::identity::VaultSource;
use countersign_workload_id::WorkloadId;
use serde_json::json;
use tracing::{debug, info, warn};

pub use self::review::{Finding, review};
use self::{
    answers::Signed,
    authorities::Authorities,
    server::{Call, Server},
    tokens::Tokens,
};
use super::{
    publish::{Failed, Publisher},
    renewing::{self, Authority, IssueError, Issued, Wanted},
};
use crate::{crl::Crl, key::KeyMaker, status::NextTry, svid};

/// A certificate may be this much shorter than asked for before somebody is told: servers count
/// from a start in the past.
const LIFE_SLACK_S: u64 = 60;

/// Keeps an identity of the role published for as long as the process lives.
pub(super) async fn run(publisher: &Publisher, source: &VaultSource, keys: &KeyMaker) {
    let Some(id) = publisher.expected_id().cloned() else {
        let answer = "no `expectedId` is configured, and the server does not know who we are";
        return never(publisher, source, answer);
    };
    let server = match Server::new(source.clone()) {
        Ok(server) => server,
        Err(problem) => return never(publisher, source, problem),
    };
    let tokens = Tokens::new(&server);
    let pki =
        Pki { server: &server, tokens: &tokens, id: &id, told_life_s: None, knows_lists: false };
    tokio::join!(
        renewing::run(publisher, pki, keys),
        tokens.keep(),
        refresh(publisher, &server, &id)
    );
}

fn never(publisher: &Publisher, source: &VaultSource, answer: &str) {
    let answer = answer.to_owned();
    let failed = Failed { authority: &source.address, call: "start", answer, hint: None };
    publisher.failed(failed, NextTry::Never);
}

/// The role that signs.
struct Pki<'s> {
    server: &'s Server,
    tokens: &'s Tokens<'s>,
    id: &'s WorkloadId,
    /// The shorter life that was told to people already.
    told_life_s: Option<u64>,
    /// Whether the revocation lists were all read once.
    knows_lists: bool,
}

impl Authority for Pki<'_> {
    fn name(&self) -> String {
        self.server.source.address.clone()
    }

    fn life_s(&self) -> u64 {
        self.server.source.life_s
    }

    async fn issue(&mut self, wanted: &Wanted<'_>) -> Result<Issued, IssueError> {
        let authorities = Authorities::fetch(self.server).await?;
        let signed = self.sign(wanted).await?;
        self.tell_shorter_life(&signed, wanted.life_s);
        let above = trust::intermediates(signed.authorities, authorities.anchors());
        let mut chain = vec![signed.leaf];
        chain.extend(above);
        let (bundles, lists) = authorities.of_domain(self.id.trust_domain());
        let crls = self.usable(lists)?;
        Ok(Issued { chain, bundles, crls })
    }
}

impl Pki<'_> {
    /// A signature with the token we hold, or, if the server does not take it, with a new one.
    async fn sign(&self, wanted: &Wanted<'_>) -> Result<Signed, IssueError> {
        let token = self.tokens.get().await?;
        match self.sign_with(wanted, &token.text).await {
            Err((403, error)) => {
                self.tokens.drop_token().await;
                if token.is_new {
                    return Err(error);
                }
                debug!(%error, "the token is not taken any more: logging in again");
                let token = self.tokens.get().await?;
                self.sign_with(wanted, &token.text).await.map_err(|(_, error)| error)
            }
            other => other.map_err(|(_, error)| error),
        }
    }

    async fn sign_with(
        &self,
        wanted: &Wanted<'_>,
        token: &str,
    ) -> Result<Signed, (u16, IssueError)> {
        let source = &self.server.source;
        let path = format!("{}/sign/{}", source.mount, source.role);
        // Where a role ignores the names of the request, those of the body count.
        let body = json!({
            "csr": wanted.csr_pem,
            "common_name": "",
            "exclude_cn_from_sans": true,
            "uri_sans": self.id.as_str(),
            "ttl": format!("{}s", wanted.life_s),
            "format": "pem",
        });
        let call = Call { name: "sign", path: &path, token: Some(token), body: Some(&body) };
        let answer = self.server.ask(&call).await.map_err(|error| (0, error))?;
        if !answer.is_good() {
            let hint = |status, text: &str| explain::sign(source, self.id, status, text);
            return Err((answer.status, call.refused(&answer, &[token], hint)));
        }
        let signed = answer.signed().map_err(|unusable| (0, call.unusable(unusable)))?;
        match explain::certificate(source, self.id, &signed.leaf) {
            Some((problem, fix)) => Err((0, call.failed(problem).hint(Cow::Owned(fix)))),
            None => Ok(signed),
        }
    }

    /// Without any list nobody is met for the first time. Later on the lists in force stay, and
    /// lists that cannot be had must not end an identity.
    fn usable(&mut self, lists: Result<Vec<Crl>, IssueError>) -> Result<Vec<Crl>, IssueError> {
        match lists {
            Err(error) if self.knows_lists => {
                let server = &self.server.source.address;
                warn!(server, %error, "revocation lists not refreshed; those in force stay");
                Ok(Vec::new())
            }
            lists => {
                self.knows_lists |= lists.is_ok();
                lists
            }
        }
    }

    /// Says once that a role gives less than is asked for.
    fn tell_shorter_life(&mut self, signed: &Signed, asked_s: u64) {
        let Ok(facts) = svid::facts(&signed.leaf) else { return };
        let life_s = facts.not_after.saturating_sub(facts.not_before);
        if life_s.saturating_add(LIFE_SLACK_S) < asked_s && self.told_life_s != Some(life_s) {
            self.told_life_s = Some(life_s);
            let Server { source: VaultSource { mount, role, .. }, .. } = self.server;
            warn!(asked_s, life_s, "max_ttl of {mount}/roles/{role} or of {mount} caps the life");
        }
    }
}

/// Takes over authorities and revocation lists between renewals; never returns.
async fn refresh(publisher: &Publisher, server: &Server, id: &WorkloadId) {
    let address = &server.source.address;
    let mut failing = false;
    loop {
        tokio::time::sleep(jittered(server.source.trust_refresh_s)).await;
        match look(publisher, server, id).await {
            Ok(()) => {
                if failing {
                    info!(server = address, "authorities refreshed again");
                }
                failing = false;
            }
            Err(error) if !failing => {
                failing = true;
                let hint = error.hint.as_deref();
                warn!(server = address, %error, hint, "authorities not refreshed");
            }
            Err(error) => debug!(%error, "authorities not refreshed"),
        }
    }
}

/// One look at authorities and lists. Authorities that do not vouch for the certificate we hold
/// stay out until one of theirs comes; a list counts at once.
async fn look(publisher: &Publisher, server: &Server, id: &WorkloadId) -> Result<(), IssueError> {
    let (bundles, lists) = Authorities::fetch(server).await?.of_domain(id.trust_domain());
    let renewed = publisher.renew_bundles(bundles);
    publisher.deliver_crls(&lists?);
    renewed.map(drop).map_err(|error| {
        let mount = &server.source.mount;
        let problem = format!("the issuers of {mount} do not vouch for our certificate: {error}");
        IssueError::retry("look at the authorities", problem).hint(format!(
            "keep the old issuer in `{mount}` until the last certificate of it has ended"
        ))
    })
}

/// Between 80 % and 100 %, so that a fleet that started together does not ask together.
fn jittered(seconds: u64) -> Duration {
    let mut random = [255];
    // Without randomness the wait is the longest one.
    let _ = SystemRandom::new().fill(&mut random);
    let [random] = random.map(u64::from);
    Duration::from_millis(seconds.saturating_mul(800 + 200 * random / 255))
}
