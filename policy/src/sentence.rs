//! What an atom saw and what it wanted, as people say it.
//!
//! One sentence per atom, for `countersign why` and failing tests. Sentences follow the same
//! order of tests as `eval`; the truth value printed beside them always comes from there.

use countersign_workload_id::WorkloadId;
use jiff::civil::DateTime;

use crate::{
    chain,
    doc::{
        Atom, ProtocolMatch,
        access::{
            ClaimValue, JustificationAtom, ParamsAtom, SourceAt, SourceAtom, TokenAtom, UserAtom,
        },
    },
    eval::{self, BoundAtom},
    facts,
    input::{ContextFacts, Input, UserFacts},
    params::{Compared, compared},
    time::{DAY_NAMES, Hours, TimeAtom},
    tri::Tri,
};

/// `shop/cart`, or the path of an ID of another shape.
pub(crate) fn workload(id: &WorkloadId) -> String {
    match (id.namespace(), id.service_account()) {
        (Some(namespace), Some(account)) => format!("{namespace}/{account}"),
        _ => id.as_str().to_owned(),
    }
}

/// The request or connection, as `match.http`, `match.grpc` and `match.tcp` saw it.
pub(crate) fn request(protocol: &ProtocolMatch, input: &Input<'_>) -> String {
    let Some(request) = &input.request else {
        return match protocol {
            ProtocolMatch::Tcp => "opaque connection".to_owned(),
            ProtocolMatch::Http(_) | ProtocolMatch::Grpc(_) => {
                "opaque connection: nobody can say what is asked".to_owned()
            }
        };
    };
    let (method, path) = (request.method, request.path.path());
    let ProtocolMatch::Http(http) = protocol else { return format!("{method} {path}") };
    let headers = http.headers.iter().map(|header| {
        let state = match eval::header(header, request) {
            Tri::True => "accepted",
            Tri::False => "absent or other",
            Tri::Unknown => "ambiguous: more than one value",
        };
        format!(", header {} {state}", header.name)
    });
    format!("{method} {path}{}", headers.collect::<String>())
}

/// The sentence of one atom.
pub(crate) fn atom(bound: &BoundAtom, input: &Input<'_>) -> String {
    match &bound.atom {
        Atom::User(atom) => user(bound, atom, input),
        Atom::UserAbsent => user_absent(input),
        Atom::Source(atom) => source(atom, input),
        Atom::Time(atom) => time(atom, input),
        Atom::Justification(atom) => justification(bound, atom, input),
        Atom::Device(atom) => facts::device_sentence(atom, input),
        Atom::Token(atom) => token(atom, input),
        Atom::Chain(atom) => chain::sentence(atom, input),
        Atom::Params(atom) => params(atom, input),
    }
}

/// Whether a part of an atom is true, and what it says.
pub(crate) type Part = (bool, String);

/// Parts that decide: all of them if the atom is true, else those that are not.
pub(crate) fn join(parts: Vec<Part>) -> String {
    let all_true = parts.iter().all(|(good, _)| *good);
    let telling = parts.into_iter().filter(|(good, _)| all_true || !good).map(|(_, text)| text);
    telling.collect::<Vec<_>>().join(", ")
}

pub(crate) fn no_context(input: &Input<'_>) -> &'static str {
    if input.context.is_none() { "no context token came with the request" } else { "" }
}

fn user(bound: &BoundAtom, atom: &UserAtom, input: &Input<'_>) -> String {
    let Some(facts) = input.context.as_ref() else {
        return format!("no user: {}", no_context(input));
    };
    let Some(user) = facts.user.as_ref() else {
        return format!("no user: the transaction began as `{}`", facts.origin);
    };
    match user.provider {
        None => return "the token does not say which identity provider vouches".to_owned(),
        Some(own) if own != atom.provider => {
            return format!("{} is a user of {own}, rule names {}", user.id, atom.provider);
        }
        Some(_) => {}
    }
    let listed = atom.ids.is_empty() || atom.ids.iter().any(|id| id == user.id);
    let mut parts = Vec::new();
    if listed {
        parts.push((true, format!("{} of {}", user.id, atom.provider)));
    } else {
        parts.push((false, format!("{} is none of {}", user.id, atom.ids.join(", "))));
    }
    parts.extend(groups(atom, user));
    parts.extend(atom.claims.iter().map(|(name, any_of)| claim(name, any_of, user)));
    if let Some(max) = atom.max_auth_age_s {
        parts.push(age(
            "logged in",
            "the token does not carry the login time",
            user.auth_time,
            max,
            input,
        ));
    }
    if atom.is_resource_owner {
        parts.push(owner(bound, user, input));
    }
    join(parts)
}

fn groups(atom: &UserAtom, user: &UserFacts<'_>) -> Option<(bool, String)> {
    if atom.any_group.is_empty() && atom.all_groups.is_empty() {
        return None;
    }
    let Some(groups) = user.groups else {
        return Some((false, "the token does not carry groups".to_owned()));
    };
    let any = atom.any_group.is_empty() || atom.any_group.iter().any(|g| groups.contains(g));
    let lacking: Vec<&str> =
        atom.all_groups.iter().filter(|g| !groups.contains(g)).map(String::as_str).collect();
    let own = if groups.is_empty() { "no group".to_owned() } else { groups.join(", ") };
    Some(match (any, lacking.is_empty()) {
        (true, true) => (true, format!("in {own}")),
        (false, _) => (false, format!("in {own}; needs one of {}", atom.any_group.join(", "))),
        (true, false) => (false, format!("in {own}; lacks {}", lacking.join(", "))),
    })
}

fn claim(name: &str, any_of: &[ClaimValue], user: &UserFacts<'_>) -> (bool, String) {
    let wanted: Vec<String> = any_of.iter().map(ToString::to_string).collect();
    let Some(value) = user.claims.and_then(|claims| claims.get(name)) else {
        return (false, format!("the token does not carry claim {name}"));
    };
    let good = eval::claim(name, any_of, user) == Tri::True;
    let needs = if good { String::new() } else { format!(", needs one of {}", wanted.join(", ")) };
    (good, format!("{name} is {value}{needs}"))
}

fn owner(bound: &BoundAtom, user: &UserFacts<'_>, input: &Input<'_>) -> (bool, String) {
    let owner = bound
        .resource
        .as_ref()
        .and_then(|resource| resource.owner.as_ref())
        .zip(input.request)
        .and_then(|((template, param), request)| template.capture(param, request.path));
    match (user.account, owner) {
        (None, _) => (false, "the token does not carry the account id".to_owned()),
        (_, None) => (false, "the path does not name an owner".to_owned()),
        (Some(account), Some(owner)) if account == owner => {
            (true, format!("account {account} owns the resource"))
        }
        (Some(account), Some(owner)) => {
            (false, format!("account {account} is not the owner, {owner}"))
        }
    }
}

/// A limit on age: `logged in 3 h 02 min ago (limit 12 h)`.
pub(crate) fn age(
    what: &str,
    unknown: &str,
    at_s: Option<u64>,
    max_s: u64,
    input: &Input<'_>,
) -> (bool, String) {
    let Some(at) = at_s.and_then(|at| i64::try_from(at).ok()?.checked_mul(1000)) else {
        return (false, unknown.to_owned());
    };
    let good = eval::young_enough(at_s, max_s, input.now_ms) == Tri::True;
    let age_s = input.now_ms.saturating_sub(at) / 1000;
    let when = match u64::try_from(age_s) {
        Ok(age) => format!("{} ago", span(age)),
        Err(_) => format!("{} from now", span(age_s.unsigned_abs())),
    };
    (good, format!("{what} {when} (limit {})", span(max_s)))
}

fn user_absent(input: &Input<'_>) -> String {
    match &input.context {
        None => "no user: no context token came with the request".to_owned(),
        Some(facts) if facts.acting => "a worker acts for a user".to_owned(),
        Some(facts) if facts.origin == "user" => "the transaction began with a user".to_owned(),
        Some(facts) => format!("the transaction began as `{}`", facts.origin),
    }
}

fn source(atom: &SourceAtom, input: &Input<'_>) -> String {
    let sets = atom.cidr_sets.join(", ");
    let (ip, via) = match atom.at {
        SourceAt::Peer => (input.peer_ip, None),
        SourceAt::Origin => {
            let source = input.context.as_ref().and_then(|facts| facts.source);
            (source.map(|source| source.ip), source.map(|source| source.via))
        }
    };
    let Some(ip) = ip else {
        return match no_context(input) {
            "" => "the token does not carry the client's address".to_owned(),
            why => why.to_owned(),
        };
    };
    let seen = match via {
        Some(via) => format!("{ip} ({via})"),
        None => ip.to_string(),
    };
    let wrong_way =
        via.is_some_and(|via| !atom.sources.is_empty() && !atom.sources.iter().any(|s| s == via));
    match (atom.cidr_sets.is_empty(), wrong_way) {
        (_, true) => format!("{seen} was not learned by {}", atom.sources.join(", ")),
        (true, false) => format!("{seen} was learned by {}", atom.sources.join(", ")),
        (false, false) => format!("{seen} compared with {sets}"),
    }
}

fn time(atom: &TimeAtom, input: &Input<'_>) -> String {
    let Some(instant) = eval::instant(atom, input) else {
        return "no context token says when the request entered the mesh".to_owned();
    };
    let Some(local) = atom.local(instant) else {
        return "the clock shows no date".to_owned();
    };
    let windows: Vec<String> = atom.windows.iter().map(ToString::to_string).collect();
    let (windows, zone) = (windows.join(" or "), &atom.zone_name);
    match atom.at(instant) {
        Hours::Inside { until_ms } => {
            let end = atom.local(until_ms).map(|end| format!("; closes {}", clock(end)));
            format!("{} in {zone} is inside {windows}{}", clock(local), end.unwrap_or_default())
        }
        Hours::Outside => {
            let next = atom.next_opening(instant).map(|next| format!("; opens {}", clock(next)));
            format!("{} in {zone} is outside {windows}{}", clock(local), next.unwrap_or_default())
        }
        Hours::OutOfRange => "the clock shows no date".to_owned(),
    }
}

/// `Fri 22:14`.
fn clock(local: DateTime) -> String {
    let day = usize::try_from(local.weekday().to_monday_zero_offset()).unwrap_or(0);
    let name = DAY_NAMES.get(day).copied().unwrap_or_default();
    format!("{name} {:02}:{:02}", local.hour(), local.minute())
}

fn justification(bound: &BoundAtom, atom: &JustificationAtom, input: &Input<'_>) -> String {
    let Some(given) = input.context.as_ref().and_then(|facts| facts.justification) else {
        return match no_context(input) {
            "" => "no justification was given".to_owned(),
            why => format!("no justification: {why}"),
        };
    };
    let kind = format!("{} {}", given.kind, given.reference);
    let listed = atom.any_kind.is_empty() || atom.any_kind.iter().any(|own| own == given.kind);
    let mut parts = Vec::new();
    if listed {
        parts.push((true, kind));
    } else {
        parts.push((false, format!("{kind} is no {}", atom.any_kind.join(" or "))));
    }
    if atom.checked {
        let text = if given.checked {
            "accepted by its validator"
        } else {
            "not checked by any validator"
        };
        parts.push((given.checked, text.to_owned()));
    }
    if let Some(max) = atom.max_age_s {
        parts.push(age("given", "the token does not say when", given.at, max, input));
    }
    let resource = bound.resource.as_ref();
    for (name, test) in &atom.facts {
        parts.push(facts::fact_sentence(name, test, &given, resource, input));
    }
    join(parts)
}

fn token(atom: &TokenAtom, input: &Input<'_>) -> String {
    let Some(facts) = &input.context else { return no_context(input).to_owned() };
    let mut parts: Vec<(bool, String)> = scopes(atom, facts).into_iter().collect();
    if !atom.origins.is_empty() {
        let good = atom.origins.iter().any(|own| own == facts.origin);
        let needs =
            if good { String::new() } else { format!(", needs {}", atom.origins.join(" or ")) };
        parts.push((good, format!("the transaction began as {}{needs}", facts.origin)));
    }
    parts.extend(service(atom, facts));
    if let Some(max) = atom.max_age_s {
        parts.push(age("issued", "", Some(facts.issued_at), max, input));
    }
    join(parts)
}

fn service(atom: &TokenAtom, facts: &ContextFacts<'_>) -> Option<(bool, String)> {
    if atom.services.is_empty() {
        return None;
    }
    let Some(id) = facts.service else {
        return Some((false, "the subject is no service".to_owned()));
    };
    let good = atom.services.iter().any(|pattern| pattern.matches(id));
    let listed = || atom.services.iter().map(|own| own.as_str()).collect::<Vec<_>>().join(" or ");
    let needs = if good { String::new() } else { format!(", needs {}", listed()) };
    Some((good, format!("made for the service {id}{needs}")))
}

fn scopes(atom: &TokenAtom, facts: &ContextFacts<'_>) -> Option<(bool, String)> {
    if atom.any_scope.is_empty() && atom.all_scopes.is_empty() {
        return None;
    }
    let has = |scope: &&String| facts.scope.contains(scope);
    let any = atom.any_scope.is_empty() || atom.any_scope.iter().any(|scope| has(&scope));
    let lacking: Vec<&str> =
        atom.all_scopes.iter().filter(|scope| !has(scope)).map(String::as_str).collect();
    let own = facts.scope.join(" ");
    Some(match (any, lacking.is_empty()) {
        (true, true) => (true, format!("scope {own}")),
        (false, _) => (false, format!("scope {own}, needs one of {}", atom.any_scope.join(", "))),
        (true, false) => (false, format!("scope {own} lacks {}", lacking.join(", "))),
    })
}

/// Names only: the values are the user's.
fn params(atom: &ParamsAtom, input: &Input<'_>) -> String {
    if input.context.is_none() {
        return no_context(input).to_owned();
    }
    let told = compared(atom, input).map(|(name, result)| match result {
        Compared::Equal => (true, format!("`{name}` is the signed one")),
        Compared::Differs => (false, format!("`{name}` is not the signed one")),
        Compared::NotSigned => (false, format!("`{name}` was not signed")),
        Compared::NotOnceHere => (false, format!("`{name}` is not in the request exactly once")),
    });
    join(told.collect())
}

/// `4 s`, `41 min`, `3 h 02 min`, `2 d 5 h`.
pub(crate) fn span(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 if seconds.is_multiple_of(60) || minutes >= 10 => format!("{minutes} min"),
        60..3600 => format!("{minutes} min {:02} s", seconds % 60),
        3600..172_800 if minutes % 60 == 0 => format!("{hours} h"),
        3600..172_800 => format!("{hours} h {:02} min", minutes % 60),
        _ if hours % 24 == 0 => format!("{days} d"),
        _ => format!("{days} d {} h", hours % 24),
    }
}
