//! `ContextPolicy`: what a gateway captures, demands and mints, and what a token service grants.

use std::collections::BTreeMap;

use ipnet::IpNet;

use super::access::ParamSource;
use super::{Callers, DeviceRules, HttpMatch, Selector, TokenService, VouchingProxy};
use crate::pattern::AnchoredPattern;

/// What one issuer of context does: with requests from outside, or with those of workloads.
#[derive(Clone, Debug, PartialEq)]
pub struct ContextPolicy {
    /// Which processes.
    pub selector: Selector,
    /// `role`.
    pub role: ContextRole,
    /// How the client's address is found.
    pub client_address: ClientAddress,
    /// `user.providers`: accepted identity providers, by name.
    pub user_providers: Vec<String>,
    /// `user.whenMissing`.
    pub when_missing: WhenMissing,
    /// `callers`: workloads outside the mesh that may call with a bearer token of theirs.
    pub callers: Callers,
    /// `user.groupsFrom`: the directory that knows the groups of users.
    pub groups_from: Option<GroupsFrom>,
    /// `proxies`: proxies before this gateway that vouch for what their headers say.
    pub proxies: Vec<VouchingProxy>,
    /// `device`: where the facts about the client's device come from.
    pub device: DeviceRules,
    /// Kinds of `Countersign-Justification`, by name; empty: the header is dropped.
    pub justification_kinds: BTreeMap<String, JustificationKind>,
    /// What is minted for which requests; no match: 403 and nothing is minted.
    pub mint: Vec<MintRule>,
    /// `tokenService`: who may exchange what for a token, beside or instead of a gateway's work.
    pub token_service: Option<TokenService>,
}

/// `groupsFrom`: a directory, and whose users it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupsFrom {
    /// The `AttributeProvider`.
    pub directory: String,
    /// The identity providers whose ids are names in the directory: an equal id at another provider
    /// is somebody else.
    pub users: Vec<String>,
}

/// `role` of a `ContextPolicy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContextRole {
    /// It mints for requests from outside, and may serve tokens beside.
    Gateway,
    /// It serves tokens to workloads and has no public listener.
    TokenService,
}

/// How the client's address is found (`token.md` §4 has the algorithm).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientAddress {
    /// How many proxies of ours stand before this one.
    pub trusted_hops: usize,
    /// Who may tell us.
    pub trusted_proxies: Vec<IpNet>,
    /// The one source that is read.
    pub from: ClientAddressFrom,
}

impl ClientAddress {
    /// The TCP peer is the client.
    pub(crate) fn peer() -> ClientAddress {
        let from = ClientAddressFrom::Peer;
        ClientAddress { trusted_hops: 0, trusted_proxies: Vec::new(), from }
    }
}

/// Where a client address is read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAddressFrom {
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `Forwarded`, RFC 7239.
    Forwarded,
    /// The PROXY protocol header.
    ProxyProtocol,
    /// The TCP peer.
    Peer,
}

/// What happens to a request without a user credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenMissing {
    /// 401.
    Refuse,
    /// A context with the subject `anon`.
    Anonymous,
}

/// One accepted kind of justification, such as `ticket`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JustificationKind {
    /// What a reference of this kind looks like, anchored at both ends.
    pub pattern: AnchoredPattern,
    /// The `AttributeProvider` that is asked about such a reference.
    pub validate: Option<String>,
}

/// One entry of `mint`.
#[derive(Clone, Debug, PartialEq)]
pub struct MintRule {
    /// Which requests.
    pub matcher: HttpMatch,
    /// Purpose of the transaction.
    pub scope: Vec<String>,
    /// `emit.rctx`: which facts about the environment the token carries.
    pub rctx: Vec<RctxKey>,
    /// `emit.tctx`: which facts about the transaction it carries.
    pub tctx: Vec<TctxKey>,
    /// `emit.params`: parameters of the request the token carries.
    pub params: Vec<(String, ParamSource)>,
}

closed_names! {
    /// Members of `rctx` a mint rule may emit.
    RctxKey {
        /// Client address, with its source `ip_src`.
        ReqIp = "req_ip",
        /// Name of the identity provider.
        Idp = "idp",
        /// OAuth client.
        ClientId = "client_id",
        /// Authentication context class.
        Acr = "acr",
        /// When the user logged in.
        AuthTime = "auth_time",
        /// How the user was authenticated.
        Authn = "authn",
        /// Authentication methods.
        Amr = "amr",
        /// Account id.
        Acct = "acct",
        /// Groups that the provider keeps.
        Groups = "groups",
        /// Declared extra claims.
        Claims = "claims",
        /// The ingress TLS connection.
        Tls = "tls",
        /// The client's device.
        Dev = "dev",
        /// Justification.
        Just = "just",
        /// How the user's token was bound to its sender.
        Sc = "sc",
    }
}

closed_names! {
    /// Members of `tctx` a mint rule may emit.
    TctxKey {
        /// Method.
        Method = "m",
        /// Authority.
        Authority = "h",
        /// Path template.
        Path = "p",
    }
}
