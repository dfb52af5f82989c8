//! The rules as text for `nft -f -`, and what `nft -j list` shows compared with them. Pure.
//!
//! Invariant: loading is one transaction that replaces what was there, so there is no moment
//! without rules and no way to end with half of them. What is compared with is not a picture of our
//! own of what `nft` might print: the same rules are loaded into a table without hooks, and `nft`
//! prints both.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ipnet::IpNet;
use serde_json::Value;

use crate::intercept::rules::{Action, Chain, Family, Hook, List, MARK, Match, Plan, Rule, chains};
use crate::upstream::dial::APP_PRIORITY;

/// The table that acts.
pub const TABLE_NAME: &str = "countersign";
/// The table that only shows what the rules should look like.
pub const EXPECTED_NAME: &str = "countersign_expected";

/// Which families a table covers: its kind in `nft`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Both families at once; kernels before 5.2 cannot translate addresses there.
    Inet,
    /// IPv4 alone.
    Ip,
    /// IPv6 alone.
    Ip6,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Inet, Kind::Ip, Kind::Ip6];

    /// The word `nft` uses.
    pub fn word(self) -> &'static str {
        match self {
            Kind::Inet => "inet",
            Kind::Ip => "ip",
            Kind::Ip6 => "ip6",
        }
    }

    fn covers(self, family: Family) -> bool {
        match self {
            Kind::Inet => true,
            Kind::Ip => family == Family::V4,
            Kind::Ip6 => family == Family::V6,
        }
    }
}

/// The transaction that installs the rules, replacing older ones.
pub fn load(plan: &Plan, kinds: &[Kind]) -> String {
    let mut text = String::new();
    for kind in kinds {
        table(&mut text, plan, *kind, TABLE_NAME, Some);
    }
    text
}

/// The transaction that loads the same rules where they do nothing.
pub fn expected(plan: &Plan, kind: Kind) -> String {
    let mut text = String::new();
    table(&mut text, plan, kind, EXPECTED_NAME, |_| None);
    text
}

fn table(text: &mut String, plan: &Plan, kind: Kind, name: &str, hook: fn(Hook) -> Option<Hook>) {
    let word = kind.word();
    // Creating it first lets the deletion succeed, also where nothing was there.
    _ = writeln!(text, "add table {word} {name}\ndelete table {word} {name}");
    _ = writeln!(text, "table {word} {name} {{");
    sets(text, plan, kind);
    for chain in chains(plan) {
        write_chain(text, &chain, kind, chain.hook.and_then(hook));
    }
    text.push_str("}\n");
}

fn sets(text: &mut String, plan: &Plan, kind: Kind) {
    let ports = |ports: &[u16]| ports.iter().map(u16::to_string).collect::<Vec<_>>();
    let nets = |family| plan.nets(family).map(IpNet::to_string).collect::<Vec<_>>();
    for (list, kind_of_element, elements) in [
        (List::SkipIn, "inet_service", ports(&plan.skip_in)),
        (List::SkipOut, "inet_service", ports(&plan.skip_out)),
        (List::SkipOut4, "ipv4_addr", nets(Family::V4)),
        (List::SkipOut6, "ipv6_addr", nets(Family::V6)),
    ] {
        if list_family(list).is_some_and(|family| !kind.covers(family)) {
            continue;
        }
        let name = list_name(list);
        _ = write!(text, "  set {name} {{ type {kind_of_element}; flags interval;");
        if !elements.is_empty() {
            _ = write!(text, " elements = {{ {} }};", elements.join(", "));
        }
        text.push_str(" }\n");
    }
}

fn write_chain(text: &mut String, chain: &Chain, kind: Kind, hook: Option<Hook>) {
    _ = writeln!(text, "  chain {} {{", chain.name);
    if let Some(hook) = hook {
        let Place { kind, hook, priority } = place(hook);
        _ = writeln!(text, "    type {kind} hook {hook} priority {priority}; policy accept;");
    }
    for rule in chain.rules.iter().filter(|rule| applies(rule, kind)) {
        write_rule(text, rule);
    }
    text.push_str("  }\n");
}

/// Whether a rule says anything about the families of a table.
fn applies(rule: &Rule, kind: Kind) -> bool {
    rule.matches.iter().all(|wanted| match wanted {
        Match::To(net) => kind.covers(Family::of(net.addr())),
        Match::In(list) => list_family(*list).is_none_or(|family| kind.covers(family)),
        _ => true,
    })
}

fn write_rule(text: &mut String, rule: &Rule) {
    text.push_str("    ");
    for wanted in &rule.matches {
        _ = write!(text, "{} ", match_text(wanted));
    }
    let count = if rule.counted { "counter " } else { "" };
    let mark = format!("meta mark set {MARK:#x}");
    _ = match rule.action {
        Action::Return => write!(text, "{count}return"),
        Action::Goto(chain) => write!(text, "{count}goto {chain}"),
        Action::Redirect(port) => write!(text, "{count}redirect to :{port}"),
        Action::Drop => write!(text, "{count}drop"),
        Action::Accept => write!(text, "{count}accept"),
        Action::Tproxy(port) => write!(text, "tproxy to :{port} {mark} {count}accept"),
        Action::MarkPacket => write!(text, "{count}{mark}"),
        Action::MarkPacketReturn => write!(text, "{count}{mark} return"),
        Action::MarkPacketAccept => write!(text, "{count}{mark} accept"),
        Action::MarkConnectionReturn => write!(text, "{count}ct mark set {MARK:#x} return"),
    };
    _ = writeln!(text, " comment \"{}\"", rule.name);
}

fn match_text(wanted: &Match) -> String {
    match wanted {
        Match::NotFromLo => "iifname != \"lo\"".to_owned(),
        Match::FromLo => "iifname \"lo\"".to_owned(),
        Match::ToLo => "oifname \"lo\"".to_owned(),
        Match::Tcp => "meta l4proto tcp".to_owned(),
        Match::NotTcp => "meta l4proto != tcp".to_owned(),
        Match::UdpPort(port) => format!("udp dport {port}"),
        Match::Invalid => "ct state invalid".to_owned(),
        Match::To(IpNet::V4(net)) if net.prefix_len() == 32 => format!("ip daddr {}", net.addr()),
        Match::To(IpNet::V4(net)) => format!("ip daddr {net}"),
        Match::To(IpNet::V6(net)) if net.prefix_len() == 128 => {
            format!("ip6 daddr {}", net.addr())
        }
        Match::To(IpNet::V6(net)) => format!("ip6 daddr {net}"),
        Match::Port(port) => format!("tcp dport {port}"),
        Match::In(list @ (List::SkipIn | List::SkipOut)) => {
            format!("tcp dport @{}", list_name(*list))
        }
        Match::In(list @ List::SkipOut4) => format!("ip daddr @{}", list_name(*list)),
        Match::In(list @ List::SkipOut6) => format!("ip6 daddr @{}", list_name(*list)),
        Match::Local => "fib daddr type local".to_owned(),
        Match::Uid(uid) => format!("meta skuid {uid}"),
        Match::NotUid(uid) => format!("meta skuid != {uid}"),
        Match::ToApp => format!("meta priority 0:{APP_PRIORITY:x}"),
        Match::Marked => format!("ct mark {MARK:#x}"),
        Match::Reply => "ct direction reply".to_owned(),
        Match::Transparent => "socket transparent 1".to_owned(),
    }
}

fn list_name(list: List) -> &'static str {
    match list {
        List::SkipIn => "skip_in",
        List::SkipOut => "skip_out",
        List::SkipOut4 => "skip_out4",
        List::SkipOut6 => "skip_out6",
    }
}

fn list_family(list: List) -> Option<Family> {
    match list {
        List::SkipIn | List::SkipOut => None,
        List::SkipOut4 => Some(Family::V4),
        List::SkipOut6 => Some(Family::V6),
    }
}

/// Where a hook is, in the words of `nft`.
struct Place {
    kind: &'static str,
    hook: &'static str,
    priority: i64,
}

/// Numbers, because older versions know the names of priorities for some hooks only.
fn place(hook: Hook) -> Place {
    let (kind, hook, priority) = match hook {
        Hook::ArrivingFilter => ("filter", "prerouting", -150),
        Hook::ArrivingNat => ("nat", "prerouting", -100),
        Hook::LeavingNat => ("nat", "output", -100),
        Hook::LeavingRoute => ("route", "output", -150),
        Hook::LeavingFilter => ("filter", "output", 0),
    };
    Place { kind, hook, priority }
}

/// A table as `nft -j list table` shows it, without what changes by itself.
#[derive(Debug, Default)]
pub struct Listing {
    /// Chains with their places, `type hook priority policy`; empty without a hook.
    places: BTreeMap<String, String>,
    /// Rules of each chain: name and body.
    rules: BTreeMap<String, Vec<(String, Value)>>,
    /// Elements of each set.
    sets: BTreeMap<String, Vec<String>>,
}

impl Listing {
    /// Reads the output of `nft -j list table`; what it does not understand is left out, and shows
    /// as missing when compared.
    pub fn read(json: &str) -> Result<Listing, serde_json::Error> {
        let whole: Value = serde_json::from_str(json)?;
        let mut listing = Listing::default();
        for item in whole.get("nftables").and_then(Value::as_array).into_iter().flatten() {
            if let Some(chain) = item.get("chain") {
                listing.places.insert(text_of(chain, "name"), place_of(chain));
            } else if let Some(rule) = item.get("rule") {
                let body = without_counts(rule.get("expr").cloned().unwrap_or_default());
                let named = (text_of(rule, "comment"), body);
                listing.rules.entry(text_of(rule, "chain")).or_default().push(named);
            } else if let Some(set) = item.get("set") {
                let elements = set.get("elem").and_then(Value::as_array);
                let mut elements: Vec<_> =
                    elements.into_iter().flatten().map(Value::to_string).collect();
                elements.sort_unstable();
                listing.sets.insert(text_of(set, "name"), elements);
            }
        }
        Ok(listing)
    }

    /// What differs from `expected`, which was listed from a table without hooks; one line each.
    pub fn differences(&self, expected: &Listing, plan: &Plan) -> Vec<String> {
        let mut found = Vec::new();
        for chain in chains(plan) {
            let place = chain.hook.map_or_else(String::new, |hook| {
                let Place { kind, hook, priority } = place(hook);
                format!("{kind} {hook} {priority} accept")
            });
            match self.places.get(chain.name) {
                None => found.push(format!("chain {} is missing", chain.name)),
                Some(is) if *is != place => found
                    .push(format!("chain {} hooks in at `{is}` instead of `{place}`", chain.name)),
                Some(_) => {
                    let of = |listing: &Listing| {
                        listing.rules.get(chain.name).cloned().unwrap_or_default()
                    };
                    rule_differences(chain.name, &of(self), &of(expected), &mut found);
                }
            }
        }
        for name in self.places.keys().filter(|name| !expected.places.contains_key(*name)) {
            found.push(format!("chain {name} is not ours"));
        }
        for (name, elements) in &expected.sets {
            match self.sets.get(name) {
                Some(is) if is == elements => {}
                Some(is) => found.push(format!(
                    "set {name} holds [{}] instead of [{}]",
                    is.join(", "),
                    elements.join(", ")
                )),
                None => found.push(format!("set {name} is missing")),
            }
        }
        found
    }
}

fn rule_differences(
    chain: &str,
    is: &[(String, Value)],
    wanted: &[(String, Value)],
    found: &mut Vec<String>,
) {
    let before = found.len();
    for (name, body) in wanted {
        match is.iter().find(|(other, _)| other == name) {
            None => found.push(format!("rule {name} is missing")),
            Some((_, other)) if other != body => {
                found.push(format!("rule {name} is `{other}` instead of `{body}`"));
            }
            Some(_) => {}
        }
    }
    for (name, body) in is.iter().filter(|(name, _)| !wanted.iter().any(|(w, _)| w == name)) {
        let name = if name.is_empty() { "without a name" } else { name };
        found.push(format!("chain {chain} has a rule that is not ours, {name}: `{body}`"));
    }
    if found.len() == before && is != wanted {
        found.push(format!("chain {chain} has its rules in another order or twice"));
    }
}

fn text_of(value: &Value, field: &str) -> String {
    value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn place_of(chain: &Value) -> String {
    if chain.get("hook").is_none() {
        return String::new();
    }
    let priority = chain.get("prio").and_then(Value::as_i64).unwrap_or_default();
    let (kind, hook, policy) =
        (text_of(chain, "type"), text_of(chain, "hook"), text_of(chain, "policy"));
    format!("{kind} {hook} {priority} {policy}")
}

fn without_counts(mut body: Value) -> Value {
    for statement in body.as_array_mut().into_iter().flatten() {
        if let Some(counter) = statement.get_mut("counter") {
            *counter = Value::Null;
        }
    }
    body
}
