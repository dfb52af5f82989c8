//! How the identity source is doing, in a form that readiness, metrics and people can use.
//!
//! Each failure names who was asked, what, what came back, and when the next try is.

use std::{borrow::Cow, fmt};

/// Where this process stands with its identity.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum State {
    /// 90 % of the life is over and nothing newer came; still serving.
    Critical,
    /// Nothing was delivered yet.
    #[default]
    Empty,
    /// The certificate ended; no handshake either way.
    Expired,
    /// 75 % of the life is over and nothing newer came; still serving.
    Late,
    /// All is well.
    Valid,
    /// The authority took the identity away.
    Withdrawn,
}

impl State {
    /// The stable name of this state.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Critical => "critical",
            State::Empty => "empty",
            State::Expired => "expired",
            State::Late => "late",
            State::Valid => "valid",
            State::Withdrawn => "withdrawn",
        }
    }

    /// Whether handshakes may use the identity.
    pub fn is_usable(self) -> bool {
        match self {
            State::Critical | State::Late | State::Valid => true,
            State::Empty | State::Expired | State::Withdrawn => false,
        }
    }
}

/// When a failed call is made again.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum NextTry {
    /// At this time, milliseconds since the Unix epoch.
    At(u64),
    /// Never: the answer will not change until somebody changes something here.
    Never,
    /// As soon as the source changes (a watched file).
    OnChange,
}

/// One failed delivery.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Failure {
    /// Who was asked: `unix:///run/spire/agent.sock`, or a path.
    pub authority: String,
    /// What was asked: `FetchX509SVID`, `read`.
    pub call: &'static str,
    /// What came back.
    pub answer: String,
    /// What to do about it, if we know.
    pub hint: Option<Cow<'static, str>>,
    /// When it happened, seconds since the Unix epoch.
    pub at: u64,
    /// When it is tried again.
    pub next_try: NextTry,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}: {}", self.call, self.authority, self.answer)?;
        if let Some(hint) = &self.hint {
            write!(f, "; {hint}")?;
        }
        match self.next_try {
            NextTry::At(ms) => {
                let wait_ms = ms.saturating_sub(self.at.saturating_mul(1000));
                write!(f, "; next try in {}.{} s", wait_ms / 1000, wait_ms % 1000 / 100)
            }
            NextTry::Never => f.write_str("; not tried again"),
            NextTry::OnChange => f.write_str("; tried again when the file changes"),
        }
    }
}

/// How revocation lists are doing.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct CrlStatus {
    /// Lists in force.
    pub lists: usize,
    /// Serial numbers they name.
    pub serials: usize,
    /// Lists whose authority should have signed a newer one by now.
    pub stale: usize,
    /// Lists that were discarded so far.
    pub discarded_total: u64,
}

/// The state of the source, replaced as a whole.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// The source in words: `Workload API unix:///run/spire/agent.sock`.
    pub source: String,
    /// Its kind, as in a `ProxyConfig`: `workloadApi`.
    pub kind: &'static str,
    /// Where we stand.
    pub state: State,
    /// Generation of the published snapshot.
    pub generation: u64,
    /// Identities published so far: the first one and every rotation.
    pub identities_total: u64,
    /// Deliveries or calls that failed so far.
    pub failures_total: u64,
    /// Failed attempts since the last success, where this process asks by itself.
    pub attempt: u32,
    /// Steps of the wall clock by more than 30 s so far.
    pub clock_steps_total: u64,
    /// The revocation lists in force.
    pub crls: CrlStatus,
    /// End of the current identity, seconds since the Unix epoch.
    pub not_after: Option<u64>,
    /// When the source last delivered something good, seconds since the Unix epoch.
    pub last_success_at: Option<u64>,
    /// The last failure, until something good comes.
    pub last_failure: Option<Failure>,
}

impl Status {
    /// Whether this process has an identity it may use.
    pub fn is_ready(&self) -> bool {
        self.state.is_usable()
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "identity {} ({})", self.state.as_str(), self.source)?;
        match &self.last_failure {
            Some(failure) => write!(f, ": {failure}"),
            None => Ok(()),
        }
    }
}
