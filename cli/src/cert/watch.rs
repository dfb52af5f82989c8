//! `countersign cert watch`: one line for the first certificate, and one for each change.
//!
//! Files are read once a second, peers asked anew at an interval, sockets followed as the proxy
//! follows them. Invariant: what cannot be looked at any more is said once, and looked at again.

use std::{process::ExitCode, sync::Arc, time::Duration};

use clap::Args;
use countersign_certs_client::CertsHandle;
use countersign_cli::output::Output;
use rustls_pki_types::CertificateDer;
use serde::Serialize;

use super::{
    LookArgs,
    report::{Report, timestamp},
    source::{self, Found, Options, Place},
    text::time_left,
};

/// Time between two looks at files and sockets.
const POLL: Duration = Duration::from_secs(1);

#[derive(Debug, Args)]
pub(super) struct WatchArgs {
    #[command(flatten)]
    look: LookArgs,
    /// End after so many rotations
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Live peers: time between two connections, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
}

/// What happened, as one line of JSON.
#[derive(Serialize)]
struct Event<'a> {
    at: String,
    event: &'static str,
    rotations: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(flatten)]
    report: Option<&'a Report>,
}

/// Watches until told to end.
pub(super) async fn run(args: &WatchArgs) -> anyhow::Result<ExitCode> {
    let options = args.look.options()?;
    let place = Place::parse(&args.look.source)?;
    let mut watcher = Watcher {
        handle: match &place {
            Place::Socket(endpoint) => Some(source::ask(endpoint)),
            _ => None,
        },
        place,
        options,
        output: args.look.output,
        rotations: 0,
        last: None,
        was_late: false,
    };
    watcher.first().await?;
    let pause = match &watcher.place {
        Place::Peer(..) => Duration::from_secs(args.every),
        _ => POLL,
    };
    let following = async {
        while args.count.is_none_or(|count| watcher.rotations < count) {
            tokio::time::sleep(pause).await;
            watcher.look().await?;
        }
        anyhow::Ok(())
    };
    tokio::select! {
        ended = following => ended?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(ExitCode::SUCCESS)
}

struct Watcher {
    place: Place,
    options: Options,
    output: Output,
    /// A socket that is being followed.
    handle: Option<CertsHandle>,
    rotations: u64,
    last: Option<Last>,
    was_late: bool,
}

/// What was said last.
#[derive(PartialEq)]
enum Last {
    Error(String),
    Found { chain: Vec<CertificateDer<'static>>, authorities: Option<[u8; 32]>, problems: usize },
}

impl Watcher {
    async fn first(&mut self) -> anyhow::Result<()> {
        let found = source::look(&self.place, &self.options).await?;
        self.tell(&found)
    }

    async fn look(&mut self) -> anyhow::Result<()> {
        let found = match (&self.place, &self.handle) {
            (Place::Socket(endpoint), Some(handle)) => {
                let certs = Arc::clone(&handle.certs().borrow());
                source::from_certs(endpoint, &certs)
            }
            _ => source::look(&self.place, &self.options).await,
        };
        match found {
            Ok(found) => self.tell(&found),
            Err(error) => self.lost(format!("{error:#}")),
        }
    }

    fn lost(&mut self, error: String) -> anyhow::Result<()> {
        if self.last != Some(Last::Error(error.clone())) {
            self.print("lost", None, Some(&error))?;
            self.last = Some(Last::Error(error));
        }
        Ok(())
    }

    fn tell(&mut self, found: &Found) -> anyhow::Result<()> {
        let report = Report::of(found, &self.options, source::unix_now_ms() / 1000)?;
        let now = Last::Found {
            chain: found.chain.clone(),
            authorities: found.trust.as_ref().map(|(bundles, _)| bundles.sha256()),
            problems: report.problems.len(),
        };
        let event = match (&self.last, &now) {
            (None, _) => Some("first"),
            (Some(Last::Error(_)), _) => Some("found"),
            (Some(old), new) if old == new => None,
            (Some(Last::Found { chain: old, .. }), Last::Found { chain: new, .. })
                if old.first() != new.first() =>
            {
                self.rotations = self.rotations.saturating_add(1);
                Some("rotated")
            }
            (Some(Last::Found { chain: old, .. }), Last::Found { chain: new, .. })
                if old != new =>
            {
                Some("chain_changed")
            }
            (Some(Last::Found { authorities: old, .. }), Last::Found { authorities: new, .. })
                if old != new =>
            {
                Some("trust_changed")
            }
            _ => Some("judged_anew"),
        };
        let late = report.is_late();
        if let Some(event) = event {
            self.print(event, Some(&report), None)?;
        } else if late && !self.was_late {
            self.print("late", Some(&report), None)?;
        }
        self.was_late = late;
        self.last = Some(now);
        Ok(())
    }

    fn print(
        &self,
        event: &'static str,
        report: Option<&Report>,
        error: Option<&str>,
    ) -> anyhow::Result<()> {
        use std::io::Write as _;
        let at = timestamp(source::unix_now_ms() / 1000);
        let mut out = std::io::stdout().lock();
        match self.output {
            Output::Json => {
                let event = Event { at, event, rotations: self.rotations, error, report };
                serde_json::to_writer(&mut out, &event)?;
                out.write_all(b"\n")?;
            }
            Output::Text => {
                let said = match (report, error) {
                    (Some(report), _) => line(report),
                    (None, error) => error.unwrap_or_default().to_owned(),
                };
                writeln!(out, "{at}  {:<13}  {said}", event.replace('_', " "))?;
            }
        }
        Ok(out.flush()?)
    }
}

fn line(report: &Report) -> String {
    let who = report.spiffe_id.as_deref().unwrap_or(match report.certificates.first() {
        Some(_) => "no SPIFFE ID",
        None => "no certificate",
    });
    let serial = report.certificates.first().map(|leaf| leaf.serial.as_str()).unwrap_or_default();
    let left = report.seconds_left.map(time_left).unwrap_or_default();
    let late = if report.is_late() { ", should have been replaced by now" } else { "" };
    let problems = report.problems.iter().map(|problem| problem.reason).collect::<Vec<_>>();
    let problems = match problems.as_slice() {
        [] => String::new(),
        some => format!(", problems: {}", some.join(", ")),
    };
    format!("{who}, serial {serial}, {left} left{late}{problems}")
}
