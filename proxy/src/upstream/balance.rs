//! Which endpoint a request goes to: of two drawn at random the one with fewer requests in flight.
//!
//! Invariant: an endpoint that may not be used (tried already) is never picked; one that is left
//! alone by its breaker only when no other is left. Pure: loads and randomness are arguments.

/// An endpoint as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Not for this request.
    Excluded,
    /// Left alone by its breaker; requests in flight.
    Open(u32),
    /// In use; requests in flight.
    Free(u32),
}

impl View {
    /// Order of preference: smaller is better.
    fn rank(self) -> (u8, u32) {
        match self {
            View::Free(load) => (0, load),
            View::Open(load) => (1, load),
            View::Excluded => (2, 0),
        }
    }
}

/// Picks one of `count` endpoints; `random` is fresh randomness.
pub fn pick(count: usize, random: u64, view: impl Fn(usize) -> View) -> Option<usize> {
    let usable = |at: &usize| view(*at) != View::Excluded;
    if count <= 1 {
        return (count == 1).then_some(0).filter(usable);
    }
    let (high, low) = ((random >> 32) as usize, (random & 0xffff_ffff) as usize);
    let first = high % count;
    // One of the others, each as likely.
    let second = (first + 1 + low % (count - 1)) % count;
    let (a, b) = (view(first), view(second));
    if let (View::Free(_), View::Free(_)) = (a, b) {
        return Some(if b.rank() < a.rank() { second } else { first });
    }
    best_from(count, first, view)
}

/// Where the two drawn are not both in use: the two usable ones that follow the first.
fn best_from(count: usize, start: usize, view: impl Fn(usize) -> View) -> Option<usize> {
    let round = || (start..count).chain(0..start).map(|at| (at, view(at)));
    let free = round().filter(|(_, view)| matches!(view, View::Free(_))).take(2);
    let best = free.min_by_key(|(_, view)| view.rank());
    let left = || round().filter(|(_, view)| matches!(view, View::Open(_))).take(2);
    best.or_else(|| left().min_by_key(|(_, view)| view.rank())).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_view() -> impl Strategy<Value = View> {
        prop_oneof![
            1 => Just(View::Excluded),
            2 => (0_u32..9).prop_map(View::Open),
            4 => (0_u32..9).prop_map(View::Free),
        ]
    }

    proptest! {
        #[test]
        fn the_choice_is_usable_and_free_if_any_is(
            views in proptest::collection::vec(any_view(), 0..20),
            random: u64,
        ) {
            let picked = pick(views.len(), random, |at| views[at]);
            let free = views.iter().any(|view| matches!(view, View::Free(_)));
            let any = views.iter().any(|view| *view != View::Excluded);
            match picked {
                None => prop_assert!(!any),
                Some(at) if free => prop_assert!(matches!(views[at], View::Free(_))),
                Some(at) => prop_assert!(matches!(views[at], View::Open(_))),
            }
        }

        /// The most loaded of all is never picked beside others: any second draw beats it.
        #[test]
        fn the_most_loaded_is_avoided(count in 2_usize..20, worst in 0_usize..20, random: u64) {
            let worst = worst % count;
            let view = |at| View::Free(if at == worst { 9 } else { 1 });
            prop_assert_ne!(pick(count, random, view), Some(worst));
        }
    }

    #[test]
    fn equal_loads_are_spread_over_all() {
        let mut seen = [0_u32; 7];
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for _ in 0..7_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let mixed = random ^ (random >> 29);
            seen[pick(7, mixed, |_| View::Free(3)).expect("one")] += 1;
        }
        assert!(seen.iter().all(|count| (700..1_400).contains(count)), "{seen:?}");
    }

    /// The point of two choices: one slow endpoint does not collect the requests.
    #[test]
    fn a_slow_endpoint_gets_less() {
        let mut loads = [0_u32; 4];
        let mut sent = [0_u32; 4];
        let mut random = 1_u64;
        for turn in 0..4_000_u32 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = pick(4, random ^ (random >> 29), |at| View::Free(loads[at])).expect("one");
            sent[at] += 1;
            loads[at] += 1;
            for (endpoint, load) in loads.iter_mut().enumerate() {
                // Endpoint 0 answers one request in ten turns, the others one each turn.
                if endpoint != 0 || turn % 10 == 0 {
                    *load = load.saturating_sub(1);
                }
            }
        }
        assert!(sent[0] * 2 < sent[1], "{sent:?}");
    }
}
