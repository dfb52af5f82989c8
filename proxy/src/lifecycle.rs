//! The states of a proxy's life, as one pure machine: what it knows of itself in, a state out.
//!
//! Invariant: leaving is never taken back; a proxy is ready in `ready` and `degraded` only. Who
//! holds the machine is `admin::Readiness`, which every part reports to; the state is the metric
//! `countersign_lifecycle_state` and part of every answer of `/ready`.

/// Where a proxy is in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Parts are still missing.
    #[default]
    Starting,
    /// Everything is here; the redirect has not been proven yet.
    Testing,
    /// Serving.
    Ready,
    /// Serving, with something wrong that `/ready` names.
    Degraded,
    /// The own certificate or the trust in others ended; mesh traffic fails closed.
    Expired,
    /// Traffic goes round this proxy; it serves what still arrives.
    Bypassed,
    /// About to stop: accepts, and asks those inside to leave.
    Draining,
    /// Accepts nothing any more.
    Stopping,
}

impl State {
    /// Every state, in the order of a life.
    pub const ALL: &'static [State] = &[
        State::Starting,
        State::Testing,
        State::Ready,
        State::Degraded,
        State::Expired,
        State::Bypassed,
        State::Draining,
        State::Stopping,
    ];

    /// The text used in metrics, records and `/ready`.
    pub const fn text(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Testing => "testing",
            State::Ready => "ready",
            State::Degraded => "degraded",
            State::Expired => "expired",
            State::Bypassed => "bypassed",
            State::Draining => "draining",
            State::Stopping => "stopping",
        }
    }

    /// Whether requests may be sent here.
    pub const fn is_ready(self) -> bool {
        match self {
            State::Ready | State::Degraded => true,
            State::Starting
            | State::Testing
            | State::Expired
            | State::Bypassed
            | State::Draining
            | State::Stopping => false,
        }
    }

    /// Why not, for a probe that shows one word; `None` where it is ready.
    pub const fn reason(self) -> Option<&'static str> {
        match self {
            State::Ready | State::Degraded => None,
            State::Starting => Some("starting"),
            State::Testing => Some("redirect_not_verified"),
            State::Expired => Some("certificate_expired"),
            State::Bypassed => Some("redirect_lost"),
            State::Draining => Some("draining"),
            State::Stopping => Some("stopping"),
        }
    }
}

/// What holds right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The own certificate and the authorities of others are here and have not ended.
    pub identity: bool,
    /// Everything else that serving needs is here.
    pub parts: bool,
    /// Traffic is known to come through this proxy, or nothing is redirected.
    pub redirect: bool,
    /// Something is wrong that does not stop it.
    pub warned: bool,
}

/// What it was asked to do, in the only order there is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Asked {
    /// To serve.
    #[default]
    Serve,
    /// To let those inside leave, and to take nobody by surprise.
    Drain,
    /// To end.
    Stop,
}

/// The machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Lifecycle {
    asked: Asked,
    /// Everything was here once: what is missing now has been lost.
    complete: bool,
    /// The redirect was proven once.
    proven: bool,
    state: State,
}

impl Lifecycle {
    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// Takes in what was asked; what was asked before is never taken back.
    pub fn ask(&mut self, asked: Asked) {
        self.asked = self.asked.max(asked);
    }

    /// Takes in what holds, and says where that leads.
    pub fn step(&mut self, facts: Facts) -> State {
        self.complete |= facts.identity && facts.parts;
        self.proven |= self.complete && facts.redirect;
        self.state = match self.asked {
            Asked::Stop => State::Stopping,
            Asked::Drain => State::Draining,
            Asked::Serve => self.serving(facts),
        };
        self.state
    }

    fn serving(&self, facts: Facts) -> State {
        match facts {
            _ if !self.complete => State::Starting,
            Facts { identity: false, .. } => State::Expired,
            Facts { redirect: false, .. } if !self.proven => State::Testing,
            Facts { redirect: false, .. } => State::Bypassed,
            Facts { parts: false, .. } | Facts { warned: true, .. } => State::Degraded,
            Facts { .. } => State::Ready,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is reported, and where it leads; from top to bottom one life.
    enum Report {
        Holds(Facts),
        Asked(Asked),
    }
    use Report::{Asked as Ask, Holds};

    const NOTHING: Facts = Facts { identity: false, parts: false, redirect: false, warned: false };
    const ALL: Facts = Facts { identity: true, parts: true, redirect: true, warned: false };
    const UNPROVEN: Facts = Facts { redirect: false, ..ALL };
    const WARNED: Facts = Facts { warned: true, ..ALL };
    const ENDED: Facts = Facts { identity: false, ..ALL };

    fn check(life: &[(Report, State)]) {
        let mut lifecycle = Lifecycle::default();
        let mut facts = NOTHING;
        for (at, (report, expected)) in life.iter().enumerate() {
            match report {
                Holds(now) => facts = *now,
                Ask(asked) => lifecycle.ask(*asked),
            }
            let state = lifecycle.step(facts);
            assert_eq!((state, lifecycle.state()), (*expected, *expected), "report {at}");
        }
    }

    #[test]
    fn a_life_from_start_to_end() {
        check(&[
            (Holds(NOTHING), State::Starting),
            (Holds(Facts { identity: true, ..NOTHING }), State::Starting),
            (Holds(UNPROVEN), State::Testing),
            (Holds(ALL), State::Ready),
            (Holds(WARNED), State::Degraded),
            (Holds(ALL), State::Ready),
            (Holds(UNPROVEN), State::Bypassed),
            (Holds(ALL), State::Ready),
            (Holds(ENDED), State::Expired),
            (Holds(ALL), State::Ready),
            (Ask(Asked::Drain), State::Draining),
            (Ask(Asked::Stop), State::Stopping),
        ]);
    }

    #[test]
    fn a_redirect_that_is_missing_does_not_hide_an_ended_certificate() {
        check(&[
            (Holds(UNPROVEN), State::Testing),
            (Holds(Facts { identity: false, ..UNPROVEN }), State::Expired),
            (Holds(UNPROVEN), State::Testing),
            (Holds(Facts { warned: true, ..UNPROVEN }), State::Testing),
        ]);
    }

    #[test]
    fn a_proof_before_everything_is_here_is_none() {
        let early = Facts { parts: false, ..ALL };
        check(&[(Holds(early), State::Starting), (Holds(UNPROVEN), State::Testing)]);
    }

    #[test]
    fn leaving_is_never_taken_back() {
        check(&[
            (Holds(ALL), State::Ready),
            (Ask(Asked::Stop), State::Stopping),
            (Ask(Asked::Drain), State::Stopping),
            (Ask(Asked::Serve), State::Stopping),
            (Holds(ENDED), State::Stopping),
        ]);
        check(&[(Ask(Asked::Drain), State::Draining), (Holds(ALL), State::Draining)]);
    }

    #[test]
    fn only_two_states_are_ready() {
        let ready: Vec<_> = State::ALL.iter().filter(|state| state.is_ready()).collect();
        assert_eq!(ready, [&State::Ready, &State::Degraded]);
        assert!(State::ALL.iter().all(|state| state.is_ready() == state.reason().is_none()));
    }
}
