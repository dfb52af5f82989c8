//! The index against a slow, obvious reference, and against what it is for: whatever the app says
//! of its own request truthfully, it never finds another user's context.

use std::sync::LazyLock;

use proptest::prelude::*;

use super::tests::{held_until, name, proven};
use super::*;

/// What two of them brought was proven, so that it is folded while it rests.
static USERS: LazyLock<[Held; 3]> =
    LazyLock::new(|| [proven("alice"), proven("bob"), held_until("carol.c.c", 0)]);
const GRACE_MS: u64 = 5_000;
const ENTRIES_MAX: usize = 6;

fn token_of(user: usize) -> &'static str {
    USERS[user].token.to_str().unwrap()
}

fn of_user(user: usize, exp: u64) -> Arc<Held> {
    Arc::new(Held { exp, ..USERS[user].clone() })
}

#[derive(Clone, Debug)]
enum Step {
    Open {
        trace: Option<u128>,
        user: Option<usize>,
        by_token: bool,
        life_s: u64,
    },
    Close(usize),
    Begin {
        user: usize,
        life_s: u64,
    },
    End(usize),
    Sweep,
    Wait(u64),
    Find {
        handle: Said,
        token: Said,
        trace: Option<u128>,
        how: Propagation,
    },
    /// A call that names the request which caused it, truthfully.
    Caused {
        by: usize,
        handle: bool,
        token: bool,
        trace: bool,
        how: Propagation,
    },
}

#[derive(Clone, Copy, Debug)]
enum Said {
    Nothing,
    Of(usize),
    Wrong,
    Twice,
}

/// One remembered context, with all that ever happened to it.
#[derive(Clone, Debug)]
struct Known {
    number: u8,
    trace: Option<u128>,
    user: Option<usize>,
    by_token: bool,
    begun: bool,
    /// When it is over, apart from its token; the order in which it closed.
    until_ms: Option<(u64, usize)>,
    exp_s: u64,
    ended: bool,
    gone: bool,
}

#[derive(Default)]
struct Reference {
    known: Vec<Known>,
    now_ms: u64,
    closings: usize,
}

impl Reference {
    fn live(&self, one: &Known) -> bool {
        !one.gone && one.until_ms.is_none_or(|(until, _)| self.now_ms < until)
    }

    fn carries(&self, one: &Known) -> Option<usize> {
        one.user.filter(|_| !one.ended && self.now_ms / 1_000 < one.exp_s)
    }

    /// The newcomer's place: one that is free, or that of a context in grace.
    fn make_room(&mut self, newcomer: u8) -> bool {
        if self.known.iter().filter(|one| !one.gone).count() < ENTRIES_MAX {
            return true;
        }
        let distance = |one: &Known| (one.number % 16).wrapping_sub(newcomer % 16) % 16;
        let in_grace = self.known.iter_mut().filter(|one| !one.gone && !one.begun);
        let closed = in_grace.filter_map(|one| Some((distance(one), one.until_ms?.1, one)));
        let Some((_, _, first)) = closed.min_by_key(|(far, order, _)| (*far, *order)) else {
            return false;
        };
        first.gone = true;
        true
    }

    /// Who is behind a name: nobody, or everybody who has it.
    fn behind(&self, has: impl Fn(&Known) -> bool) -> Vec<Option<usize>> {
        let all = self.known.iter().filter(|one| self.live(one) && has(one));
        all.map(|one| self.carries(one)).collect()
    }

    fn find(
        &self,
        handle: Said,
        token: Said,
        trace: Option<u128>,
        how: Propagation,
    ) -> (&'static str, Option<usize>) {
        let handle = if how.handle { handle } else { Said::Nothing };
        let token = if how.token { token } else { Said::Nothing };
        let trace = trace.filter(|_| how.traceparent);
        let by_handle = match handle {
            Said::Nothing => None,
            Said::Of(at) => match self.known.get(at) {
                Some(one) if self.live(one) && self.carries(one).is_some() => one.user,
                _ => return ("unknown_handle", None),
            },
            Said::Wrong | Said::Twice => return ("unknown_handle", None),
        };
        let by_token = match token {
            Said::Nothing => Vec::new(),
            Said::Of(user) => self.behind(|one| one.by_token && one.user == Some(user % 3)),
            Said::Wrong | Said::Twice => return ("unknown_token", None),
        };
        if matches!(token, Said::Of(_)) && by_token.iter().all(Option::is_none) {
            return ("unknown_token", None);
        }
        let by_trace = match trace {
            Some(trace) => self.behind(|one| one.trace == Some(trace)),
            None => Vec::new(),
        };
        let one = |them: &[Option<usize>]| {
            let first = them.first().copied().flatten()?;
            them.iter().all(|it| *it == Some(first)).then_some(first)
        };
        let denies = |them: &[Option<usize>], user| !them.is_empty() && !them.contains(&Some(user));
        if let Some(user) = by_handle {
            if denies(&by_token, user) || denies(&by_trace, user) {
                return ("mismatch", None);
            }
            return ("handle", Some(user));
        }
        if !by_token.is_empty() {
            return match one(&by_token) {
                Some(user) if denies(&by_trace, user) => ("mismatch", None),
                Some(user) => ("token", Some(user)),
                None => ("ambiguous", None),
            };
        }
        match (by_trace.iter().all(Option::is_none), one(&by_trace)) {
            (true, _) => ("none", None),
            (false, Some(user)) => ("traceparent", Some(user)),
            (false, None) => ("ambiguous", None),
        }
    }
}

/// The index and the reference side by side.
struct Both {
    index: Arc<ContextIndex>,
    reference: Reference,
}

impl Both {
    fn now(&self) -> Now {
        Now::from_micros(self.reference.now_ms * 1_000)
    }

    fn exp(&self, life_s: u64) -> u64 {
        self.reference.now_ms / 1_000 + life_s
    }

    fn learn(&mut self, mut one: Known, kept: bool) {
        one.gone = !kept;
        self.reference.known.push(one);
    }

    fn next(&self) -> (u8, Handle) {
        let number = u8::try_from(self.reference.known.len()).unwrap();
        (number, Handle::new([number; 16]))
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Open { trace, user, by_token, life_s } => {
                let (number, handle) = self.next();
                let exp_s = self.exp(*life_s);
                let held = user.map(|user| of_user(user, exp_s));
                let open = self.index.open(handle, trace.map(TraceId), held, *by_token);
                let room = self.reference.make_room(number);
                assert_eq!(open.is_some(), room);
                // Its end comes with `Close`, at the time of this test and not of the machine.
                std::mem::forget(open);
                let by_token = *by_token && user.is_some();
                let one = Known {
                    number,
                    trace: *trace,
                    user: *user,
                    by_token,
                    begun: false,
                    until_ms: None,
                    exp_s,
                    ended: false,
                    gone: false,
                };
                self.learn(one, room);
            }
            Step::Begin { user, life_s } => {
                let (number, handle) = self.next();
                let exp_s = self.exp(*life_s);
                let held = of_user(*user, exp_s);
                let begun = self.index.begin(handle, held, u64::MAX, self.now()).is_some();
                let room = *life_s > 0 && self.reference.make_room(number);
                assert_eq!(begun, room);
                let one = Known {
                    number,
                    trace: None,
                    user: Some(*user),
                    by_token: false,
                    begun: true,
                    until_ms: Some((exp_s * 1_000, 0)),
                    exp_s,
                    ended: false,
                    gone: false,
                };
                self.learn(one, room);
            }
            Step::Close(at) => self.close(*at),
            Step::End(at) => self.end(*at),
            Step::Sweep => self.sweep(),
            Step::Wait(ms) => self.reference.now_ms += ms,
            Step::Find { handle, token, trace, how } => self.find(*handle, *token, *trace, *how),
            Step::Caused { by, handle, token, trace, how } => {
                let Some(one) = self.reference.known.get(*by) else { return };
                let (open, user, by_token) = (one.until_ms.is_none(), one.user, one.by_token);
                if one.gone || !open {
                    return;
                }
                let handle = if *handle && user.is_some() { Said::Of(*by) } else { Said::Nothing };
                let token = user.filter(|_| *token && by_token).map_or(Said::Nothing, Said::Of);
                let trace = one.trace.filter(|_| *trace);
                let found = self.look(handle, token, trace, *how);
                let token = found.held().map(|held| held.token.to_str().unwrap().to_owned());
                let own = user.map(|user| token_of(user).to_owned());
                assert!(token.is_none() || token == own, "{token:?} on a call of {own:?}");
            }
        }
    }

    fn close(&mut self, at: usize) {
        let until = self.reference.now_ms + GRACE_MS;
        let Some(one) = self.reference.known.get_mut(at) else { return };
        if one.gone || one.begun || one.until_ms.is_some() {
            return;
        }
        self.reference.closings += 1;
        one.until_ms = Some((until, self.reference.closings));
        let handle = Handle::new([one.number; 16]);
        self.index.close(handle, self.now());
    }

    fn end(&mut self, at: usize) {
        let Some(one) = self.reference.known.get_mut(at) else { return };
        let there = !one.gone && (one.begun || (one.user.is_some() && !one.ended));
        assert_eq!(self.index.end(Handle::new([one.number; 16])), there);
        one.ended |= there;
        one.gone |= one.begun;
    }

    fn sweep(&mut self) {
        self.index.sweep(self.now());
        let now = self.reference.now_ms;
        for one in &mut self.reference.known {
            one.gone |= one.until_ms.is_some_and(|(until, _)| now >= until);
        }
        let left = self.reference.known.iter().filter(|one| !one.gone).count();
        assert_eq!(self.index.len(), left);
        let begun = self.reference.known.iter().filter(|one| !one.gone && one.begun).count();
        assert_eq!(self.index.begun.load(Ordering::Relaxed), begun);
    }

    fn look(&self, handle: Said, token: Said, trace: Option<u128>, how: Propagation) -> Lookup {
        let text = match handle {
            Said::Of(at) => Handle::new([u8::try_from(at).unwrap(); 16]).text(),
            _ => "x".repeat(22),
        };
        let value = match token {
            Said::Of(user) => HeaderValue::from_static(token_of(user % 3)),
            _ => HeaderValue::from_static("mallory.m.m"),
        };
        let call = Call {
            handle: match handle {
                Said::Nothing => Asked::Nothing,
                Said::Of(_) | Said::Wrong => Asked::Once(&text),
                Said::Twice => Asked::Repeatedly,
            },
            token: match token {
                Said::Nothing => Asked::Nothing,
                Said::Of(_) | Said::Wrong => Asked::Once(&value),
                Said::Twice => Asked::Repeatedly,
            },
            trace: trace.map(TraceId),
        };
        self.index.find(&call, how, self.now())
    }

    fn find(&self, handle: Said, token: Said, trace: Option<u128>, how: Propagation) {
        let found = self.look(handle, token, trace, how);
        let carried = found.held().map(|held| held.token.to_str().unwrap());
        let (result, user) = self.reference.find(handle, token, trace, how);
        assert_eq!((name(&found), carried), (result, user.map(token_of)));
    }
}

fn how() -> impl Strategy<Value = Propagation> {
    any::<[bool; 3]>().prop_map(|[handle, traceparent, token]| Propagation {
        handle,
        traceparent,
        token,
    })
}

fn said(most: usize) -> impl Strategy<Value = Said> {
    prop_oneof![
        3 => Just(Said::Nothing),
        5 => (0..most).prop_map(Said::Of),
        1 => Just(Said::Wrong),
        1 => Just(Said::Twice),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let trace = || proptest::option::weighted(0.8, 1_u128..4);
    let user = || proptest::option::weighted(0.9, 0_usize..3);
    let life_s = || prop_oneof![4 => 5_u64..60, 1 => 0_u64..5];
    prop_oneof![
        6 => (trace(), user(), any::<bool>(), life_s()).prop_map(|(trace, user, by_token, life_s)| {
            Step::Open { trace, user, by_token, life_s }
        }),
        3 => (0_usize..24).prop_map(Step::Close),
        1 => (0_usize..3, life_s()).prop_map(|(user, life_s)| Step::Begin { user, life_s }),
        1 => (0_usize..24).prop_map(Step::End),
        1 => Just(Step::Sweep),
        2 => (0_u64..4_000).prop_map(Step::Wait),
        8 => (said(24), said(3), trace(), how()).prop_map(|(handle, token, trace, how)| {
            Step::Find { handle, token, trace, how }
        }),
        8 => (0_usize..24, any::<[bool; 3]>(), how()).prop_map(|(by, [handle, token, trace], how)| {
            Step::Caused { by, handle, token, trace, how }
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_call_never_finds_the_context_of_another_user(steps in prop::collection::vec(step(), 1..80)) {
        let index = Arc::new(ContextIndex::new(ENTRIES_MAX, GRACE_MS));
        let mut both = Both { index, reference: Reference::default() };
        for step in &steps {
            both.step(step);
        }
        both.reference.now_ms += 120_000;
        for at in 0..both.reference.known.len() {
            both.close(at);
        }
        both.reference.now_ms += GRACE_MS;
        both.sweep();
        prop_assert!(both.index.is_empty());
        let left = |names: usize| names == 0;
        prop_assert!(left(both.index.traces.iter().map(|shard| lock(shard).len()).sum()));
        prop_assert!(left(both.index.tokens.iter().map(|shard| lock(shard).len()).sum()));
    }
}

/// Many threads at once: each opens requests of its own user, calls by every name it has, ends.
#[test]
fn threads_of_different_users_never_meet() {
    const ROUNDS: u32 = 3_000;
    let index = Arc::new(ContextIndex::new(64, 0));
    std::thread::scope(|scope| {
        for thread in 0..6_u32 {
            let index = &index;
            scope.spawn(move || {
                let own = token_of(thread as usize % 3);
                for round in 0..ROUNDS {
                    let mut random = [0; 16];
                    aws_lc_rs::rand::fill(&mut random).unwrap();
                    let handle = Handle::new(random);
                    // Few traces, so that strangers share them all the time.
                    let trace = TraceId(u128::from(round % 5) + 1);
                    let held = Arc::new(held_until(own, u64::MAX / 2_000));
                    let open = index.open(handle, Some(trace), Some(held), true);
                    let (text, token) = (handle.text(), HeaderValue::from_static(own));
                    let call = Call {
                        handle: if round % 3 == 0 { Asked::Once(&text) } else { Asked::Nothing },
                        token: if round % 7 == 0 { Asked::Once(&token) } else { Asked::Nothing },
                        trace: open.as_ref().map(|_| trace),
                    };
                    let how = Propagation { handle: true, traceparent: true, token: true };
                    let found = index.find(&call, how, Now::read());
                    assert!(found.held().is_none_or(|held| held.token == own), "{}", name(&found));
                    drop(open);
                    if round % 64 == 0 {
                        index.sweep(Now::read());
                    }
                }
            });
        }
    });
    index.sweep(Now::from_micros(u64::MAX / 2));
    assert!(index.is_empty());
}
