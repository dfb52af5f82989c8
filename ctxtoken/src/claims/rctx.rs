//! `rctx`: the environment of the request, written by the minting side from what it saw itself.
//! An absent field means that the fact was not established; it never means "no".

use std::{borrow::Cow, fmt, net::IpAddr};

use countersign_workload_id::{TrustDomain, WorkloadId};

use super::JsonMap;
use crate::UnixTime;

/// The environment in which the request began. The profile version `v` is always 1.
#[derive(Debug, Clone, PartialEq)]
pub struct Rctx {
    /// How the transaction began.
    pub origin: Origin,
    /// The first holder: the workload the issuer handed the token to.
    pub to: WorkloadId,
    /// Address of the client, IPv4-mapped IPv6 folded to IPv4.
    pub req_ip: Option<IpAddr>,
    /// Where that address comes from.
    pub ip_src: Option<IpSource>,
    /// The identity provider, by our configured name.
    pub idp: Option<String>,
    /// The OAuth client the user used.
    pub client_id: Option<String>,
    /// Authentication context class of the user's login.
    pub acr: Option<String>,
    /// When the user logged in.
    pub auth_time: Option<UnixTime>,
    /// How the user was authenticated, in one word.
    pub authn: Option<String>,
    /// Methods of the login, values of RFC 8176.
    pub amr: Option<Vec<String>>,
    /// The account the user acts in.
    pub acct: Option<String>,
    /// Groups of the user, those the provider's document keeps.
    pub groups: Option<Vec<String>>,
    /// Who says so, where it is not the user's credential: `dir:<provider>` or `header:<proxy>`.
    pub groups_src: Option<String>,
    /// Further claims of the user's credential that the provider's document declares.
    pub claims: Option<JsonMap>,
    /// The user's device.
    pub dev: Option<Device>,
    /// The TLS connection at the edge.
    pub tls: Option<TlsFacts>,
    /// How the user's credential was bound to its sender.
    pub sc: Option<SenderConstraint>,
    /// Why the user does this.
    pub just: Option<Justification>,
    /// Who approved it.
    pub appr: Option<Vec<Approval>>,
    /// Break-glass: forces alert-level audit.
    pub bg: Option<bool>,
    /// The workload at the ingress.
    pub wl: Option<IngressWorkload>,
    /// A re-minted foreign request: the domain it came from.
    pub src_td: Option<TrustDomain>,
    /// A re-minted foreign request: its transaction there.
    pub src_txn: Option<String>,
}

impl Rctx {
    /// The two facts every token has; everything else is set by name where it is known.
    pub fn new(origin: Origin, to: WorkloadId) -> Self {
        Self {
            origin,
            to,
            req_ip: None,
            ip_src: None,
            idp: None,
            client_id: None,
            acr: None,
            auth_time: None,
            authn: None,
            amr: None,
            acct: None,
            groups: None,
            groups_src: None,
            claims: None,
            dev: None,
            tls: None,
            sc: None,
            just: None,
            appr: None,
            bg: None,
            wl: None,
            src_td: None,
            src_txn: None,
        }
    }
}

/// An enum whose values have one spelling each, for reading and printing alike.
macro_rules! spelled {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// The spelling in tokens and documents.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }

            /// Reads the one spelling; `None` for anything else.
            pub fn parse(text: &str) -> Option<Self> {
                match text { $($text => Some(Self::$variant),)+ _ => None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

spelled! {
    /// How a transaction began. Set by the code path that mints, never by input.
    Origin {
        /// An end user's request.
        User = "user",
        /// A workload on its own behalf.
        Service = "service",
        /// A job.
        Batch = "batch",
        /// A message that was put aside and taken up again.
        Async = "async",
        /// A request of another trust domain, minted anew.
        Foreign = "foreign",
    }
}

spelled! {
    /// How the user's credential was bound to its sender, checked at the edge.
    SenderConstraint {
        /// A DPoP proof.
        Dpop = "dpop",
        /// A client certificate.
        Mtls = "mtls",
    }
}

/// Where the client address comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IpSource {
    /// `Forwarded`, the element this many from the right.
    Forwarded(u8),
    /// The other end of the connection.
    Peer,
    /// The other end of the connection, because the forwarding field was shorter than configured.
    PeerShort,
    /// A PROXY protocol header, version 1.
    ProxyV1,
    /// A PROXY protocol header, version 2.
    ProxyV2,
    /// `X-Forwarded-For`, the element this many from the right.
    XForwardedFor(u8),
}

impl IpSource {
    /// Reads the spelling of tokens: `peer`, `peer-short`, `pp1`, `pp2`, `xff:N`, `fwd:N`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "peer" => Some(Self::Peer),
            "peer-short" => Some(Self::PeerShort),
            "pp1" => Some(Self::ProxyV1),
            "pp2" => Some(Self::ProxyV2),
            _ => match text.split_once(':')? {
                ("xff", hops) => hop_count(hops).map(Self::XForwardedFor),
                ("fwd", hops) => hop_count(hops).map(Self::Forwarded),
                _ => None,
            },
        }
    }

    /// As tokens spell it.
    pub fn text(&self) -> Cow<'static, str> {
        match self {
            Self::Forwarded(hops) => format!("fwd:{hops}").into(),
            Self::Peer => "peer".into(),
            Self::PeerShort => "peer-short".into(),
            Self::ProxyV1 => "pp1".into(),
            Self::ProxyV2 => "pp2".into(),
            Self::XForwardedFor(hops) => format!("xff:{hops}").into(),
        }
    }
}

/// A count from 1 in its shortest form.
fn hop_count(text: &str) -> Option<u8> {
    let count: u8 = text.parse().ok()?;
    (count > 0 && count.to_string() == text).then_some(count)
}

impl fmt::Display for IpSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// The user's device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Its ID in the inventory.
    pub id: String,
    /// Its trust tier.
    pub tier: Option<String>,
    /// Whether the organisation manages it.
    pub managed: Option<bool>,
    /// Who says so.
    pub src: DeviceSource,
    /// When that was last seen.
    pub at: Option<UnixTime>,
}

/// Who vouches for device facts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DeviceSource {
    /// A field set by this configured proxy, which was the mTLS peer.
    Header(String),
    /// The identity provider.
    IdentityProvider,
    /// A client certificate whose chain was verified.
    Mtls,
}

impl DeviceSource {
    /// Reads the spelling of tokens: `mtls`, `idp`, `header:<proxy>`.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "mtls" => Some(Self::Mtls),
            "idp" => Some(Self::IdentityProvider),
            _ => match text.split_once(':')? {
                ("header", proxy) if !proxy.is_empty() => Some(Self::Header(proxy.to_owned())),
                _ => None,
            },
        }
    }
}

impl fmt::Display for DeviceSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(proxy) => write!(f, "header:{proxy}"),
            Self::IdentityProvider => f.write_str("idp"),
            Self::Mtls => f.write_str("mtls"),
        }
    }
}

/// The TLS connection at the edge.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsFacts {
    /// Protocol version, such as `1.3`.
    pub v: Option<String>,
    /// Server name the client asked for.
    pub sni: Option<String>,
    /// SHA-256 of the client certificate, base64url.
    pub cert: Option<String>,
}

/// Why the user does this, as the request said at the edge.
#[derive(Debug, Clone, PartialEq)]
pub struct Justification {
    /// Kind of reference, such as `ticket`.
    pub kind: String,
    /// The reference.
    pub reference: String,
    /// The validator that was asked.
    pub by: Option<String>,
    /// Whether that validator confirmed it.
    pub checked: bool,
    /// When.
    pub at: Option<UnixTime>,
    /// What the validator added; only with `checked`.
    pub facts: Option<JsonMap>,
}

/// One approval.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    /// Who approved.
    pub sub: String,
    /// When.
    pub at: UnixTime,
}

/// The workload at the ingress, as its certificate or the controller describes it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct IngressWorkload {
    /// Pod name.
    pub pod: Option<String>,
    /// Node name.
    pub node: Option<String>,
    /// Image.
    pub img: Option<String>,
    /// SLSA build level.
    pub slsa: Option<u64>,
}
