//! How many certificates a service account gets in a minute. Who is over it waits.
//!
//! Time is an argument, in milliseconds. Accounts that have all their tokens back are forgotten,
//! so the table holds those that asked lately and no others.

use std::collections::HashMap;

const MINUTE_MS: u64 = 60_000;

/// One bucket for each account.
#[derive(Debug)]
pub(crate) struct Rates {
    per_minute: u64,
    buckets: HashMap<(String, String), Bucket>,
}

/// What is left, in thousandths of `MINUTE_MS / per_minute`.
#[derive(Debug)]
struct Bucket {
    /// Milliseconds of waiting that are still paid for.
    credit_ms: u64,
    at_ms: u64,
}

impl Rates {
    pub(crate) fn new(per_minute: u64) -> Rates {
        Rates { per_minute: per_minute.max(1), buckets: HashMap::new() }
    }

    /// Takes one certificate from the account's share, if there is one left.
    pub(crate) fn take(&mut self, namespace: &str, account: &str, now_ms: u64) -> bool {
        let cost_ms = MINUTE_MS / self.per_minute;
        self.buckets.retain(|_, bucket| {
            bucket.fill(now_ms);
            bucket.credit_ms < MINUTE_MS
        });
        let key = (namespace.to_owned(), account.to_owned());
        let bucket = self.buckets.entry(key);
        let bucket = bucket.or_insert(Bucket { credit_ms: MINUTE_MS, at_ms: now_ms });
        match bucket.credit_ms.checked_sub(cost_ms) {
            Some(left) => {
                bucket.credit_ms = left;
                true
            }
            None => false,
        }
    }
}

impl Bucket {
    fn fill(&mut self, now_ms: u64) {
        let passed = now_ms.saturating_sub(self.at_ms);
        self.credit_ms = self.credit_ms.saturating_add(passed).min(MINUTE_MS);
        self.at_ms = now_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_over_its_rate_waits_and_others_do_not() {
        let mut rates = Rates::new(3);
        let mut take = |account: &str, at_s: u64| rates.take("shop", account, at_s * 1000);
        assert!(take("orders", 0) && take("orders", 0) && take("orders", 1));
        assert!(!take("orders", 1), "the fourth in a minute");
        assert!(take("billing", 1));
        assert!(!take("orders", 18));
        assert!(take("orders", 21), "a third of a minute later there is one more");
        assert!(!take("orders", 21));
    }

    #[test]
    fn a_clock_that_goes_back_gives_nothing_away() {
        let mut rates = Rates::new(1);
        assert!(rates.take("shop", "orders", 100_000));
        assert!(!rates.take("shop", "orders", 1_000));
        assert!(rates.take("shop", "orders", 61_000));
    }

    #[test]
    fn accounts_that_have_waited_are_forgotten() {
        let mut rates = Rates::new(60);
        for number in 0..1_000 {
            assert!(rates.take("shop", &number.to_string(), 0));
        }
        assert!(rates.take("shop", "one more", 60_000));
        assert_eq!(rates.buckets.len(), 1);
    }
}
