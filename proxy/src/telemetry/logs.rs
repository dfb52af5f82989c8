//! Log lines for operators: JSON in a container, text on a terminal, on standard error.
//!
//! The writer is a thread behind a bounded queue, so a slow terminal never slows a request.
//! LIMIT: `LOG_QUEUE_LINES_MAX` lines wait; beyond it the oldest are dropped and counted.
//! Fields are written by name; types that must not be printed have no `Display`.

use std::collections::VecDeque;
use std::fmt;
use std::io::{self, IsTerminal, Write};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use countersign_config::limits;
use jiff::Timestamp;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// How lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One JSON object per line.
    Json,
    /// For people.
    Text,
}

impl Format {
    /// What `COUNTERSIGN_LOG_FORMAT` says, else text on a terminal and JSON elsewhere.
    pub fn from_setting(setting: Option<&str>) -> Format {
        match setting {
            Some("json") => Format::Json,
            Some("text") => Format::Text,
            _ if io::stderr().is_terminal() => Format::Text,
            _ => Format::Json,
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
    /// Not a filter.
    #[error("`{value}` is not a level or a list of target=level")]
    Filter {
        /// What was set.
        value: String,
    },
    /// Logging has ended.
    #[error("logging has ended")]
    Ended,
    /// Somebody set up logging before.
    #[error("logging is set up already")]
    Twice,
    /// The thread did not start.
    #[error("could not start the log writer")]
    Thread(#[source] io::Error),
}

#[derive(Debug, Default)]
struct Queue {
    lines: VecDeque<Vec<u8>>,
    closed: bool,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
    dropped: Arc<AtomicU64>,
}

impl Shared {
    fn push(&self, line: Vec<u8>) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.lines.len() >= limits::LOG_QUEUE_LINES_MAX {
            queue.lines.pop_front();
            self.dropped.fetch_add(1, Relaxed);
        }
        queue.lines.push_back(line);
        drop(queue);
        self.changed.notify_one();
    }

    /// The thread: writes lines until the queue is closed and empty.
    fn drain(&self, mut output: impl Write) {
        loop {
            let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let waiting = |queue: &mut Queue| queue.lines.is_empty() && !queue.closed;
            let queue = self.changed.wait_while(queue, waiting);
            let mut queue = queue.unwrap_or_else(PoisonError::into_inner);
            let lines = std::mem::take(&mut queue.lines);
            drop(queue);
            if lines.is_empty() {
                return;
            }
            for line in &lines {
                // If standard error is gone there is nobody to tell.
                _ = output.write_all(line);
            }
            _ = output.flush();
        }
    }
}

/// Keeps the log writer going. Dropping it writes what waits and ends the thread.
#[derive(Debug)]
pub struct Logs {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    level: Level,
}

/// Changes what is logged, while the process runs. Clones change the same.
#[derive(Clone)]
pub struct Level(Arc<dyn Fn(EnvFilter) -> bool + Send + Sync>);

impl fmt::Debug for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Level(..)")
    }
}

impl Level {
    /// Logs what `filter` says: a level, or a list of target=level.
    ///
    /// # Errors
    /// When it is no filter, or logging has ended.
    pub fn set(&self, filter: &str) -> Result<(), LogsError> {
        let parsed = filter_of(filter)?;
        if (self.0)(parsed) { Ok(()) } else { Err(LogsError::Ended) }
    }
}

fn filter_of(text: &str) -> Result<EnvFilter, LogsError> {
    EnvFilter::try_new(text).map_err(|_| LogsError::Filter { value: text.to_owned() })
}

impl Logs {
    /// Sets up logging for the process. `filter` is the value of `COUNTERSIGN_LOG`.
    pub fn start(filter: Option<&str>, format: Format) -> Result<Logs, LogsError> {
        let filter = filter_of(filter.unwrap_or("info"))?;
        let shared = Arc::new(Shared::default());
        let lines = Lines(shared.clone());
        let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
        let (outcome, level) = match format {
            Format::Json => {
                let builder = builder.event_format(JsonLine).with_filter_reloading();
                let handle = builder.reload_handle();
                let level = Level(Arc::new(move |filter| handle.reload(filter).is_ok()));
                (builder.try_init(), level)
            }
            Format::Text => {
                let builder = builder.with_ansi(io::stderr().is_terminal()).with_filter_reloading();
                let handle = builder.reload_handle();
                let level = Level(Arc::new(move |filter| handle.reload(filter).is_ok()));
                (builder.try_init(), level)
            }
        };
        outcome.map_err(|_| LogsError::Twice)?;
        let drained = shared.clone();
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || drained.drain(io::stderr()))
            .map_err(LogsError::Thread)?;
        Ok(Logs { shared, thread: Some(thread), level })
    }

    /// Changes what is logged.
    pub fn level(&self) -> Level {
        self.level.clone()
    }

    /// How many lines were dropped.
    pub fn dropped(&self) -> Arc<AtomicU64> {
        self.shared.dropped.clone()
    }
}

impl Drop for Logs {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of the log writer cannot be logged.
            _ = thread.join();
        }
    }
}

/// Makes a line of each event.
#[derive(Debug)]
struct Lines(Arc<Shared>);

impl<'a> MakeWriter<'a> for Lines {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter { shared: self.0.clone(), line: Vec::new() }
    }
}

/// Collects one line and queues it when the event is complete.
#[derive(Debug)]
struct LineWriter {
    shared: Arc<Shared>,
    line: Vec<u8>,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.line.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        if !self.line.is_empty() {
            self.shared.push(std::mem::take(&mut self.line));
        }
    }
}

/// `{"ts": …, "level": …, "code": …, "target": …, "msg": …, fields}`.
#[derive(Debug)]
struct JsonLine;

impl<S, N> FormatEvent<S, N> for JsonLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let micros = i64::try_from(crate::clock::Now::read().micros()).unwrap_or(i64::MAX);
        let now = Timestamp::from_microsecond(micros).unwrap_or(Timestamp::MAX);
        let mut fields = Fields(Map::new());
        fields.0.insert("ts".to_owned(), format!("{now:.6}").into());
        let level = metadata.level().as_str().to_ascii_lowercase();
        fields.0.insert("level".to_owned(), level.into());
        fields.0.insert("target".to_owned(), metadata.target().into());
        event.record(&mut fields);
        let line = serde_json::to_string(&fields.0).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// Event fields as JSON.
#[derive(Debug)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: Value) {
        let name = if field.name() == "message" { "msg" } else { field.name() };
        self.0.insert(name.to_owned(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value.into());
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[test]
    fn a_line_is_one_json_object() {
        let shared = Arc::new(Shared::default());
        let layer = tracing_subscriber::fmt::layer();
        let layer = layer.event_format(JsonLine).with_writer(Lines(shared.clone()));
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(code = "X-1", count = 3, who = %"line\nbreak", "two\nlines");
        });
        let lines = std::mem::take(&mut shared.queue.lock().unwrap().lines);
        assert_eq!(lines.len(), 1);
        let line: Value = serde_json::from_slice(&lines[0]).unwrap();
        assert_eq!(lines[0].iter().filter(|byte| **byte == b'\n').count(), 1);
        assert_eq!((&line["msg"], &line["level"]), (&"two\nlines".into(), &"warn".into()));
        assert_eq!((&line["count"], &line["who"]), (&3.into(), &"line\nbreak".into()));
    }

    #[test]
    fn a_full_queue_drops_the_oldest_and_counts() {
        let shared = Shared::default();
        for number in 0..limits::LOG_QUEUE_LINES_MAX + 5 {
            shared.push(number.to_string().into_bytes());
        }
        assert_eq!(shared.dropped.load(Relaxed), 5);
        assert_eq!(shared.queue.lock().unwrap().lines.front().unwrap(), b"5");
    }
}
