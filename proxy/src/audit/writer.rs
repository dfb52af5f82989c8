//! The writer thread: takes records from the lanes, makes lines of them, chains and writes them.
//!
//! Invariant: what was written is a chain without holes. While the sink fails, bytes already made
//! are kept and nothing more is taken from the lanes, so that they fill and losses are counted
//! where they are noticed.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use aws_lc_rs::digest;
use countersign_config::limits;

use super::chain::Chain;
use super::json::Stamps;
use super::record::{Record, RecordKind, Text};
use super::sink::{AuditConfig, Queued, Shared, TICK_MS, Target};
use super::wire::{self, Detail, Frame, Gap};
use crate::clock::Now;

/// Pause after a failed write.
const RETRY_MS: u64 = 200;
/// Failed writes at shutdown before the rest is given up.
const STOP_RETRIES: u32 = 5;
/// How much of an existing file is read to find its last line.
const TAIL_BYTES: u64 = 2 * limits::AUDIT_RECORD_BYTES_MAX as u64;
/// `what` of the record that ends a chain in order.
const STOPPED: &str = "stopped";

pub(super) struct Writer {
    config: AuditConfig,
    shared: Arc<Shared>,
    output: Output,
    chain_id: String,
    chain: Chain,
    batch: Vec<Queued>,
    /// Lines made and not yet written.
    pending: Vec<u8>,
    line: Vec<u8>,
    stamps: Stamps,
    sink_failing: bool,
}

enum Output {
    Stdout(io::Stdout),
    File(File),
}

impl Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Output::Stdout(stdout) => stdout.write(bytes),
            Output::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Output::Stdout(stdout) => stdout.flush(),
            Output::File(_) => Ok(()),
        }
    }

    fn sync(&mut self) -> io::Result<()> {
        match self {
            // A pipe or terminal has no stable storage; its reader has the line.
            Output::Stdout(stdout) => stdout.flush(),
            Output::File(file) => file.sync_data(),
        }
    }
}

impl Writer {
    pub(super) fn open(
        config: AuditConfig,
        shared: Arc<Shared>,
        nonce: &[u8; 16],
    ) -> io::Result<Writer> {
        let output = match &config.target {
            Target::Stdout => Output::Stdout(io::stdout()),
            Target::File(path) => {
                let mut options = OpenOptions::new();
                Output::File(options.read(true).append(true).create(true).open(path)?)
            }
        };
        let mut hash = digest::Context::new(&digest::SHA256);
        hash.update(config.self_id.as_str().as_bytes());
        hash.update(nonce);
        let hash = hash.finish();
        let prefix = hash.as_ref().iter().take(8);
        let chain_id = prefix.map(|byte| format!("{byte:02x}")).collect();
        Ok(Writer {
            config,
            shared,
            output,
            chain_id,
            chain: Chain::default(),
            batch: Vec::new(),
            pending: Vec::new(),
            line: Vec::new(),
            stamps: Stamps::default(),
            sink_failing: false,
        })
    }

    /// Writes the `start` record, and a gap if the process before us did not stop in order.
    pub(super) fn begin(&mut self, now: Now) -> io::Result<()> {
        let previous = match &mut self.output {
            Output::File(file) => Previous::of(file)?,
            Output::Stdout(_) => Previous::None,
        };
        if previous == Previous::Torn {
            self.pending.push(b'\n');
        }
        self.add(&Record::new(RecordKind::Start, now), None);
        if matches!(previous, Previous::Torn | Previous::Unfinished) {
            self.add_gap(now, None, (now.micros(), now.micros()), "previous_process_not_stopped");
        }
        self.write_pending()
    }

    /// The thread.
    pub(super) fn run(mut self) {
        let mut stop_retries = 0;
        loop {
            let stopping = self.shared.stopping.load(Relaxed);
            self.shared.urgent.store(false, Relaxed);
            let flush = self.shared.flushes_asked();
            if self.turn().is_err() {
                stop_retries += u32::from(stopping);
                if stop_retries > STOP_RETRIES {
                    return self.give_up();
                }
                std::thread::sleep(Duration::from_millis(RETRY_MS));
                continue;
            }
            self.shared.flushes_done(flush);
            if stopping && self.shared.is_empty() {
                return self.finish();
            }
            if !stopping {
                self.rest();
            }
        }
    }

    /// Waits for more: a tick while records come, until woken when none did.
    fn rest(&mut self) {
        let shared = &self.shared;
        if shared.urgent.load(Relaxed) || shared.flush_pending() {
            return;
        }
        if self.batch.is_empty() {
            shared.idle.store(true, Relaxed);
            let hurry = shared.stopping.load(Relaxed) || shared.flush_pending();
            if shared.is_empty() && !hurry {
                std::thread::park();
            }
            shared.idle.store(false, Relaxed);
            if shared.urgent.load(Relaxed)
                || shared.flush_pending()
                || shared.stopping.load(Relaxed)
            {
                return;
            }
        }
        std::thread::park_timeout(Duration::from_millis(TICK_MS));
    }

    /// Takes what waits and writes it. `batch` holds what this turn took.
    fn turn(&mut self) -> io::Result<()> {
        self.batch.clear();
        self.write_pending()?;
        let mut batch = std::mem::take(&mut self.batch);
        self.shared.take(&mut batch);
        for queued in &batch {
            self.add(&queued.record, None);
        }
        if let Some(lost) = self.shared.take_lost() {
            let span = (lost.from.micros(), lost.to.micros());
            self.add_gap(lost.to, Some(lost.count), span, "queue_full");
        }
        let written = self.write_pending();
        let waiters = batch.iter_mut().filter_map(|queued| queued.synced.take());
        let waiters: Vec<_> = waiters.collect();
        if !waiters.is_empty() && written.is_ok() && self.output.sync().is_ok() {
            for waiter in waiters {
                // Whoever no longer waits needs no answer.
                _ = waiter.send(());
            }
        }
        self.batch = batch;
        self.shared.stats.queued.store(0, Relaxed);
        written
    }

    /// Makes the line of a record.
    fn add(&mut self, record: &Record, gap: Option<Gap>) {
        let frame = Frame {
            chain: &self.chain_id,
            seq: self.chain.seq,
            prev: &self.chain.prev,
            self_id: self.config.self_id.as_str(),
            place: &self.config.place,
            personal: &self.config.personal,
        };
        for detail in [Detail::Full, Detail::Brief] {
            self.line.clear();
            wire::line(&mut self.line, &mut self.stamps, &frame, record, gap, detail);
            if self.line.len() <= limits::AUDIT_RECORD_BYTES_MAX {
                break;
            }
        }
        self.chain.append(&self.line);
        self.pending.extend_from_slice(&self.line);
        self.pending.push(b'\n');
        self.shared.stats.written.fetch_add(1, Relaxed);
    }

    fn add_gap(&mut self, at: Now, count: Option<u64>, span: (u64, u64), why: &'static str) {
        let gap = Gap { count, from_us: span.0, to_us: span.1, why };
        self.add(&Record::new(RecordKind::Gap, at), Some(gap));
        self.shared.stats.gap(why);
        tracing::warn!(code = "AU-01", count, why, "audit records are missing");
    }

    fn write_pending(&mut self) -> io::Result<()> {
        let mut written = 0;
        let outcome = loop {
            let Some(rest) = self.pending.get(written..).filter(|rest| !rest.is_empty()) else {
                break self.output.flush();
            };
            match self.output.write(rest) {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
        };
        self.pending.drain(..written.min(self.pending.len()));
        match &outcome {
            Err(error) if !self.sink_failing => {
                tracing::error!(code = "AU-02", %error, "the audit sink does not take records");
            }
            Ok(()) if self.sink_failing => tracing::info!("the audit sink takes records again"),
            _ => {}
        }
        self.sink_failing = outcome.is_err();
        outcome
    }

    fn finish(mut self) {
        let at = Now::read();
        self.add(&Record::control(at, Text::Static(STOPPED), None, None), None);
        if self.write_pending().and_then(|()| self.output.sync()).is_err() {
            self.give_up();
        }
        self.shared.flushes_done(u64::MAX);
    }

    fn give_up(&self) {
        let bytes = self.pending.len();
        tracing::error!(
            code = "AU-02",
            bytes,
            "stopped without writing the end of the audit trail"
        );
        self.shared.flushes_done(u64::MAX);
    }
}

/// How the file we append to ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Previous {
    /// There is nothing in it.
    None,
    /// With the closing record of another process.
    Stopped,
    /// With some other record.
    Unfinished,
    /// In the middle of a line.
    Torn,
}

impl Previous {
    fn of(file: &mut File) -> io::Result<Previous> {
        let length = file.metadata()?.len();
        if length == 0 {
            return Ok(Previous::None);
        }
        if !file.metadata()?.is_file() {
            return Ok(Previous::None);
        }
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut tail)?;
        let Some(body) = tail.strip_suffix(b"\n") else { return Ok(Previous::Torn) };
        let last = body.rsplit(|byte| *byte == b'\n').next().unwrap_or_default();
        let record: Result<serde_json::Value, _> = serde_json::from_slice(last);
        let what = record.ok().and_then(|record| record.get("what")?.as_str().map(str::to_owned));
        let stopped = what.as_deref() == Some(STOPPED);
        Ok(if stopped { Previous::Stopped } else { Previous::Unfinished })
    }
}
