//! What is established about a request beside its user: device, justification, groups.
//!
//! Runs once per request, before a connection to the callee is leased: whoever is asked may take its
//! time-out. Invariants: only what the mint rule carries is asked about; a no refuses the request;
//! no answer is what the document says, and never a yes.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use countersign_certs_client::{ClientNames, client_names};
use countersign_ctxtoken::{Device, Justification, UnixTime};
use countersign_policy::Documents;
use countersign_policy::doc::{ContextPolicy, DeviceSource, MintRule, OnUnavailable, RctxKey};

use crate::clock::Now;
use crate::gateway::accept::Connection;
use crate::gateway::attributes::{Answer, Answered, Attributes, Provider, Question, Unavailable};
use crate::gateway::capture::StatedJustification;
use crate::gateway::device::{self, Seen};
use crate::gateway::identify::EndUser;
use crate::gateway::mint::Who;
use crate::gateway::rules::GatewayRules;
use crate::gateway::vouched::{self, Taken};
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::telemetry::{Direction, RemovedFrom};

/// The attribute providers of the documents, by name.
pub type Providers = BTreeMap<String, Arc<Provider>>;

/// What is established.
#[derive(Default)]
pub struct Facts {
    /// The client's device.
    pub device: Option<Device>,
    /// Why the user wants it.
    pub justification: Option<Justification>,
    /// The user's groups, where somebody other than the user's credential says them.
    pub groups: Option<Groups>,
    /// SHA-256 of the client's certificate, base64url, if somebody vouches for it.
    pub certificate: Option<String>,
}

/// Groups and who says so.
pub struct Groups {
    /// The names; `None`: whoever should say gave no answer.
    pub names: Option<Vec<String>>,
    /// `dir:<provider>` or `header:<proxy>`.
    pub source: String,
}

/// The providers a gateway may ask.
pub fn providers(documents: &Documents) -> Providers {
    let all = documents.attributes.iter();
    all.map(|named| (named.name.clone(), Arc::new(named.clone()))).collect()
}

/// Checks that the listeners know the authorities that documents name.
///
/// # Errors
/// A sentence naming the one that is missing.
pub fn check_bundles<'l>(
    policy: &ContextPolicy,
    listeners: impl Iterator<Item = &'l countersign_config::GatewayListener> + Clone,
) -> Result<(), String> {
    let proxies = policy.proxies.iter().map(|proxy| &proxy.trust_bundle);
    let devices = policy.device.sources.iter().filter_map(|source| match source {
        DeviceSource::ClientCertificate { trust_bundle, .. } => Some(trust_bundle),
        DeviceSource::Header { .. } | DeviceSource::Claim { .. } => None,
    });
    let has = |listener: &countersign_config::GatewayListener, name: &String| {
        listener.tls.as_ref().is_some_and(|tls| tls.client_roots.contains_key(name))
    };
    for name in proxies.chain(devices) {
        if !listeners.clone().any(|listener| has(listener, name)) {
            return Err(format!(
                "the ContextPolicy names the trust bundle `{name}`, and no gateway listener has it \
                 in `tls.clientRoots`"
            ));
        }
    }
    Ok(())
}

/// What a request brings.
pub struct Brought<'a> {
    /// Fields that carry facts.
    pub taken: Taken,
    /// Whom the request is made for.
    pub who: Option<&'a Who>,
    /// The stated justification.
    pub stated: Option<&'a StatedJustification>,
}

/// A request, and who answers for it.
struct Asked<'a> {
    conn: &'a Connection,
    policy: &'a ContextPolicy,
    providers: &'a Providers,
    brought: Brought<'a>,
}

/// Establishes what the mint rule carries.
///
/// # Errors
/// `device_refused`, `justification_refused`, `validator_unavailable`.
pub async fn establish(
    conn: &Connection,
    (rules, rule): (&GatewayRules, Option<&MintRule>),
    brought: Brought<'_>,
    snap: &Snapshot,
    now: Now,
) -> Result<Facts, Refused> {
    let Some(rule) = rule else { return Ok(Facts::default()) };
    let (policy, providers) = (&*rules.policy, &rules.attributes);
    let asked = Asked { conn, policy, providers, brought };
    let (taken, stated) = (&asked.brought.taken, asked.brought.stated);
    let carries = |key| rule.rctx.contains(&key);
    let (vouching, names) = asked.certificate(snap, now);
    let proxies = vouched::proxies(asked.policy, &vouching, names.as_ref());
    if proxies.is_empty() {
        let (metrics, count) = (&asked.conn.worker().metrics, taken.count() as u64);
        metrics.reserved_removed(Direction::Gateway, RemovedFrom::Header, count);
    }
    let user = asked.user();
    let seen = Seen { vouching: &vouching, names: names.as_ref(), proxies: &proxies, taken, user };
    let device = device::find(&asked.policy.device, &seen, now);
    // Whatever the rule carries: nobody further on could ask this any more.
    check_revoked(device.as_ref(), snap, now)?;
    let device = device.filter(|_| carries(RctxKey::Dev) || carries(RctxKey::Just));
    let question = Question {
        provider: user.map(|user| user.provider().to_owned()),
        user: user.map(|user| user.id().to_owned()),
        account: user.and_then(|user| user.account()).map(str::to_owned),
        device: device.as_ref().map(|device| device.id.clone()),
        justification: stated.map(|stated| stated.reference.clone()),
    };
    let stated = stated.filter(|_| carries(RctxKey::Just));
    let device = device.filter(|_| carries(RctxKey::Dev));
    let (justification, device, groups) = tokio::join!(
        asked.justification(stated, &question, now),
        asked.device(device, &question, now),
        asked.groups(&proxies, &question, carries(RctxKey::Groups), now),
    );
    let certificate = asked.conn.client_certificate().filter(|_| !vouching.is_empty());
    Ok(Facts {
        device: device?,
        justification: justification?,
        groups: groups?,
        certificate: certificate.map(|one| URL_SAFE_NO_PAD.encode(one.sha256())),
    })
}

fn check_revoked(device: Option<&Device>, snap: &Snapshot, now: Now) -> Result<(), Refused> {
    let now_ms = i64::try_from(now.millis()).unwrap_or(i64::MAX);
    match device {
        Some(device) if snap.revocations.device(&device.id, now_ms) => {
            let detail = "a Revocation names this device";
            Err(Refused::new(Refusal::DeviceRefused, Stage::Mint, detail).with_sub("revoked"))
        }
        Some(_) | None => Ok(()),
    }
}

impl Asked<'_> {
    fn user(&self) -> Option<&EndUser> {
        match self.brought.who {
            Some(Who::User(user)) => Some(user.user()),
            Some(Who::Service(_)) | None => None,
        }
    }

    fn attributes(&self) -> &Attributes {
        &self.conn.worker().shared.attributes
    }

    /// Who vouches for the client's certificate, and its names; nothing of one that is revoked.
    fn certificate(&self, snap: &Snapshot, now: Now) -> (Arc<[Arc<str>]>, Option<ClientNames>) {
        let Some(certificate) = self.conn.client_certificate() else {
            return (Arc::default(), None);
        };
        let now_ms = i64::try_from(now.millis()).unwrap_or(i64::MAX);
        if snap.revocations.certificate(&certificate.sha256(), now_ms) {
            return (Arc::default(), None);
        }
        let vouching = self.conn.vouched_by(now);
        if vouching.is_empty() {
            return (vouching, None);
        }
        (vouching, certificate.leaf().and_then(client_names))
    }

    async fn ask(
        &self,
        name: &str,
        question: &Question,
        now: Now,
    ) -> Result<Option<Answered>, Refused> {
        let Some(provider) = self.providers.get(name) else {
            // Documents are checked as a whole, so this is a mistake of ours: not a yes.
            return Err(unavailable(name, "it is not among the documents"));
        };
        match self.attributes().ask(provider, question, now).await {
            Ok(answered) => Ok(Some(answered)),
            Err(Unavailable(why)) => match provider.spec.on_unavailable {
                OnUnavailable::Unknown => Ok(None),
                OnUnavailable::Refuse | OnUnavailable::UseStale(_) => Err(unavailable(name, &why)),
            },
        }
    }

    async fn justification(
        &self,
        stated: Option<&StatedJustification>,
        question: &Question,
        now: Now,
    ) -> Result<Option<Justification>, Refused> {
        let Some(stated) = stated else { return Ok(None) };
        let mut found = Justification {
            kind: stated.kind.clone(),
            reference: stated.reference.clone(),
            by: None,
            checked: false,
            at: Some(UnixTime(now.secs())),
            facts: None,
        };
        let kind = self.policy.justification_kinds.get(&stated.kind);
        let Some(validator) = kind.and_then(|kind| kind.validate.as_deref()) else {
            return Ok(Some(found));
        };
        found.by = Some(validator.to_owned());
        let Some(answered) = self.ask(validator, question, now).await? else {
            return Ok(Some(found));
        };
        match answered.answer {
            Answer::Yes(facts) => {
                found.checked = true;
                found.at = Some(UnixTime(answered.at));
                found.facts = (!facts.is_empty()).then_some(facts);
                Ok(Some(found))
            }
            Answer::No(code) => {
                let detail = refused_by(validator, "this justification", code.as_deref());
                let refusal = Refusal::JustificationRefused;
                Err(Refused::new(refusal, Stage::Mint, detail).telling(code))
            }
            Answer::Groups(_) => Err(unavailable(validator, "it is a directory")),
        }
    }

    async fn device(
        &self,
        device: Option<Device>,
        question: &Question,
        now: Now,
    ) -> Result<Option<Device>, Refused> {
        let (Some(device), Some(validator)) = (&device, &self.policy.device.validate) else {
            return Ok(device);
        };
        let device = device.clone();
        let Some(answered) = self.ask(validator, question, now).await? else {
            return Ok(Some(device::unvalidated(device)));
        };
        match answered.answer {
            Answer::Yes(facts) => device::validated(device, &facts, answered.at)
                .map(Some)
                .ok_or_else(|| unavailable(validator, "its `at` is no time that has passed")),
            Answer::No(code) => {
                let detail = refused_by(validator, "this device", code.as_deref());
                Err(Refused::new(Refusal::DeviceRefused, Stage::Mint, detail).telling(code))
            }
            Answer::Groups(_) => Err(unavailable(validator, "it is a directory")),
        }
    }

    async fn groups(
        &self,
        proxies: &[&countersign_policy::doc::VouchingProxy],
        question: &Question,
        carried: bool,
        now: Now,
    ) -> Result<Option<Groups>, Refused> {
        if !carried || question.user.is_none() {
            return Ok(None);
        }
        if let Some(from) = &self.policy.groups_from {
            let provider = question.provider.as_ref();
            if !provider.is_some_and(|provider| from.users.contains(provider)) {
                // Somebody the directory does not know, whatever their id is: the token says.
                return Ok(None);
            }
            let directory = &from.directory;
            let source = format!("dir:{directory}");
            return match self.ask(directory, question, now).await? {
                None => Ok(Some(Groups { names: None, source })),
                Some(Answered { answer: Answer::Groups(names), .. }) => {
                    Ok(Some(Groups { names: Some(names), source }))
                }
                Some(_) => Err(unavailable(directory, "it is no directory")),
            };
        }
        let told = vouched::groups(&self.brought.taken, proxies);
        Ok(told.map(|(names, source)| Groups { names: Some(names), source }))
    }
}

fn unavailable(provider: &str, why: &str) -> Refused {
    let detail = format!("AttributeProvider {provider}: {why}");
    Refused::new(Refusal::ValidatorUnavailable, Stage::Mint, detail)
}

fn refused_by(provider: &str, what: &str, code: Option<&str>) -> String {
    match code {
        Some(code) => format!("AttributeProvider {provider} does not accept {what}: {code}"),
        None => format!("AttributeProvider {provider} does not accept {what}"),
    }
}
