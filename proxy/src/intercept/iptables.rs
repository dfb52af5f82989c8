//! The same rules as text for `iptables-restore --noflush`, where the kernel has no `nft` tables
//! that translate addresses. One text per family. Pure.
//!
//! Invariant: only chains of our own are written, and one jump to each from a built-in chain. What
//! `iptables` cannot ask for is expressed otherwise with the same result: the proxy's mark on
//! connections to the app is a DSCP here, "another user" is two ranges of users, so that packets of
//! the kernel, which have none, pass as they do under `nft`.

use std::fmt::Write as _;

use ipnet::IpNet;

use crate::intercept::rules::{Action, Chain, Family, Hook, List, MARK, Match, Plan, Rule, chains};
use crate::upstream::dial::APP_DSCP;

/// What our chains start with.
const PREFIX: &str = "COUNTERSIGN_";

/// Tables with built-in chains we hook into.
const TABLES: [&str; 3] = ["mangle", "nat", "filter"];

/// The text that installs the rules of one family, replacing older ones. `saved` is what
/// `iptables-save` shows now: jumps that are there already move to the front, and chains that are
/// ours but not wanted go.
pub fn load(plan: &Plan, family: Family, saved: &str) -> String {
    let chains = chains(plan);
    let mut text = String::new();
    for table in TABLES {
        let mut here: Vec<_> = chains.iter().filter(|c| table_of(c, &chains) == table).collect();
        // A chain must exist before a rule leads to it.
        here.sort_by_key(|chain| chain.hook.is_some());
        let names: Vec<_> = here.iter().map(|chain| chain_name(chain.name)).collect();
        let mut lines = removal(saved, table, &names);
        lines.extend(names.iter().map(|name| format!(":{name} - [0:0]")));
        lines.extend(here.iter().flat_map(|chain| rules(chain, plan, family)));
        for (chain, name) in here.iter().zip(&names) {
            let Some((_, into)) = chain.hook.map(builtin) else { continue };
            lines.push(format!("-I {into} 1 -j {name}"));
        }
        transaction(&mut text, table, &lines);
    }
    text
}

/// The text that takes out whatever of ours `saved` shows; empty if there is nothing.
pub fn remove(saved: &str) -> String {
    let mut text = String::new();
    for table in TABLES {
        transaction(&mut text, table, &removal(saved, table, &[]));
    }
    text
}

/// The text that puts back what of ours `before` shows, where `now` is in force.
pub fn put_back(before: &str, now: &str) -> String {
    let mut text = String::new();
    for table in TABLES {
        let names: Vec<_> =
            in_table(before, table).filter_map(declared).map(str::to_owned).collect();
        let mut lines = removal(now, table, &names);
        lines.extend(names.iter().map(|name| format!(":{name} - [0:0]")));
        let in_ours = |line: &&str| line.starts_with(&format!("-A {PREFIX}"));
        lines.extend(in_table(before, table).filter(in_ours).map(str::to_owned));
        let jumps = in_table(before, table).filter(|line| is_jump(line));
        let jumps = jumps.filter_map(|line| line.strip_prefix("-A ")?.split_once(' '));
        lines.extend(jumps.map(|(into, rest)| format!("-I {into} 1 {rest}")));
        transaction(&mut text, table, &lines);
    }
    text
}

fn transaction(text: &mut String, table: &str, lines: &[String]) {
    if !lines.is_empty() {
        _ = writeln!(text, "*{table}\n{}\nCOMMIT", lines.join("\n"));
    }
}

/// Takes out our chains of a table but those that are written anew, and each jump to one of ours.
fn removal(saved: &str, table: &str, anew: &[String]) -> Vec<String> {
    let chains = in_table(saved, table).filter_map(declared);
    let chains: Vec<_> = chains.filter(|chain| !anew.iter().any(|name| name == chain)).collect();
    let jumps = in_table(saved, table).filter(|line| is_jump(line));
    let mut lines: Vec<_> = jumps.map(|line| line.replacen("-A", "-D", 1)).collect();
    lines.extend(chains.iter().map(|chain| format!("-F {chain}")));
    lines.extend(chains.iter().map(|chain| format!("-X {chain}")));
    lines
}

/// Whether `saved` shows anything of ours.
pub fn is_installed(saved: &str) -> bool {
    saved.lines().any(|line| declared(line).is_some())
}

/// What differs in `saved` from what [`load`] wrote: names and order of rules, where they lead, and
/// whom they are about. Not the spelling of other conditions, which varies between versions. Our
/// jumps must be the first of their chains: a rule in front of one decides before ours do.
pub fn differences(saved: &str, plan: &Plan, family: Family) -> Vec<String> {
    let wanted = load(plan, family, "");
    let mut found = Vec::new();
    for table in TABLES {
        let (is, wanted) = (chain_by_chain(saved, table), chain_by_chain(&wanted, table));
        for line in wanted.iter().filter(|line| !is.contains(line)) {
            found.push(format!("{}: {line} is missing from table {table}", family.text()));
        }
        for line in is.iter().filter(|line| !wanted.contains(line)) {
            found.push(format!("{}: {line} in table {table} is not ours", family.text()));
        }
        for jump in is.iter().filter(|line| line.name.is_empty() && wanted.contains(line)) {
            let from = format!("-A {} ", jump.chain);
            let first = in_table(saved, table).find(|line| line.starts_with(&from));
            if first.and_then(Line::read).as_ref() != Some(jump) {
                found.push(format!("{}: a rule of table {table} is before {jump}", family.text()));
            }
        }
        let ours = |line: &&Line| !line.name.is_empty();
        if found.is_empty() && !is.iter().filter(ours).eq(wanted.iter().filter(ours)) {
            found.push(format!("{}: table {table} has our rules in another order", family.text()));
        }
    }
    found
}

/// Our rules of a table, each chain's in their order.
fn chain_by_chain(saved: &str, table: &str) -> Vec<Line> {
    let mut lines: Vec<_> = in_table(saved, table).filter_map(Line::read).collect();
    lines.sort_by(|a, b| a.chain.cmp(&b.chain));
    lines
}

/// One rule as far as it is compared.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    chain: String,
    /// Empty for the jump from a built-in chain.
    name: String,
    target: String,
    /// The conditions of [`COMPARED`] with their values, in that order.
    values: Vec<String>,
}

/// What decides which packets a rule is about, and where it sends them.
const COMPARED: [&str; 10] =
    ["-s", "-d", "-i", "-o", "-p", "--sport", "--dport", "--uid-owner", "--to-ports", "--on-port"];

impl Line {
    /// A rule in one of our chains, or a jump to one.
    fn read(line: &str) -> Option<Line> {
        let (chain, rest) = line
            .strip_prefix("-A ")
            .or_else(|| line.strip_prefix("-I "))
            .and_then(|rest| rest.split_once(' '))?;
        if !chain.starts_with(PREFIX) && !is_jump(line) {
            return None;
        }
        let word_after = |flag: &str| {
            let mut words = rest.split_whitespace().skip_while(|word| *word != flag);
            words.nth(1).map(|word| word.trim_matches('"').to_owned())
        };
        let target = word_after("-j").or_else(|| word_after("-g"))?;
        Some(Line {
            chain: chain.to_owned(),
            name: word_after("--comment").unwrap_or_default(),
            target,
            values: COMPARED.into_iter().filter_map(|flag| value(rest, flag)).collect(),
        })
    }
}

/// A condition with its value, as it is compared; `None` where the rule has none, or one that says
/// nothing.
fn value(rule: &str, flag: &str) -> Option<String> {
    let words: Vec<_> = rule.split_whitespace().collect();
    let at = words.iter().position(|word| *word == flag)?;
    let not = at.checked_sub(1).and_then(|before| words.get(before)).is_some_and(|w| *w == "!");
    let written = words.get(at + 1)?;
    let value = match written.parse::<IpNet>() {
        Ok(net) if net.prefix_len() == 0 && !not => return None,
        Ok(net) => net.trunc().to_string(),
        Err(_) => (*written).to_owned(),
    };
    Some(format!("{}{flag} {value}", if not { "! " } else { "" }))
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.name.as_str() {
            "" if self.values.is_empty() => {
                write!(f, "the jump from {} to {}", self.chain, self.target)
            }
            "" => write!(f, "the jump ({}) to {}", self.values.join(" "), self.target),
            name if self.values.is_empty() => write!(f, "rule {name}"),
            name => write!(f, "rule {name} ({})", self.values.join(" ")),
        }
    }
}

/// The lines of one table.
fn in_table<'a>(saved: &'a str, table: &str) -> impl Iterator<Item = &'a str> {
    let start = format!("*{table}");
    let lines = saved.lines().skip_while(move |line| line.trim() != start).skip(1);
    lines.take_while(|line| line.trim() != "COMMIT").map(str::trim)
}

fn declared(line: &str) -> Option<&str> {
    let name = line.trim().strip_prefix(':')?.split(' ').next()?;
    name.starts_with(PREFIX).then_some(name)
}

fn is_jump(line: &str) -> bool {
    let mut words = line.split_whitespace();
    let is_rule = matches!(words.next(), Some("-A" | "-I"));
    let from_builtin = words.next().is_some_and(|chain| !chain.starts_with(PREFIX));
    is_rule && from_builtin && line.contains(&format!("-j {PREFIX}"))
}

fn chain_name(name: &str) -> String {
    format!("{PREFIX}{}", name.to_ascii_uppercase())
}

fn builtin(hook: Hook) -> (&'static str, &'static str) {
    match hook {
        Hook::ArrivingFilter => ("mangle", "PREROUTING"),
        Hook::ArrivingNat => ("nat", "PREROUTING"),
        Hook::LeavingNat => ("nat", "OUTPUT"),
        Hook::LeavingRoute => ("mangle", "OUTPUT"),
        Hook::LeavingFilter => ("filter", "OUTPUT"),
    }
}

/// The table a chain stands in: that of its hook, or of the chain that leads to it.
fn table_of(chain: &Chain, all: &[Chain]) -> &'static str {
    let leads_here =
        |other: &&Chain| other.rules.iter().any(|rule| rule.action == Action::Goto(chain.name));
    let hook = chain.hook.or_else(|| all.iter().find(leads_here).and_then(|other| other.hook));
    hook.map_or("nat", |hook| builtin(hook).0)
}

fn rules(chain: &Chain, plan: &Plan, family: Family) -> Vec<String> {
    let mut lines = Vec::new();
    for rule in &chain.rules {
        for conditions in conditions(rule, plan, family) {
            for action in actions(rule.action) {
                let chain = chain_name(chain.name);
                let name = rule.name;
                lines.push(format!("-A {chain}{conditions} -m comment --comment {name} {action}"));
            }
        }
    }
    lines
}

/// The conditions of a rule; several where one rule cannot hold a list, none for the other family.
fn conditions(rule: &Rule, plan: &Plan, family: Family) -> Vec<String> {
    let mut all = vec![String::new()];
    for wanted in &rule.matches {
        let spellings = spellings(*wanted, plan, family);
        all = all
            .iter()
            .flat_map(|so_far| spellings.iter().map(move |one| format!("{so_far} {one}")))
            .collect();
    }
    all
}

fn spellings(wanted: Match, plan: &Plan, family: Family) -> Vec<String> {
    let one = |text: &str| vec![text.to_owned()];
    let ports = |ports: &[u16]| ports.iter().map(|p| format!("-p tcp --dport {p}")).collect();
    match wanted {
        Match::NotFromLo => one("! -i lo"),
        Match::FromLo => one("-i lo"),
        Match::ToLo => one("-o lo"),
        Match::Tcp => one("-p tcp"),
        Match::NotTcp => one("! -p tcp"),
        Match::UdpPort(port) => vec![format!("-p udp --dport {port}")],
        Match::Invalid => one("-m conntrack --ctstate INVALID"),
        Match::To(net) if Family::of(net.addr()) == family => vec![format!("-d {net}")],
        Match::To(_) => Vec::new(),
        Match::Port(port) => ports(&[port]),
        Match::In(List::SkipIn) => ports(&plan.skip_in),
        Match::In(List::SkipOut) => ports(&plan.skip_out),
        Match::In(List::SkipOut4) if family == Family::V4 => nets(plan, family),
        Match::In(List::SkipOut6) if family == Family::V6 => nets(plan, family),
        Match::In(List::SkipOut4 | List::SkipOut6) => Vec::new(),
        Match::Local => one("-m addrtype --dst-type LOCAL"),
        Match::Uid(uid) => vec![format!("-m owner --uid-owner {uid}")],
        Match::NotUid(uid) => other_users(uid),
        Match::ToApp => vec![format!("-m dscp --dscp {APP_DSCP:#04x}")],
        Match::Marked => vec![format!("-m connmark --mark {MARK:#x}")],
        Match::Reply => one("-m conntrack --ctdir REPLY"),
        Match::Transparent => one("-m socket --transparent"),
    }
}

fn nets(plan: &Plan, family: Family) -> Vec<String> {
    plan.nets(family).map(|net| format!("-d {net}")).collect()
}

/// Every user but one. The last number stands for "no user" in the kernel.
fn other_users(uid: u32) -> Vec<String> {
    let below = uid.checked_sub(1).map(|last| format!("-m owner --uid-owner 0-{last}"));
    let above = uid.checked_add(1).filter(|first| *first < u32::MAX);
    let above = above.map(|first| format!("-m owner --uid-owner {first}-{}", u32::MAX - 1));
    below.into_iter().chain(above).collect()
}

fn actions(action: Action) -> Vec<String> {
    let mark = format!("-j MARK --set-xmark {MARK:#x}/0xffffffff");
    match action {
        Action::Return => vec!["-j RETURN".to_owned()],
        Action::Goto(chain) => vec![format!("-g {}", chain_name(chain))],
        Action::Redirect(port) => vec![format!("-j REDIRECT --to-ports {port}")],
        Action::Drop => vec!["-j DROP".to_owned()],
        Action::Accept => vec!["-j ACCEPT".to_owned()],
        Action::Tproxy(port) => {
            vec![format!("-j TPROXY --on-port {port} --tproxy-mark {MARK:#x}/0xffffffff")]
        }
        Action::MarkPacket => vec![mark],
        Action::MarkPacketReturn => vec![mark, "-j RETURN".to_owned()],
        Action::MarkPacketAccept => vec![mark, "-j ACCEPT".to_owned()],
        Action::MarkConnectionReturn => {
            vec![format!("-j CONNMARK --set-xmark {MARK:#x}/0xffffffff"), "-j RETURN".to_owned()]
        }
    }
}
