//! Unpredictable bytes for handles, token ids and decision ids, drawn from aws-lc-rs in batches.

use aws_lc_rs::rand::{SecureRandom as _, SystemRandom};

const BATCH: usize = 512;

/// A supply of random bytes of one worker.
pub struct Random {
    source: SystemRandom,
    batch: [u8; BATCH],
    used: usize,
}

impl Random {
    /// A supply whose first batch is drawn at first use.
    pub fn new() -> Random {
        Random { source: SystemRandom::new(), batch: [0; BATCH], used: BATCH }
    }

    /// The next `N` bytes, at most 64 at a time; no byte is given out twice.
    ///
    /// # Panics
    /// When the operating system has no randomness: nothing safe can be made without it.
    #[expect(clippy::expect_used, reason = "there is no safe way to go on without randomness")]
    pub fn bytes<const N: usize>(&mut self) -> [u8; N] {
        const { assert!(N <= 64) };
        if self.used + N > BATCH {
            self.source.fill(&mut self.batch).expect("the system's random source works");
            self.used = 0;
        }
        let mut out = [0; N];
        out.copy_from_slice(&self.batch[self.used..self.used + N]);
        self.batch[self.used..self.used + N].fill(0);
        self.used += N;
        out
    }
}

impl Default for Random {
    fn default() -> Random {
        Random::new()
    }
}
