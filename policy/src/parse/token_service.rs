//! Reads `tokenService` of a `ContextPolicy`: nothing is granted that is not written.

use countersign_workload_id::IdPattern;

use super::{known::Known, mesh, scalars};
use crate::{
    doc::{AssertKey, RctxKey, Requester, SubjectToken, TokenService},
    yaml::{Fields, Findings, Node, read},
};

/// Most entries of one service.
const REQUESTERS_MAX: usize = 1_000;
/// Tokens a second of one requester, where the entry does not say.
const RATE: u32 = 10;
/// Most tokens a second an entry may grant.
const RATE_MAX: u64 = 10_000;
/// Replacements of one transaction, where the document does not say.
const REPLACEMENTS: usize = 3;
/// Most of them: what `tctx.req_chain` holds.
const REPLACEMENTS_MAX: u64 = 8;

/// Facts that a verified credential of a user holds.
const USER_FACTS: &[(&str, RctxKey)] = &[
    ("idp", RctxKey::Idp),
    ("client_id", RctxKey::ClientId),
    ("acr", RctxKey::Acr),
    ("auth_time", RctxKey::AuthTime),
    ("amr", RctxKey::Amr),
    ("acct", RctxKey::Acct),
    ("groups", RctxKey::Groups),
    ("claims", RctxKey::Claims),
];

pub(super) fn read(
    node: &Node,
    known: &Known,
    findings: &mut Findings<'_>,
) -> Option<TokenService> {
    let mut fields = Fields::of(node, "tokenService", findings)?;
    let mut providers = Vec::new();
    let named = fields.optional("providers");
    for node in read::filled_list(named, findings) {
        let Some(name) = read::string(node, findings) else { continue };
        Known::check(node, &name, "IdentityProvider", &known.providers, |p| p.span, findings);
        providers.push(name);
    }
    let replacements = fields.optional("replacements");
    let replacements =
        replacements.and_then(|node| read::integer(node, 0, REPLACEMENTS_MAX, findings));
    let list = fields.required("requesters", findings);
    let span = fields.span();
    fields.finish(findings);
    let items = read::filled_list(list, findings);
    if items.len() > REQUESTERS_MAX {
        findings.error("E017", span, format!("more than {REQUESTERS_MAX} requesters"));
        return None;
    }
    let mut requesters: Vec<Requester> = Vec::new();
    for item in items {
        let Some(entry) = requester(item, known, findings) else { continue };
        if requesters.iter().any(|other| other.peer == entry.peer) {
            let message = format!("requester `{}` is listed twice", entry.peer);
            findings.error("E019", item.span, message).hint("write one entry for it");
        }
        needs_provider(item, &entry, &providers, findings);
        requesters.push(entry);
    }
    Some(TokenService {
        providers,
        replacements: replacements
            .map_or(REPLACEMENTS, |count| usize::try_from(count).unwrap_or(REPLACEMENTS)),
        requesters,
    })
}

/// Tokens of providers need providers.
fn needs_provider(
    node: &Node,
    entry: &Requester,
    providers: &[String],
    findings: &mut Findings<'_>,
) {
    let of_users = [SubjectToken::AccessToken, SubjectToken::IdToken, SubjectToken::Jwt];
    if providers.is_empty() && entry.subject_tokens.iter().any(|kind| of_users.contains(kind)) {
        findings
            .error("E013", node.span, "tokens of users are taken, and no provider is named")
            .hint("add `providers: [NAME]` to `tokenService`");
    }
}

fn requester(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<Requester> {
    let mut fields = Fields::of(node, "a requester", findings)?;
    let peer = fields.required("peer", findings).and_then(|node| peer(node, known, findings));
    let kinds = kinds(fields.required("subjectTokens", findings), SubjectToken::ALL, findings);
    let subjects_node = fields.optional("subjects");
    let subjects = mesh::subjects(subjects_node, findings);
    let origins: Vec<_> = read::filled_list(fields.required("origins", findings), findings)
        .iter()
        .filter_map(|node| read::one_of(node, mesh::ORIGINS, findings))
        .map(str::to_owned)
        .collect();
    let scopes = mesh::patterns(fields.required("scopes", findings), findings);
    let emit_node = fields.optional("emit");
    let emit = match emit_node {
        Some(_) => self::kinds(emit_node, USER_FACTS, findings),
        None => vec![RctxKey::Idp, RctxKey::Acct],
    };
    let assert = self::kinds(fields.optional("assert"), AssertKey::ALL, findings);
    let impersonate_node = fields.optional("impersonate");
    let impersonate = mesh::subjects(impersonate_node, findings);
    let rate = fields.optional("rate").and_then(|node| read::integer(node, 1, RATE_MAX, findings));
    let span = fields.span();
    fields.finish(findings);
    let names_somebody = kinds.contains(&SubjectToken::UnsignedJson);
    if names_somebody != subjects_node.is_some() {
        findings
            .error("E013", span, "`unsigned_json` and `subjects` need each other")
            .hint("nothing proves such a subject, so say which ones are believed: `subjects: [\"user:*\"]`");
    }
    let acts = kinds.contains(&SubjectToken::SelfSigned) && assert.contains(&AssertKey::Just);
    if impersonate_node.is_some() && !acts {
        findings
            .error("E013", span, "`impersonate` needs a statement of the job and its justification")
            .hint("add `self_signed` to `subjectTokens` and `just` to `assert`");
    }
    Some(Requester {
        peer: peer?,
        subject_tokens: kinds,
        subjects,
        origins,
        scopes,
        emit,
        assert,
        impersonate,
        rate: rate.map_or(RATE, |rate| u32::try_from(rate).unwrap_or(RATE)),
    })
}

fn peer(node: &Node, known: &Known, findings: &mut Findings<'_>) -> Option<IdPattern> {
    let pattern = scalars::id_pattern(node, findings)?;
    mesh::own_domain(node, pattern.trust_domain().as_str(), known, findings).then_some(pattern)
}

/// Words of a closed set, each once.
fn kinds<T: Copy + PartialEq>(
    node: Option<&Node>,
    known: &[(&'static str, T)],
    findings: &mut Findings<'_>,
) -> Vec<T> {
    let mut out = Vec::new();
    for item in read::filled_list(node, findings) {
        match read::one_of(item, known, findings) {
            Some(word) if out.contains(&word) => {
                findings.error("E019", item.span, format!("{} stands here twice", item.describe()));
            }
            Some(word) => out.push(word),
            None => {}
        }
    }
    out
}
