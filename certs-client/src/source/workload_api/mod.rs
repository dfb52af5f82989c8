//! The SPIFFE Workload API as a source: streams of which each message is the complete state.
//!
//! A message replaces what the same stream said before. Bundles come on both streams; the newest
//! message counts, whichever stream it came on, so bundles of two messages are never merged.
//! A stream that ends is opened again at once, then with back-off; what a status code means for
//! the identity is decided in one place, [`Verdict::of`].

pub(crate) mod read;
pub mod wire;

use std::{
    borrow::Cow,
    io,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use countersign_config::limits::TCP_KEEPALIVE_IDLE_S;
use tokio::time::{Instant, timeout};
use tonic::{Code, metadata::MetadataValue, transport::Channel};
use tonic_prost::ProstCodec;
use tracing::info;

use self::wire::{
    JwtBundlesRequest, JwtBundlesResponse, X509BundlesRequest, X509BundlesResponse,
    X509SvidRequest, X509SvidResponse,
};
use super::publish::{Failed, Publisher};
use crate::{
    bundle::TrustBundles,
    crl::Crl,
    gate::GateError,
    jwt_bundle::JwtBundles,
    status::{NextTry, State},
};

pub use countersign_config::{
    WorkloadApiEndpoint as Endpoint, WorkloadApiEndpointError as EndpointError,
};

/// Time to connect, to get an answer, and to get the first message.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Bytes of one message.
const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// A stream that delivered and lived this long is opened again without a wait.
const STREAM_LIFE_MIN: Duration = Duration::from_secs(1);
/// Time between two looks whether the identity has ended.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Whether the keys of JWT-SVIDs are asked for too.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum JwtKeys {
    /// Something here checks JWT-SVIDs.
    Follow,
    /// Nothing here needs them.
    Ignore,
}

/// Follows the streams for as long as the process lives.
pub(super) async fn run(publisher: &Publisher, endpoint: &Endpoint, jwt_keys: JwtKeys) {
    let state = Received::new(publisher);
    let authority = endpoint.to_string();
    let follow = Follow { publisher, endpoint, authority: &authority };
    let identities = Call {
        name: "FetchX509SVID",
        path: wire::FETCH_X509_SVID,
        request: X509SvidRequest {},
        part: Part::Identity,
        receive: |message: X509SvidResponse| state.identity(message),
        withdraw: || state.withdraw_identity(),
    };
    let bundles = Call {
        name: "FetchX509Bundles",
        path: wire::FETCH_X509_BUNDLES,
        request: X509BundlesRequest {},
        part: Part::More,
        receive: |message: X509BundlesResponse| state.bundles(message),
        withdraw: || state.withdraw_bundles(),
    };
    let jwt_bundles = Call {
        name: "FetchJWTBundles",
        path: wire::FETCH_JWT_BUNDLES,
        request: JwtBundlesRequest {},
        part: Part::More,
        receive: |message: JwtBundlesResponse| {
            publisher.deliver_jwt_bundles(read::jwt_bundles(message)?);
            Ok(())
        },
        withdraw: || publisher.deliver_jwt_bundles(JwtBundles::default()),
    };
    let jwt = async {
        match jwt_keys {
            JwtKeys::Follow => follow.stream(jwt_bundles).await,
            JwtKeys::Ignore => {}
        }
    };
    tokio::join!(follow.stream(identities), follow.stream(bundles), jwt);
}

/// What a stream is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Part {
    /// Without it there is no identity.
    Identity,
    /// It may be missing: authorities need not offer it.
    More,
}

/// One streaming call and what happens to its messages.
struct Call<Q, Receive, Withdraw> {
    name: &'static str,
    path: &'static str,
    request: Q,
    part: Part,
    receive: Receive,
    withdraw: Withdraw,
}

/// Why a stream is over.
enum Ended {
    Answer(tonic::Status),
    Closed,
    Connect(tonic::transport::Error),
    /// A message was discarded. Asking anew brings the complete state again, so what was wrong
    /// for a moment only (a clock, a half-done change) is not missed until the next rotation.
    Discarded(GateError),
    /// What the stream delivered has ended by our clock, and nothing newer came. Asking anew brings
    /// the complete state, so a clock that was wrong for a moment costs no more than that moment.
    Expired,
    TimedOut(&'static str),
}

impl Ended {
    fn is_unimplemented(&self) -> bool {
        matches!(self, Ended::Answer(status) if status.code() == Code::Unimplemented)
    }

    /// Whether this looks like an authority that went away and comes back.
    fn is_a_restart(&self) -> bool {
        match self {
            Ended::Answer(_) => Verdict::of(self) == Verdict::BackOff,
            Ended::Closed => true,
            Ended::Connect(_) | Ended::Discarded(_) | Ended::Expired | Ended::TimedOut(_) => false,
        }
    }
}

/// What a failed stream means for what we hold and for what comes next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Verdict {
    /// Try again after a wait.
    BackOff,
    /// The answer will not change: stop asking.
    Stop,
    /// Stop using what the stream delivered, and try again after a wait.
    Withdraw,
}

impl Verdict {
    fn of(ended: &Ended) -> Verdict {
        match ended {
            Ended::Answer(status) => match status.code() {
                Code::InvalidArgument | Code::Unimplemented => Verdict::Stop,
                Code::PermissionDenied => Verdict::Withdraw,
                _ => Verdict::BackOff,
            },
            Ended::Closed
            | Ended::Connect(_)
            | Ended::Discarded(_)
            | Ended::Expired
            | Ended::TimedOut(_) => Verdict::BackOff,
        }
    }
}

struct Follow<'a> {
    publisher: &'a Publisher,
    endpoint: &'a Endpoint,
    authority: &'a str,
}

impl Follow<'_> {
    /// Keeps one stream open; returns only when asking again is pointless.
    async fn stream<Q, R, Receive, Withdraw>(&self, call: Call<Q, Receive, Withdraw>)
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
        Receive: Fn(R) -> Result<(), GateError>,
        Withdraw: Fn(),
    {
        let mut attempt = 0;
        loop {
            let opened = Instant::now();
            let mut delivered = false;
            let Err(ended) = self.once(&call, &mut delivered).await;
            let verdict = Verdict::of(&ended);
            if delivered {
                attempt = 0;
            }
            if verdict == Verdict::Withdraw {
                (call.withdraw)();
            }
            let at_once = delivered && ended.is_a_restart() && opened.elapsed() >= STREAM_LIFE_MIN;
            let (wait, next_try) = match verdict {
                Verdict::Stop => (None, NextTry::Never),
                Verdict::BackOff | Verdict::Withdraw => {
                    let (wait, next_try) = self.publisher.backoff(attempt);
                    (Some(wait), next_try)
                }
            };
            if at_once {
                info!(call = call.name, authority = self.authority, "stream ended, opened again");
                continue;
            }
            if call.part == Part::More && ended.is_unimplemented() {
                info!(call = call.name, authority = self.authority, "not offered here");
            } else {
                self.report(call.name, &ended, next_try);
            }
            let Some(wait) = wait else { return };
            tokio::time::sleep(wait).await;
            attempt = attempt.saturating_add(1);
        }
    }

    /// Opens the stream and hands every message over until it ends.
    async fn once<Q, R, Receive, Withdraw>(
        &self,
        call: &Call<Q, Receive, Withdraw>,
        delivered: &mut bool,
    ) -> Result<std::convert::Infallible, Ended>
    where
        Q: prost::Message + Clone + 'static,
        R: prost::Message + Default + 'static,
        Receive: Fn(R) -> Result<(), GateError>,
    {
        let channel = self.connect().await?;
        let mut client =
            tonic::client::Grpc::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
        client.ready().await.map_err(Ended::Connect)?;
        let mut request = tonic::Request::new(call.request.clone());
        request.metadata_mut().insert(wire::SECURITY_HEADER, MetadataValue::from_static("true"));
        let path = http::uri::PathAndQuery::from_static(call.path);
        let codec = ProstCodec::<Q, R>::default();
        let mut stream = timeout(ANSWER_MAX, client.server_streaming(request, path, codec))
            .await
            .map_err(|_| Ended::TimedOut("no answer"))?
            .map_err(Ended::Answer)?
            .into_inner();
        let mut message = timeout(ANSWER_MAX, stream.message())
            .await
            .map_err(|_| Ended::TimedOut("no first message"))?;
        loop {
            let complete = message.map_err(Ended::Answer)?.ok_or(Ended::Closed)?;
            (call.receive)(complete).map_err(Ended::Discarded)?;
            *delivered = true;
            message = tokio::select! {
                message = stream.message() => message,
                () = self.expired(), if call.part == Part::Identity => return Err(Ended::Expired),
            };
        }
    }

    /// Waits until the identity has ended.
    async fn expired(&self) {
        while self.publisher.state() != State::Expired {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn connect(&self) -> Result<Channel, Ended> {
        let address = match self.endpoint {
            Endpoint::Unix(_) => self.authority.to_owned(),
            Endpoint::Tcp(address) => format!("http://{address}"),
        };
        let endpoint = tonic::transport::Endpoint::from_shared(address)
            .map_err(Ended::Connect)?
            .connect_timeout(ANSWER_MAX)
            .tcp_keepalive(Some(Duration::from_secs(TCP_KEEPALIVE_IDLE_S)));
        timeout(ANSWER_MAX, endpoint.connect())
            .await
            .map_err(|_| Ended::TimedOut("no connection"))?
            .map_err(Ended::Connect)
    }

    fn report(&self, call: &'static str, ended: &Ended, next_try: NextTry) {
        let answer = match ended {
            Ended::Answer(status) => format!("{:?}: {}", status.code(), status.message()),
            Ended::Closed => "the authority closed the stream".to_owned(),
            Ended::Connect(error) => format!("cannot connect: {}", innermost(error)),
            Ended::Discarded(error) => format!("discarded what it sent: {error}"),
            Ended::Expired => "the certificate has ended and nothing newer came".to_owned(),
            Ended::TimedOut(what) => format!("{what} within {} s", ANSWER_MAX.as_secs()),
        };
        let failed = Failed {
            authority: self.authority,
            call,
            answer,
            hint: hint(ended).map(Cow::Borrowed),
        };
        self.publisher.failed(failed, next_try);
    }
}

/// What somebody at the keyboard can do about it.
fn hint(ended: &Ended) -> Option<&'static str> {
    match ended {
        Ended::Answer(status) => match status.code() {
            Code::InvalidArgument => {
                Some("the authority refuses the call itself: is this a Workload API?")
            }
            Code::PermissionDenied => Some(
                "the authority has no identity for this process: is the workload registered, \
                 with selectors that fit?",
            ),
            Code::Unimplemented => Some("the authority does not offer this call"),
            _ => None,
        },
        Ended::Connect(error) => match io_error(error).map(io::Error::kind) {
            Some(io::ErrorKind::NotFound) => {
                Some("is the agent running, and is its socket mounted here?")
            }
            Some(io::ErrorKind::ConnectionRefused) => Some("is the agent running?"),
            Some(io::ErrorKind::PermissionDenied) => {
                Some("this process may not open the socket: check its owner and mode")
            }
            _ => None,
        },
        Ended::Expired => Some("does the authority still renew it, and do the clocks agree?"),
        Ended::Closed | Ended::Discarded(_) | Ended::TimedOut(_) => None,
    }
}

fn io_error(error: &tonic::transport::Error) -> Option<&io::Error> {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        cause = error.source();
    }
    None
}

fn innermost(error: &tonic::transport::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What both streams said last.
struct Received<'a> {
    publisher: &'a Publisher,
    bundles: Mutex<BundlesOf>,
}

/// The bundles of each stream's last message, and which of the two came last.
#[derive(Default)]
struct BundlesOf {
    identities: Option<TrustBundles>,
    bundles: Option<TrustBundles>,
    bundles_newer: bool,
    /// The revocation lists that came with `bundles`.
    crls: Vec<Crl>,
    /// The identity was taken away: nobody is trusted in its name, so what was opened with it ends.
    withdrawn: bool,
}

impl BundlesOf {
    fn in_force(&self) -> TrustBundles {
        if self.withdrawn {
            return TrustBundles::default();
        }
        let (first, second) = if self.bundles_newer {
            (&self.bundles, &self.identities)
        } else {
            (&self.identities, &self.bundles)
        };
        first.as_ref().or(second.as_ref()).cloned().unwrap_or_default()
    }
}

impl<'a> Received<'a> {
    fn new(publisher: &'a Publisher) -> Received<'a> {
        Received { publisher, bundles: Mutex::default() }
    }

    fn identity(&self, message: X509SvidResponse) -> Result<(), GateError> {
        let used = read::identity(message, self.publisher.expected_id()).inspect_err(|error| {
            // The message is complete, and our identity is not in it: it is no longer ours.
            if matches!(error, GateError::UnexpectedId { .. }) {
                self.withdraw_identity();
            }
        })?;
        let read::Used { mut identity, token_signer, bundles } = used;
        identity.crls.extend(self.crls_to_come_back());
        self.publisher.deliver_both(identity, token_signer, bundles.clone())?;
        self.change(|held| {
            held.identities = Some(bundles);
            held.bundles_newer = false;
            held.withdrawn = false;
        });
        Ok(())
    }

    fn bundles(&self, message: X509BundlesResponse) -> Result<(), GateError> {
        let (bundles, crls) = read::bundles(message)?;
        let in_force = self.change(|held| {
            held.bundles = Some(bundles);
            held.bundles_newer = true;
            held.crls.clone_from(&crls);
        });
        self.publisher.deliver_bundles(in_force);
        self.publisher.deliver_crls(&crls);
        Ok(())
    }

    /// Lists went with the authorities when the identity was taken away, and come back with it.
    fn crls_to_come_back(&self) -> Vec<Crl> {
        let held = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        if held.withdrawn { held.crls.clone() } else { Vec::new() }
    }

    fn withdraw_identity(&self) {
        let in_force = self.change(|held| {
            held.identities = None;
            held.withdrawn = true;
        });
        self.publisher.withdraw(in_force);
    }

    fn withdraw_bundles(&self) {
        let in_force = self.change(|held| held.bundles = None);
        self.publisher.deliver_bundles(in_force);
    }

    fn change(&self, change: impl FnOnce(&mut BundlesOf)) -> TrustBundles {
        let mut held = self.bundles.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut held);
        held.in_force()
    }
}
