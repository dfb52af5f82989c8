//! The rules of the redirect as data: what is captured, what is exempt, in which order. Pure.
//! [`nft`](super::nft) and [`iptables`](super::iptables) put them into words.
//!
//! Invariant: everything variable in a rule is a number or an address prefix, so configuration can
//! never become rule text. Every rule has a name; `init --verify` and the self-test use it.

use std::net::IpAddr;

use countersign_config::{EgressOther, ListenMode, ProxyConfig};
use ipnet::IpNet;

use crate::intercept::self_test::{PROBE_V4, PROBE_V6};

/// Packet and connection mark of the TPROXY variant, also its routing table.
pub const MARK: u32 = 0x4747;
/// Routing table of marked packets.
pub const TABLE: u32 = 4747;

/// What the rules are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The user whose connections are not captured.
    pub proxy_uid: u32,
    /// Where inbound connections are led.
    pub inbound: u16,
    /// Where the app's connections are led.
    pub outbound: u16,
    /// Whether inbound connections keep their client address up to the app.
    pub tproxy: bool,
    /// Ports of this pod that are reached directly.
    pub skip_in: Vec<u16>,
    /// Ports the app calls directly.
    pub skip_out: Vec<u16>,
    /// Networks the app calls directly.
    pub skip_nets: Vec<IpNet>,
    /// Whether traffic of other users that is not TCP is dropped.
    pub drop_other: bool,
}

/// No rules can be made from a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "listeners: none has `mode: redirect` or `mode: tproxy` on both sides, so there is nothing to \
     redirect to"
)]
pub struct NothingCaptured;

impl Plan {
    /// The plan for a process. Loading a configuration has checked that all captured listeners of
    /// a side share one port and one mode.
    ///
    /// # Errors
    /// [`NothingCaptured`] when it works without a redirect.
    pub fn of(config: &ProxyConfig) -> Result<Plan, NothingCaptured> {
        let inbound = config.inbound.iter().find(|listener| listener.mode.is_captured());
        let outbound = config.outbound.iter().find(|listener| listener.mode.is_captured());
        let (Some(inbound), Some(outbound)) = (inbound, outbound) else {
            return Err(NothingCaptured);
        };
        let what = &config.interception;
        Ok(Plan {
            proxy_uid: what.proxy_uid,
            inbound: inbound.address.port(),
            outbound: outbound.address.port(),
            tproxy: inbound.mode == ListenMode::Tproxy,
            skip_in: skip_in(config),
            skip_out: sorted(what.skip_outbound_ports.iter().copied()),
            skip_nets: IpNet::aggregate(&what.skip_outbound_cidrs),
            drop_other: what.egress_other == EgressOther::Drop,
        })
    }

    /// Skipped networks of one family.
    pub(super) fn nets(&self, family: Family) -> impl Iterator<Item = &IpNet> {
        self.skip_nets.iter().filter(move |net| Family::of(net.addr()) == family)
    }
}

/// What answers others directly: metrics, readiness, public listeners, and what was configured.
fn skip_in(config: &ProxyConfig) -> Vec<u16> {
    let open = config.metrics.iter().chain(&config.readiness);
    let open = open.filter(|addr| !addr.ip().is_loopback()).map(|addr| addr.port());
    let public = config.gateway.iter().map(|listener| listener.address.port());
    let explicit = config.inbound.iter().filter(|listener| !listener.mode.is_captured());
    let explicit = explicit.map(|listener| listener.address.port());
    let configured = config.interception.skip_inbound_ports.iter().copied();
    sorted(open.chain(public).chain(explicit).chain(configured))
}

fn sorted(ports: impl Iterator<Item = u16>) -> Vec<u16> {
    let mut ports: Vec<u16> = ports.collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const ALL: [Family; 2] = [Family::V4, Family::V6];

    /// The family of an address.
    pub fn of(ip: IpAddr) -> Family {
        if ip.is_ipv4() { Family::V4 } else { Family::V6 }
    }

    /// The label in metrics and logs.
    pub fn text(self) -> &'static str {
        match self {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        }
    }
}

/// A list that rules refer to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Ports of this pod that are reached directly.
    SkipIn,
    /// Ports the app calls directly.
    SkipOut,
    /// IPv4 networks the app calls directly.
    SkipOut4,
    /// IPv6 networks the app calls directly.
    SkipOut6,
}

/// Where a chain hooks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// What arrives, before routing, at the priority of mangle.
    ArrivingFilter,
    /// What arrives, destination translation.
    ArrivingNat,
    /// What local processes send, destination translation.
    LeavingNat,
    /// What local processes send, before the route is chosen for good.
    LeavingRoute,
    /// What local processes send, after translation.
    LeavingFilter,
}

/// What a packet must be for a rule to apply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// Arrived on another interface than loopback.
    NotFromLo,
    /// Arrived on loopback.
    FromLo,
    /// Leaves by loopback.
    ToLo,
    /// TCP.
    Tcp,
    /// Anything else.
    NotTcp,
    /// UDP to this port.
    UdpPort(u16),
    /// Fits no connection.
    Invalid,
    /// Meant for this network.
    To(IpNet),
    /// Meant for this TCP port.
    Port(u16),
    /// Meant for a port or network of a list.
    In(List),
    /// Meant for an address of this machine.
    Local,
    /// Sent by this user.
    Uid(u32),
    /// Sent by another user.
    NotUid(u32),
    /// Marked by the proxy as a connection to the app.
    ToApp,
    /// Belongs to a connection with our mark.
    Marked,
    /// An answer.
    Reply,
    /// Belongs to a transparent socket.
    Transparent,
}

/// What is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Leave the chain.
    Return,
    /// Go on in another chain, for good.
    Goto(&'static str),
    /// Lead it to this port of ours.
    Redirect(u16),
    /// Drop it.
    Drop,
    /// Let it pass.
    Accept,
    /// Hand it to the transparent listener on this port, marked.
    Tproxy(u16),
    /// Mark the packet.
    MarkPacket,
    /// Mark the packet and leave the chain.
    MarkPacketReturn,
    /// Mark the packet and let it pass.
    MarkPacketAccept,
    /// Mark the connection and leave the chain.
    MarkConnectionReturn,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `chain/what`, in every listing.
    pub name: &'static str,
    /// All must hold.
    pub matches: Vec<Match>,
    /// Whether packets are counted.
    pub counted: bool,
    /// What happens.
    pub action: Action,
}

/// A chain of rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name.
    pub name: &'static str,
    /// Where it hooks in; `None`: other chains lead to it.
    pub hook: Option<Hook>,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

fn rule(name: &'static str, matches: &[Match], action: Action) -> Rule {
    Rule { name, matches: matches.to_vec(), counted: false, action }
}

fn counted(name: &'static str, matches: &[Match], action: Action) -> Rule {
    Rule { counted: true, ..rule(name, matches, action) }
}

/// Every chain, in the order they are written.
pub fn chains(plan: &Plan) -> Vec<Chain> {
    let mut chains = if plan.tproxy {
        vec![tproxy_in(plan), tproxy_out(plan)]
    } else {
        vec![invalid(), inbound(plan)]
    };
    chains.extend([outbound(plan), own(plan), capture(plan)]);
    if plan.drop_other {
        chains.push(egress(plan));
    }
    chains
}

/// Without this a late segment outside the window is not translated back, reaches the wrong socket
/// and draws a reset that kills a live connection.
fn invalid() -> Chain {
    let drop = [Match::NotFromLo, Match::Tcp, Match::Invalid];
    let rules = vec![counted("invalid/drop", &drop, Action::Drop)];
    Chain { name: "invalid", hook: Some(Hook::ArrivingFilter), rules }
}

fn inbound(plan: &Plan) -> Chain {
    let redirect = Action::Redirect(plan.inbound);
    let rules = vec![
        rule("inbound/loopback", &[Match::FromLo], Action::Return),
        rule("inbound/skip", &[Match::In(List::SkipIn)], Action::Return),
        counted("inbound/redirect", &[Match::Tcp, Match::Local], redirect),
    ];
    Chain { name: "inbound", hook: Some(Hook::ArrivingNat), rules }
}

fn outbound(plan: &Plan) -> Chain {
    let loopback4 = Match::To(IpNet::new_assert([127, 0, 0, 0].into(), 8));
    let loopback6 = Match::To(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST).into());
    let to4 = [Match::To(PROBE_V4.ip().into()), Match::Port(PROBE_V4.port())];
    let to6 = [Match::To(PROBE_V6.ip().into()), Match::Port(PROBE_V6.port())];
    let capture = Action::Goto("capture");
    let own_ports = [Match::Local, Match::In(List::SkipIn)];
    let rules = vec![
        counted("outbound/not-tcp", &[Match::NotTcp], Action::Return),
        rule("outbound/loopback4", &[loopback4], Action::Return),
        rule("outbound/loopback6", &[loopback6], Action::Return),
        rule("outbound/self-test4", &to4, capture),
        rule("outbound/self-test6", &to6, capture),
        rule("outbound/skip-own", &own_ports, Action::Return),
        rule("outbound/proxy", &[Match::Uid(plan.proxy_uid)], Action::Goto("own")),
        rule("outbound/self-call", &[Match::Local], capture),
        rule("outbound/skip-ports", &[Match::In(List::SkipOut)], Action::Return),
        rule("outbound/skip4", &[Match::In(List::SkipOut4)], Action::Return),
        rule("outbound/skip6", &[Match::In(List::SkipOut6)], Action::Return),
        rule("outbound/capture", &[], capture),
    ];
    Chain { name: "outbound", hook: Some(Hook::LeavingNat), rules }
}

/// What the proxy itself sends: to the app as it is, to its own pod by way of the inbound side.
fn own(plan: &Plan) -> Chain {
    let redirect = Action::Redirect(plan.inbound);
    let rules = vec![
        counted("own/to-app", &[Match::ToApp], Action::Return),
        counted("own/self-call", &[Match::Tcp, Match::Local], redirect),
    ];
    Chain { name: "own", hook: None, rules }
}

fn capture(plan: &Plan) -> Chain {
    let redirect = Action::Redirect(plan.outbound);
    let rules = vec![counted("capture/redirect", &[Match::Tcp], redirect)];
    Chain { name: "capture", hook: None, rules }
}

/// `egress.other: drop`. Packets of the kernel itself, such as neighbour discovery, have no user
/// and pass.
fn egress(plan: &Plan) -> Chain {
    let rules = vec![
        rule("egress/loopback", &[Match::ToLo], Action::Return),
        rule("egress/tcp", &[Match::Tcp], Action::Return),
        rule("egress/dns", &[Match::UdpPort(53)], Action::Return),
        counted("egress/drop", &[Match::NotUid(plan.proxy_uid)], Action::Drop),
    ];
    Chain { name: "egress", hook: Some(Hook::LeavingFilter), rules }
}

fn tproxy_in(plan: &Plan) -> Chain {
    let drop = [Match::NotFromLo, Match::Tcp, Match::Invalid];
    let ours = [Match::Tcp, Match::Transparent];
    let rules = vec![
        counted("tproxy_in/invalid", &drop, Action::Drop),
        rule("tproxy_in/answers", &[Match::Tcp, Match::Marked], Action::MarkPacketReturn),
        rule("tproxy_in/loopback", &[Match::FromLo], Action::Return),
        // Of calls the pod made itself; the TPROXY of iptables would drop them.
        rule("tproxy_in/replies", &[Match::Tcp, Match::Reply], Action::Return),
        rule("tproxy_in/skip", &[Match::In(List::SkipIn)], Action::Return),
        rule("tproxy_in/known", &ours, Action::MarkPacketAccept),
        counted("tproxy_in/capture", &[Match::Tcp, Match::Local], Action::Tproxy(plan.inbound)),
    ];
    Chain { name: "tproxy_in", hook: Some(Hook::ArrivingFilter), rules }
}

/// Answers of the app to a client's address turn round on loopback. The second rule asks for no
/// user: a reset of a closed port has none.
fn tproxy_out(plan: &Plan) -> Chain {
    let to_app = [Match::Uid(plan.proxy_uid), Match::ToApp];
    let rules = vec![
        rule("tproxy_out/to-app", &to_app, Action::MarkConnectionReturn),
        rule("tproxy_out/answers", &[Match::Marked, Match::Reply], Action::MarkPacket),
    ];
    Chain { name: "tproxy_out", hook: Some(Hook::LeavingRoute), rules }
}
