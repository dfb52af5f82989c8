//! Switching protocols: what a request asks for, whether its port allows it, what the other end
//! agreed to, and the tunnel that carries the bytes afterwards.
//!
//! Invariant: a tunnel begins only where the other end agreed to exactly what was asked, so no proxy
//! on the way takes for a tunnel what its neighbour takes for HTTP; it lives as long as the
//! connection it came over may, and no longer than its permit.

use http::header::{CONTENT_LENGTH, HeaderValue, TRANSFER_ENCODING};
use http::{Method, Request, StatusCode, Version, request, response};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::time::Instant;

use crate::http::body::{Guards, ProxyBody};
use crate::http::hygiene::{HopByHop, restore_upgrade};
use crate::http::lasting::Lasting;
use crate::http::serve::Ending;
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::{EndReason, Registered};
use crate::relay::{self, RelayLimits, Why};

/// What every port of HTTP lets through.
const ALWAYS: &[u8] = b"websocket";

/// What a port allows beside requests and answers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowed<'a> {
    /// Upgrade tokens beyond `websocket`, in lower case.
    pub upgrades: &'a [String],
    /// Whether CONNECT may pass.
    pub connect: bool,
}

/// A request to switch protocols.
pub struct Switch {
    to: To,
    client: OnUpgrade,
}

enum To {
    /// `Upgrade`, with its token as it came.
    Token(HeaderValue),
    /// CONNECT.
    Tunnel,
}

impl Switch {
    /// Takes what a request asks for out of its head; `None` for an ordinary request.
    ///
    /// # Errors
    /// `connect_unsupported`, `upgrade_unsupported` where the port does not allow it,
    /// `request_malformed` where a body comes along.
    pub fn take(
        parts: &mut request::Parts,
        hop: &HopByHop,
        body: &Incoming,
        allowed: Allowed<'_>,
    ) -> Result<Option<Switch>, Refused> {
        let client = parts.extensions.remove::<OnUpgrade>();
        let to = match &hop.upgrade {
            _ if parts.method == Method::CONNECT => {
                if !allowed.connect {
                    return Err(refuse(Refusal::ConnectUnsupported, "CONNECT"));
                }
                To::Tunnel
            }
            Some(token) if permits(token, allowed.upgrades) => To::Token(token.clone()),
            Some(token) => {
                let token = token.to_str().unwrap_or("?");
                let detail = format!("upgrade to {token}");
                return Err(refuse(Refusal::UpgradeUnsupported, detail));
            }
            None => return Ok(None),
        };
        if !body.is_end_stream() {
            let detail = "a request to switch protocols has a body";
            return Err(refuse(Refusal::RequestMalformed, detail));
        }
        match client {
            Some(client) => Ok(Some(Switch { to, client })),
            None => Err(refuse(Refusal::RequestMalformed, "this connection cannot switch")),
        }
    }

    /// Puts the request to switch back on a head that hygiene has cleaned.
    pub fn restore<B>(&self, request: &mut Request<B>) {
        *request.version_mut() = Version::HTTP_11;
        if let To::Token(token) = &self.to {
            restore_upgrade(request.headers_mut(), token.clone());
        }
    }

    /// Whether the answer agrees to what was asked.
    fn agreed(&self, status: StatusCode, hop: &HopByHop) -> Result<bool, NotAgreed> {
        match &self.to {
            To::Tunnel if status == StatusCode::SWITCHING_PROTOCOLS => Err(NotAgreed::Unasked),
            To::Tunnel => Ok(status.is_success()),
            To::Token(_) if status != StatusCode::SWITCHING_PROTOCOLS => Ok(false),
            To::Token(token) => match &hop.upgrade {
                Some(named) if same(named, token) => Ok(true),
                Some(_) | None => Err(NotAgreed::Other),
            },
        }
    }
}

/// An answer that switches to something nobody asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAgreed {
    /// 101 where nothing was asked for.
    #[error("the answer switches protocols, which the request did not ask for")]
    Unasked,
    /// Another protocol than was asked for, or none.
    #[error("the answer switches to another protocol than the request asked for")]
    Other,
}

/// Both ends of a connection that is about to switch.
pub struct Switched {
    client: OnUpgrade,
    server: OnUpgrade,
}

/// What an answer means for the connection it came over; `hop` is what hygiene took out of it.
/// Where it switches protocols its head is made to say so again.
///
/// # Errors
/// [`NotAgreed`]: the answer must not be passed on, and its connection cannot be used again.
pub fn answered(
    switch: Option<Switch>,
    parts: &mut response::Parts,
    hop: &HopByHop,
) -> Result<Option<Switched>, NotAgreed> {
    let server = parts.extensions.remove::<OnUpgrade>();
    let Some(switch) = switch else {
        let unasked = parts.status == StatusCode::SWITCHING_PROTOCOLS;
        return if unasked { Err(NotAgreed::Unasked) } else { Ok(None) };
    };
    if !switch.agreed(parts.status, hop)? {
        return Ok(None);
    }
    let server = server.ok_or(NotAgreed::Other)?;
    match &switch.to {
        To::Token(_) => {
            if let Some(named) = &hop.upgrade {
                restore_upgrade(&mut parts.headers, named.clone());
            }
        }
        // RFC 9110 §9.3.6: neither has a meaning here.
        To::Tunnel => {
            parts.headers.remove(CONTENT_LENGTH);
            parts.headers.remove(TRANSFER_ENCODING);
        }
    }
    Ok(Some(Switched { client: switch.client, server }))
}

impl Switched {
    /// The tunnel, as the body of the answer: whoever serves the connection takes it out again and
    /// runs it once the head has been written.
    pub fn into_body(
        self,
        limits: RelayLimits,
        guards: Guards,
        until: Option<Instant>,
    ) -> ProxyBody {
        ProxyBody::Tunnel(Box::new(Tunnel { both: self, limits, guards, until }))
    }
}

/// Bytes between two connections that have switched.
pub struct Tunnel {
    both: Switched,
    limits: RelayLimits,
    guards: Guards,
    until: Option<Instant>,
}

/// Why a tunnel was ended from here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Its exchange had to end, or the connection it came over.
    Ended(EndReason),
    /// Its permit has ended.
    Permit,
    /// Its connection has had its time.
    Connection,
}

impl Tunnel {
    /// Ends with `lasting`, at the latest.
    pub fn hold(&mut self, lasting: Lasting) {
        self.guards.lasting = Some(lasting);
    }

    /// The exchange it ends with.
    pub fn lasting(&mut self) -> Option<&mut Lasting> {
        self.guards.lasting.as_mut()
    }

    /// Carries bytes until both ends are done, or the tunnel's reason ends.
    pub async fn run(self, ending: &Ending) {
        let Tunnel { both: Switched { client, server }, limits, mut guards, until } = self;
        if let Some(lasting) = &mut guards.lasting {
            lasting.counted_by(&limits.moved);
        }
        let (client, server) = match tokio::try_join!(client, server) {
            Ok(both) => both,
            Err(error) => return tracing::debug!(%error, "a connection did not switch"),
        };
        // What it came over has served its purpose; the request's context and place live on.
        let Guards { checkout, context, in_flight, lasting } = guards;
        drop(checkout);
        let registered = lasting.as_ref().map(Lasting::registered);
        let stop = async {
            tokio::select! {
                () = reached(until) => Stop::Permit,
                reason = told(registered.as_deref()) => Stop::Ended(reason),
                reason = ending.cut() => Stop::Ended(reason),
                () = async { ending.over(ending.reached().await).await } => Stop::Connection,
            }
        };
        let end = relay::run(TokioIo::new(client), TokioIo::new(server), &limits, stop).await;
        drop((context, lasting, in_flight));
        match end.why {
            Why::Closed => {
                tracing::debug!(to_client = end.to_a, to_server = end.to_b, "tunnel ended")
            }
            why => tracing::debug!(?why, to_client = end.to_a, to_server = end.to_b, "tunnel cut"),
        }
    }
}

async fn told(registered: Option<&Registered>) -> EndReason {
    match registered {
        Some(registered) => registered.ended().await,
        None => std::future::pending().await,
    }
}

async fn reached(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

/// For the choice of a transport a request that switches counts as one that HTTP/2 cannot carry.
pub fn transport_version(version: Version, switch: Option<&Switch>) -> Version {
    if switch.is_some() { Version::HTTP_10 } else { version }
}

fn permits(token: &HeaderValue, listed: &[String]) -> bool {
    let token = token.as_bytes();
    token.eq_ignore_ascii_case(ALWAYS)
        || listed.iter().any(|listed| token.eq_ignore_ascii_case(listed.as_bytes()))
}

fn same(a: &HeaderValue, b: &HeaderValue) -> bool {
    a.as_bytes().eq_ignore_ascii_case(b.as_bytes())
}

fn refuse(refusal: Refusal, detail: impl Into<String>) -> Refused {
    Refused::new(refusal, Stage::Accept, detail)
}
