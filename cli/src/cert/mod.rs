//! `countersign cert`: what a certificate says, in plain words, what is wrong with it, and how that
//! is set right at the authority it came from.
//!
//! The rules are those of the proxy: the same validation, the same reading of files and sockets.
//! Whatever is named (a file, a folder, a socket, a live peer) becomes one [`source::Found`], which
//! becomes one [`report::Report`]; `inspect` prints it, `verify` answers yes or no, `watch` follows
//! it. Nothing here decides whom to trust: what vouches is named by the user or came with the
//! identity, and a peer's certificate is shown whether it is good or not.

mod advice;
mod peer;
mod report;
mod source;
#[cfg(test)]
mod tests;
mod text;
mod watch;

use std::{path::PathBuf, process::ExitCode};

use anyhow::bail;
use clap::{Args, Subcommand};
use countersign_cli::output::{Output, print_json};

use self::{
    report::Report,
    source::{Options, Place},
    watch::WatchArgs,
};

/// Arguments of `countersign cert`.
#[derive(Debug, Args)]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    /// Show the identity, the chain, the time left, every problem and how to fix it
    #[command(after_help = "\
Examples:
  countersign cert inspect identity.pem
  countersign cert inspect tls.crt --key tls.key --trust ca.crt
  countersign cert inspect /var/run/secrets/countersign.dev/identity
  countersign cert inspect unix:///run/spire/agent.sock -o json
  countersign cert inspect 10.0.0.7:15006 --present unix:///run/spire/agent.sock
Exit code 0 if there is no problem, 1 if there is one, 2 if nothing could be looked at.")]
    Inspect(LookArgs),
    /// Say whether a proxy would accept it: yes or no, and why
    #[command(after_help = "\
Examples:
  countersign cert verify identity.pem --trust trust.pem
  countersign cert verify 10.0.0.7:15006 --trust trust.pem --expect spiffe://prod.example.com/ns/shop/sa/orders
  countersign cert verify /run/spire/agent.sock --expect 'spiffe://prod.example.com/ns/shop/**'
Exit code 0 for yes, 1 for no, 2 if the question could not be asked.")]
    Verify(LookArgs),
    /// Follow the rotations of a file, socket or peer
    #[command(after_help = "\
Examples:
  countersign cert watch /var/run/secrets/countersign.dev/identity
  countersign cert watch unix:///run/spire/agent.sock --count 3
  countersign cert watch 10.0.0.7:15006 --every 10 -o json
One line per event; with -o json one JSON document per line.
Exit code 0 after --count rotations or Ctrl-C, 2 if nothing could be looked at.")]
    Watch(WatchArgs),
}

/// What is looked at, and what is expected of it.
#[derive(Debug, Args)]
struct LookArgs {
    /// A PEM or DER file, a folder with one of the known layouts, a Workload API socket (path or
    /// unix:// address), or a live peer (HOST:PORT)
    source: String,
    /// The private key, if it is in a file of its own
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// Check the chain against these authorities (PEM, or a SPIFFE bundle map)
    #[arg(long, visible_alias = "bundle", value_name = "FILE")]
    trust: Option<PathBuf>,
    /// The SPIFFE ID that is expected, or a pattern such as spiffe://prod.example.com/ns/shop/**
    #[arg(long, value_name = "ID")]
    expect: Option<String>,
    #[command(flatten)]
    peer: peer::PeerArgs,
    /// Form of the answer
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

impl LookArgs {
    fn options(&self) -> anyhow::Result<Options> {
        Options::new(self.key.clone(), self.trust.clone(), self.expect.as_deref(), &self.peer)
    }
}

/// Runs one `cert` command.
pub(crate) fn run(args: CertArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match args.command {
        CertCommand::Inspect(args) => {
            let report = runtime.block_on(look(&args))?;
            print(&report, args.output, Report::to_text)?;
            Ok(exit(&report))
        }
        CertCommand::Verify(args) => {
            let mut report = runtime.block_on(look(&args))?;
            report.refuse_bundle();
            if report.trust.is_none() && report.problems.is_empty() {
                bail!("nothing was named that could vouch for it: --trust FILE");
            }
            print(&report, args.output, Report::to_answer)?;
            Ok(exit(&report))
        }
        CertCommand::Watch(args) => runtime.block_on(watch::run(&args)),
    }
}

async fn look(args: &LookArgs) -> anyhow::Result<Report> {
    let options = args.options()?;
    let found = source::look(&Place::parse(&args.source)?, &options).await?;
    Report::of(&found, &options, source::unix_now_ms() / 1000)
}

fn print(report: &Report, output: Output, text: fn(&Report) -> String) -> anyhow::Result<()> {
    match output {
        Output::Json => print_json(report)?,
        Output::Text => print!("{}", text(report)),
    }
    Ok(())
}

fn exit(report: &Report) -> ExitCode {
    if report.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
