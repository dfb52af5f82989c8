//! The renewal machine under a clock of its own: hours pass without a second of waiting.

use std::{collections::VecDeque, time::Duration};

use crate::{
    State,
    renewal::machine::{Action, Event, Next, Renewal},
};

const HOUR: u64 = 3_600;
const START: u64 = 1_800_000_000;

/// What the authority of a [`Sim`] answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    /// A certificate that begins a minute ago and ends after so many seconds.
    Good(u64),
    Down,
    RetryAfter(u64),
    Never,
    Withdrawn,
}

/// What happened, with the second since the start at which it did.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Seen {
    Asked(u32),
    Did(Action),
}

/// A process with its clock, its authority and its luck.
struct Sim {
    machine: Renewal,
    now_ms: u64,
    random: u32,
    answers: VecDeque<Answer>,
    otherwise: Answer,
    seen: Vec<(u64, Seen)>,
}

impl Sim {
    fn new(otherwise: Answer) -> Sim {
        let (now_ms, random) = (START * 1_000, u32::MAX / 2);
        let (answers, seen) = (VecDeque::new(), Vec::new());
        Sim { machine: Renewal::default(), now_ms, random, answers, otherwise, seen }
    }

    /// One that holds a fresh certificate of an hour.
    fn with_an_hour(otherwise: Answer) -> Sim {
        let mut sim = Sim::new(otherwise);
        sim.answers.push_back(Answer::Good(HOUR));
        sim.advance(0);
        sim.seen.clear();
        sim
    }

    /// Lets seconds pass as the driver would see them.
    fn advance(&mut self, seconds: u64) {
        let end_ms = self.now_ms + seconds * 1_000;
        let mut tick_ms = self.now_ms;
        loop {
            match self.machine.next(self.now_ms) {
                Next::Ask { attempt } => self.ask(attempt),
                Next::Stop if self.now_ms >= end_ms => return,
                Next::Stop => self.now_ms += 1_000,
                Next::Wait(_) if self.now_ms >= end_ms => return,
                Next::Wait(wait) => {
                    assert!(wait <= Duration::from_secs(1), "the clock is looked at every second");
                    let wait_ms = u64::try_from(wait.as_millis()).unwrap();
                    self.now_ms = (self.now_ms + wait_ms).min(end_ms);
                }
            }
            if self.now_ms >= tick_ms + 1_000 {
                tick_ms = self.now_ms;
                self.on(Event::Tick);
            }
        }
    }

    /// The wall clock jumps, as after a suspend or when somebody sets it.
    fn jump(&mut self, to_s: u64) {
        self.now_ms = (START + to_s) * 1_000;
        self.on(Event::Tick);
    }

    fn ask(&mut self, attempt: u32) {
        self.seen.push((self.at(), Seen::Asked(attempt)));
        self.on(Event::Asked);
        let now = self.now_ms / 1_000;
        match self.answers.pop_front().unwrap_or(self.otherwise) {
            Answer::Good(life) => {
                self.on(Event::Delivered { not_before: now - 60, not_after: now + life });
            }
            Answer::Down => self.on(Event::Failed { retry_after: None }),
            Answer::RetryAfter(seconds) => {
                self.on(Event::Failed { retry_after: Some(Duration::from_secs(seconds)) });
            }
            Answer::Never => self.on(Event::Refused),
            Answer::Withdrawn => {
                self.on(Event::Withdrawn);
                self.on(Event::Failed { retry_after: None });
            }
        }
    }

    fn on(&mut self, event: Event) {
        let at = self.at();
        let actions = self.machine.on(event, self.now_ms, self.random);
        self.seen.extend(actions.into_iter().map(|action| (at, Seen::Did(action))));
    }

    fn at(&self) -> u64 {
        self.now_ms / 1_000 - START
    }

    fn state(&self) -> State {
        self.machine.state(self.now_ms)
    }

    fn asked(&self) -> Vec<u64> {
        let asked = self.seen.iter().filter(|(_, seen)| matches!(seen, Seen::Asked(_)));
        asked.map(|(at, _)| *at).collect()
    }

    fn did(&self) -> Vec<(u64, Action)> {
        let did = self.seen.iter().filter_map(|(at, seen)| match seen {
            Seen::Did(action) => Some((*at, *action)),
            Seen::Asked(_) => None,
        });
        did.collect()
    }
}

#[test]
fn the_first_identity_is_asked_for_at_once_and_makes_it_valid() {
    let mut sim = Sim::new(Answer::Good(HOUR));
    assert_eq!(sim.state(), State::Empty);
    sim.advance(0);
    assert_eq!(sim.seen, [(0, Seen::Asked(0))]);
    assert_eq!(sim.state(), State::Valid);
}

#[test]
fn a_renewal_begins_at_a_random_point_between_half_and_three_fifths_of_the_life() {
    let first_after = |random: u32| {
        let mut sim = Sim::new(Answer::Good(HOUR));
        sim.random = random;
        sim.advance(HOUR);
        sim.asked()[1]
    };
    assert_eq!(first_after(0), HOUR / 2);
    assert_eq!(first_after(u32::MAX), HOUR * 6 / 10);
    let mut points: Vec<u64> = (0..=8).map(|n| first_after(u32::MAX / 8 * n)).collect();
    points.dedup();
    assert_eq!(points.len(), 9, "a fleet that started together does not renew together");
}

#[test]
fn every_certificate_has_a_point_of_its_own() {
    let mut sim = Sim::new(Answer::Good(HOUR));
    sim.random = 0;
    sim.advance(HOUR / 2);
    sim.random = u32::MAX;
    sim.advance(HOUR);
    assert_eq!(sim.asked(), [0, HOUR / 2, HOUR / 2 + HOUR / 2]);
    sim.advance(HOUR);
    assert_eq!(sim.asked()[3] - sim.asked()[2], HOUR * 6 / 10);
}

#[test]
fn the_life_counts_from_receipt_when_the_certificate_is_older() {
    let mut machine = Renewal::default();
    // Issued half an hour ago for an hour: half an hour is left, and half of that is used first.
    let event = Event::Delivered { not_before: START - 1_800, not_after: START + 1_800 };
    assert_eq!(machine.on(event, START * 1_000, 0), []);
    assert_eq!(machine.next((START + 899) * 1_000), Next::Wait(Duration::from_secs(1)));
    assert_eq!(machine.next((START + 900) * 1_000), Next::Ask { attempt: 0 });
}

#[test]
fn a_dead_authority_makes_it_late_then_critical_then_nothing_and_is_asked_on() {
    let mut sim = Sim::with_an_hour(Answer::Down);
    sim.advance(HOUR * 75 / 100 - 1);
    assert_eq!((sim.state(), sim.did()), (State::Valid, vec![]));
    sim.advance(1);
    assert_eq!(sim.did(), [(2_700, Action::Warn(State::Late))]);
    sim.advance(HOUR * 90 / 100 - HOUR * 75 / 100);
    assert_eq!(sim.state(), State::Critical);
    sim.advance(1);
    let critical = sim.did().into_iter().find(|(_, did)| *did == Action::Warn(State::Critical));
    assert!(matches!(critical, Some((3_240..=3_241, _))), "{critical:?}");
    sim.advance(HOUR / 10 - 1);
    assert_eq!(sim.state(), State::Critical, "until the last second");
    sim.advance(1);
    assert_eq!(sim.state(), State::Expired);
    let did = sim.did();
    let ended = [(3_601, Action::Expire), (3_601, Action::Warn(State::Expired))];
    assert_eq!(did[did.len() - 2..], ended);
    let before = sim.asked().len();
    sim.otherwise = Answer::Good(HOUR);
    sim.advance(60);
    assert!(sim.asked().len() > before, "attempts go on");
    assert_eq!(sim.state(), State::Valid);
    let expiries = sim.did().into_iter().filter(|(_, action)| *action == Action::Expire);
    assert_eq!(expiries.count(), 1);
}

#[test]
fn people_are_told_once_a_minute_while_it_lasts() {
    let mut sim = Sim::with_an_hour(Answer::Down);
    sim.advance(3 * HOUR);
    let told: Vec<u64> = sim
        .did()
        .into_iter()
        .filter(|(_, action)| matches!(action, Action::Warn(_)))
        .map(|(at, _)| at)
        .collect();
    for pair in told.windows(2) {
        let apart = pair[1] - pair[0];
        let to_another_state = [3_240, 3_601].contains(&pair[1]);
        assert!((60..=61).contains(&apart) || to_another_state, "{pair:?}");
    }
    assert!(told.len() > 120, "{}", told.len());
}

#[test]
fn an_authority_that_is_down_for_hours_is_asked_once_a_minute_at_most_on_average() {
    let mut sim = Sim::new(Answer::Good(24 * HOUR));
    sim.advance(0);
    sim.otherwise = Answer::Down;
    sim.random = u32::MAX;
    sim.advance(20 * HOUR);
    let asked = sim.asked();
    let apart: Vec<u64> = asked[1..].windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!(apart[..8], [1, 2, 4, 8, 16, 32, 60, 60]);
    assert!(apart.iter().all(|apart| *apart <= 60), "{apart:?}");
}

#[test]
fn waits_have_full_jitter_and_are_never_nothing() {
    let mut sim = Sim::with_an_hour(Answer::Down);
    sim.random = 0;
    sim.advance(HOUR / 2 + 200);
    let asked = sim.asked().len();
    assert!(asked <= 10 * 200, "{asked} attempts are less than 100 ms apart");
    let mut machine = Renewal::default();
    machine.on(Event::Failed { retry_after: None }, START * 1_000, 0);
    assert_eq!(machine.wait_until_ms(), Some(START * 1_000 + 100));
    machine.on(Event::Failed { retry_after: None }, START * 1_000, u32::MAX / 2);
    assert_eq!(machine.wait_until_ms(), Some(START * 1_000 + 999), "half of two seconds");
}

#[test]
fn without_an_identity_nobody_waits_longer_than_five_seconds() {
    let mut sim = Sim::new(Answer::Down);
    sim.random = u32::MAX;
    sim.advance(600);
    let asked = sim.asked();
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] <= 5), "{asked:?}");
    assert!(asked.len() > 100, "{}", asked.len());
}

#[test]
fn what_is_left_of_a_short_life_is_not_slept_through() {
    let mut sim = Sim::new(Answer::Good(24));
    sim.random = u32::MAX;
    sim.answers = [Answer::Good(24)].into_iter().chain([Answer::Down; 4]).collect();
    sim.advance(24);
    assert_eq!(sim.asked().len(), 6, "four failures, then a certificate: {:?}", sim.asked());
    assert_eq!(sim.state(), State::Valid);
    assert!(!sim.did().iter().any(|(_, action)| *action == Action::Expire));
}

#[test]
fn an_authority_that_fails_now_and_then_never_costs_the_identity() {
    let mut sim = Sim::new(Answer::Good(60));
    let renewal = [Answer::Down, Answer::Down, Answer::Down, Answer::Down, Answer::Good(60)];
    sim.answers = (0..200).flat_map(|_| renewal).collect();
    for _ in 0..3_600 {
        sim.random = sim.random.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        sim.advance(1);
        assert!(sim.asked().len() < 5 || sim.state().is_usable(), "at {}", sim.at());
    }
    assert!(sim.asked().len() > 400, "{}", sim.asked().len());
}

#[test]
fn retry_after_is_honoured_up_to_a_minute_and_never_shortens_a_wait() {
    let wait = |seconds, random| {
        let mut sim = Sim::with_an_hour(Answer::RetryAfter(seconds));
        sim.advance(HOUR / 2 + 200);
        sim.random = random;
        sim.seen.clear();
        sim.advance(300);
        let asked = sim.asked();
        asked[2] - asked[1]
    };
    assert_eq!(wait(20, 0), 20);
    assert_eq!(wait(3_600, 0), 60);
    assert_eq!(wait(0, u32::MAX), 60, "the own wait is longer");
}

#[test]
fn what_will_never_be_granted_is_not_asked_for_again() {
    let mut sim = Sim::with_an_hour(Answer::Never);
    sim.advance(HOUR);
    assert_eq!(sim.asked().len(), 1);
    assert_eq!(sim.machine.next(sim.now_ms), Next::Stop);
    assert_eq!(sim.state(), State::Critical, "what is held is used until it ends");
    sim.advance(10);
    assert_eq!(sim.state(), State::Expired);
}

#[test]
fn a_withdrawn_identity_is_gone_at_once_and_asked_for_again() {
    let mut sim = Sim::with_an_hour(Answer::Withdrawn);
    sim.advance(HOUR * 6 / 10);
    assert_eq!(sim.state(), State::Withdrawn);
    assert!(sim.did().iter().any(|(_, action)| *action == Action::Warn(State::Withdrawn)));
    assert!(sim.asked().len() > 1);
    sim.otherwise = Answer::Good(HOUR);
    sim.advance(10);
    assert_eq!(sim.state(), State::Valid);
}

#[test]
fn a_machine_that_slept_wakes_up_to_what_is_due() {
    let mut sim = Sim::with_an_hour(Answer::Good(HOUR));
    sim.jump(2_000);
    sim.advance(0);
    assert_eq!(sim.asked(), [2_000], "its target passed while it slept");
    assert_eq!(sim.machine.clock_steps(), 1);

    let mut sim = Sim::with_an_hour(Answer::Good(HOUR));
    sim.jump(8 * HOUR);
    let stepped =
        Action::ClockStepped { from_ms: START * 1_000, to_ms: (START + 8 * HOUR) * 1_000 };
    assert_eq!(sim.did()[..2], [(8 * HOUR, stepped), (8 * HOUR, Action::Expire)]);
    sim.advance(0);
    assert_eq!(sim.asked(), [8 * HOUR], "and it ended");
    assert_eq!(sim.state(), State::Valid);
}

#[test]
fn a_wait_ends_with_the_sleep() {
    let mut sim = Sim::with_an_hour(Answer::Down);
    sim.random = u32::MAX;
    sim.advance(HOUR * 2 / 3);
    sim.seen.clear();
    sim.otherwise = Answer::Good(HOUR);
    sim.jump(HOUR * 2 / 3 + 45);
    sim.advance(15);
    assert_eq!(sim.asked().len(), 1);
    assert_eq!(sim.state(), State::Valid);
}

#[test]
fn a_clock_that_is_set_back_delays_nothing() {
    // In the middle of a wait: it is not prolonged by the hours the clock went back.
    let mut sim = Sim::with_an_hour(Answer::Down);
    sim.random = u32::MAX;
    sim.advance(HOUR * 2 / 3);
    let waiting = sim.machine.wait_until_ms().unwrap() - sim.now_ms;
    sim.jump(HOUR * 2 / 3 - 1_200);
    let left = sim.machine.wait_until_ms().unwrap() - sim.now_ms;
    assert!(left.abs_diff(waiting) <= 1_000, "{left} ms instead of {waiting} ms");
    assert_eq!(sim.machine.clock_steps(), 1);

    // While all is well: the share of the life that was used stays used.
    let mut sim = Sim::with_an_hour(Answer::Good(HOUR));
    sim.advance(1_000);
    sim.jump(400);
    sim.advance(HOUR);
    assert!(!sim.asked().is_empty());

    // Before the beginning of the certificate nobody would accept it: another one is asked for.
    let mut sim = Sim::with_an_hour(Answer::Down);
    sim.now_ms -= 3 * 60_000;
    sim.machine.on(Event::Tick, sim.now_ms, 0);
    assert_eq!(sim.machine.next(sim.now_ms), Next::Ask { attempt: 0 });
}

#[test]
fn steps_of_half_a_minute_and_less_are_nobodys_business() {
    let mut sim = Sim::with_an_hour(Answer::Good(HOUR));
    sim.jump(30);
    sim.jump(5);
    assert_eq!((sim.machine.clock_steps(), sim.did()), (0, vec![]));
    sim.jump(36);
    assert_eq!(sim.machine.clock_steps(), 1);
}

#[test]
fn one_attempt_at_a_time() {
    let mut machine = Renewal::default();
    assert_eq!(machine.next(START * 1_000), Next::Ask { attempt: 0 });
    machine.on(Event::Asked, START * 1_000, 0);
    for second in 0..120 {
        let now_ms = (START + second) * 1_000;
        assert!(matches!(machine.next(now_ms), Next::Wait(_)), "{second}");
        machine.on(Event::Tick, now_ms, 0);
    }
}

#[test]
fn a_key_its_token_lost_is_replaced_at_once_but_not_in_a_loop() {
    let mut sim = Sim::with_an_hour(Answer::Down);
    sim.random = u32::MAX;
    sim.on(Event::KeyLost);
    sim.advance(10);
    assert_eq!(sim.asked(), [0, 1, 3, 7]);
    sim.otherwise = Answer::Good(HOUR);
    sim.advance(10);
    assert_eq!(sim.asked().len(), 5, "a good one ends it: {:?}", sim.asked());
}
