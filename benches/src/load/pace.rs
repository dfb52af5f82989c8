//! A clock for open-loop load. tokio's timers have a granularity of a millisecond, which would
//! drown a latency of a tenth of that, so this one waits on a kernel timer instead.

use std::io::{ErrorKind, Result};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use tokio::io::unix::AsyncFd;

/// Beats with a fixed period.
pub(super) struct Pace {
    timer: AsyncFd<OwnedFd>,
    next: Instant,
    period: Duration,
}

impl Pace {
    /// Starts beating; the first beat is one period from now.
    pub(super) fn start(period: Duration) -> Result<Pace> {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        let every = Timespec { tv_sec: 0, tv_nsec: i64::from(period.subsec_nanos()) };
        let setting = Itimerspec { it_interval: every, it_value: every };
        let next = Instant::now() + period;
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
        #[expect(deprecated, reason = "an OwnedFd gives the same descriptor until it is dropped")]
        let timer = AsyncFd::new(timer)?;
        Ok(Pace { timer, next, period })
    }

    /// Waits for the next beat and yields when each one that has passed was due.
    pub(super) async fn beats(&mut self) -> Result<impl Iterator<Item = Instant> + use<>> {
        let passed = self.expirations().await?;
        let (first, period) = (self.next, self.period);
        self.next += period * passed;
        Ok((0..passed).map(move |beat| first + period * beat))
    }

    async fn expirations(&self) -> Result<u32> {
        loop {
            let mut ready = self.timer.readable().await?;
            let mut count = [0; 8];
            match rustix::io::read(self.timer.get_ref(), &mut count) {
                Ok(_) => {
                    return u32::try_from(u64::from_ne_bytes(count))
                        .map_err(|_| ErrorKind::InvalidData.into());
                }
                Err(rustix::io::Errno::AGAIN) => ready.clear_ready(),
                Err(error) => return Err(error.into()),
            }
        }
    }
}
