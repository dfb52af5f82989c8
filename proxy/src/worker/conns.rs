//! How many connections a worker may hold.

/// Connections one worker may hold. Apart, so that a flood from outside cannot stop the app's own
/// calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnsMax {
    /// From outside the pod: inbound and gateway.
    pub entering: usize,
    /// From the app.
    pub outbound: usize,
}

impl ConnsMax {
    /// Shares `all` connections of a worker out: a quarter for the app where both kinds listen.
    pub fn share(all: usize, entering: bool, outbound: bool) -> ConnsMax {
        let kept = match (entering, outbound) {
            (_, false) => 0,
            (false, true) => all,
            (true, true) => all / 4,
        };
        ConnsMax { entering: all.saturating_sub(kept).max(1), outbound: kept.max(1) }
    }
}
