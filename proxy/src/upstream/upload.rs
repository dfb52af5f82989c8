//! How far the request body of one exchange got, and how long its response head may take.
//!
//! Invariant: the clock of the response head starts when the request body has ended, so a slow
//! upload is not mistaken for a slow answer; a body that stands still has a clock of its own. Nothing
//! of a request body is sent on once its exchange is over, answered or not.

use std::cell::{Cell, RefCell};
use std::ops::Deref;
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::registry::{EndReason, Registered};

/// Why a body was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// It is longer than its limit.
    #[error("the body is longer than {0} bytes")]
    TooLarge(u64),
    /// Its sender sent nothing for too long.
    #[error("the body made no progress in time")]
    Stalled,
    /// What allowed its exchange has gone.
    #[error("the exchange is no longer allowed ({})", .0.text())]
    Ended(EndReason),
    /// Its exchange has lasted too long.
    #[error("the exchange has reached its greatest age")]
    TooOld,
    /// Its trailers are larger than this; half of them would be a different message.
    #[error("the trailers are larger than {0} bytes")]
    Trailers(usize),
    /// The deadline of its call has passed.
    #[error("the call's deadline has passed")]
    Deadline,
    /// Nobody waits for its answer any longer.
    #[error("nobody waits for the answer any longer")]
    Forsaken,
}

impl Fault {
    /// The gRPC status a stream ends with that was cut for this reason.
    pub fn grpc_status(self) -> u8 {
        match self {
            Fault::Forsaken => 1,
            Fault::Deadline | Fault::Stalled => 4,
            Fault::TooOld | Fault::Ended(_) => 7,
            Fault::TooLarge(_) | Fault::Trailers(_) => 8,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Sending,
    Sent,
    /// Nobody will read the rest.
    Abandoned,
    Failed(Fault),
}

/// The state of a request body, shared by the body, the wait for the response head and the
/// response body.
pub struct Upload {
    phase: Cell<Phase>,
    waiting: Cell<bool>,
    bytes: Cell<u64>,
    last: Cell<Instant>,
    changed: Notify,
    /// Whoever reads the body, to be told that it was cut from elsewhere.
    reader: RefCell<Option<Waker>>,
    /// The exchange, whose reason may go.
    exchange: RefCell<Option<Rc<Registered>>>,
}

impl Upload {
    /// An upload that has just begun.
    pub fn begin() -> Rc<Upload> {
        Rc::new(Upload {
            phase: Cell::new(Phase::Sending),
            waiting: Cell::new(false),
            bytes: Cell::new(0),
            last: Cell::new(Instant::now()),
            changed: Notify::new(),
            reader: RefCell::default(),
            exchange: RefCell::default(),
        })
    }

    /// Something of the exchange moved, in either direction.
    pub fn moved(&self) {
        self.last.set(Instant::now());
    }

    /// Some bytes of the body came.
    pub fn count(&self, bytes: usize) {
        self.bytes.set(self.bytes.get().saturating_add(bytes as u64));
    }

    /// How many bytes of the body came.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// When something of the exchange moved last.
    pub fn last_moved(&self) -> Instant {
        self.last.get()
    }

    /// Whether the reader of the body waits for its sender.
    pub fn set_waiting(&self, waiting: bool) {
        self.waiting.set(waiting);
    }

    /// The body was sent whole.
    pub fn sent(&self) {
        self.end(Phase::Sent);
    }

    /// The body was dropped before its end.
    pub fn abandoned(&self) {
        self.end(Phase::Abandoned);
    }

    /// The body was cut.
    pub fn failed(&self, fault: Fault) {
        self.end(Phase::Failed(fault));
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    /// The task of `cx` is told when the body is cut from elsewhere.
    pub fn wake_when_cut(&self, cx: &Context<'_>) {
        match &mut *self.reader.borrow_mut() {
            Some(known) => known.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }

    /// Nothing more is read once `exchange` must end, even if its response has ended before.
    pub fn ends_with(&self, exchange: Rc<Registered>) {
        if self.phase.get() == Phase::Sending {
            self.exchange.replace(Some(exchange));
        }
    }

    /// Why no more of the body may be read.
    pub fn stopped(&self) -> Option<Fault> {
        let over = || self.exchange.borrow().as_ref().and_then(|exchange| exchange.reason());
        self.fault().or_else(|| over().map(Fault::Ended))
    }

    fn end(&self, phase: Phase) {
        if self.phase.get() == Phase::Sending {
            self.phase.set(phase);
            self.exchange.take();
            self.moved();
            self.changed.notify_one();
        }
    }

    /// Whether the body was sent whole.
    pub fn is_sent(&self) -> bool {
        self.phase.get() == Phase::Sent
    }

    /// Why the body was cut, if it was.
    pub fn fault(&self) -> Option<Fault> {
        match self.phase.get() {
            Phase::Failed(fault) => Some(fault),
            Phase::Sending | Phase::Sent | Phase::Abandoned => None,
        }
    }

    /// Waits until there is no more to send.
    async fn ended(&self, idle: Duration) -> Result<(), Late> {
        while self.phase.get() == Phase::Sending {
            let until = self.last.get() + idle;
            if Instant::now() >= until {
                // Either side can stand still: the client that sends, or the server that reads.
                return Err(if self.waiting.get() {
                    Late::Body(Fault::Stalled)
                } else {
                    Late::Head(idle)
                });
            }
            let _ = tokio::time::timeout_at(until, self.changed.notified()).await;
        }
        self.fault().map_or(Ok(()), |fault| Err(Late::Body(fault)))
    }
}

/// A request body whose answer has not begun. Dropped before it has, the body ends with it: HTTP/2
/// would send it on for as long as its client likes.
pub struct Awaited(Option<Rc<Upload>>, Rc<Upload>);

impl Awaited {
    /// For a body whose request is about to be sent.
    pub fn new(upload: Rc<Upload>) -> Awaited {
        Awaited(Some(Rc::clone(&upload)), upload)
    }

    /// The answer has begun: from now on its body is what the request body ends with.
    pub fn answered(mut self) -> Rc<Upload> {
        self.0 = None;
        Rc::clone(&self.1)
    }
}

impl Deref for Awaited {
    type Target = Upload;

    fn deref(&self) -> &Upload {
        &self.1
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        if let Some(upload) = &self.0 {
            upload.failed(Fault::Forsaken);
        }
    }
}

/// How long an exchange may take until its response head.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// From the end of the request body; `None` for gRPC, whose calls carry their own deadlines.
    pub head: Option<Duration>,
    /// Without progress of the request body.
    pub idle: Duration,
    /// In all, whatever moves: the deadline the call brought along.
    pub until: Option<Instant>,
}

/// Why nobody waits for the response head any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// It did not come within this time.
    Head(Duration),
    /// The request body was cut.
    Body(Fault),
    /// The deadline of the call has passed.
    Deadline,
}

/// Waits for the response head that `sending` brings.
///
/// # Errors
/// [`Late`] when it took too long or the request body was cut before it came.
pub async fn head<T, E>(
    sending: impl Future<Output = Result<T, E>>,
    upload: &Upload,
    patience: Patience,
) -> Result<Result<T, E>, Late> {
    let late = async {
        if let Err(late) = upload.ended(patience.idle).await {
            return late;
        }
        let Some(limit) = patience.head else {
            // Without a limit nothing else may wake this task, and who runs it takes one that
            // nobody wakes for forgotten.
            loop {
                tokio::time::sleep(patience.idle).await;
            }
        };
        tokio::time::sleep(limit).await;
        Late::Head(limit)
    };
    tokio::select! {
        biased;
        done = sending => match (&done, upload.fault()) {
            (Err(_), Some(fault)) => Err(Late::Body(fault)),
            _ => Ok(done),
        },
        late = late => Err(late),
        () = passed(patience.until) => Err(Late::Deadline),
    }
}

async fn passed(until: Option<Instant>) {
    match until {
        Some(until) => tokio::time::sleep_until(until).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime").block_on(work)
    }

    async fn never() -> Result<(), ()> {
        std::future::pending().await
    }

    #[test]
    fn the_head_has_its_whole_time_after_the_body() {
        run(async {
            let upload = Upload::begin();
            let patience = Patience { head: Some(60 * MS), idle: 10_000 * MS, until: None };
            let begun = Instant::now();
            let body = async {
                tokio::time::sleep(120 * MS).await;
                upload.sent();
                std::future::pending::<()>().await;
            };
            tokio::select! {
                late = head(never(), &upload, patience) => assert_eq!(late, Err(Late::Head(60 * MS))),
                () = body => {}
            }
            assert!(begun.elapsed() >= 180 * MS, "{:?}", begun.elapsed());
        });
    }

    #[test]
    fn a_body_that_stands_still_ends_the_wait() {
        run(async {
            let patience = Patience { head: None, idle: 20 * MS, until: None };
            let unread = Upload::begin();
            assert_eq!(head(never(), &unread, patience).await, Err(Late::Head(20 * MS)));
            let silent = Upload::begin();
            silent.set_waiting(true);
            assert_eq!(head(never(), &silent, patience).await, Err(Late::Body(Fault::Stalled)));
        });
    }

    #[test]
    fn a_cut_body_is_the_reason_even_if_sending_fails_first() {
        run(async {
            let patience = Patience { head: None, idle: 10_000 * MS, until: None };
            let upload = Upload::begin();
            upload.failed(Fault::TooLarge(7));
            let failed = async { Err::<(), _>("broken pipe") };
            let late = head(failed, &upload, patience).await;
            assert_eq!(late, Err(Late::Body(Fault::TooLarge(7))));
            // An answer that came is an answer, whatever became of the body.
            assert_eq!(head(async { Ok::<_, ()>(1) }, &upload, patience).await, Ok(Ok(1)));
        });
    }
}
