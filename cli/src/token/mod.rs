//! `countersign token`: what a token says, and whether it holds.
//!
//! Invariants: a token is read from a file or standard input, never from the arguments, which
//! every process on the machine can list; its signature is never printed.

mod inspect;
mod verify;

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args, Subcommand};
use countersign_ctxtoken::UnixTime;

/// Bytes that are read; far more than any token.
const INPUT_BYTES_MAX: u64 = 64 * 1024;
/// Bytes of a bundle or a key set.
const KEYS_BYTES_MAX: u64 = 1024 * 1024;

/// Arguments of `countersign token`.
#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Show header and claims; nothing is verified
    #[command(after_help = "\
Examples:
  countersign token inspect token.txt
  countersign dev token --user alice | countersign token inspect
  pbpaste | countersign token inspect -o json")]
    Inspect(inspect::InspectArgs),
    /// Check a context token step by step, as a sidecar would
    #[command(after_help = "\
Examples:
  countersign token verify --bundle bundle.pem --trust-domain prod.example.com \\
      --issuer spiffe://prod.example.com/ns/edge/sa/gateway token.txt
  countersign token verify --jwks issuers.json --trust-domain prod.example.com \\
      --issuer spiffe://prod.example.com/ns/edge/sa/gateway --now 2026-11-20T17:00:00Z -o json < token.txt
Exit code 1 if a check fails.")]
    Verify(verify::VerifyArgs),
}

/// Runs one `token` command.
pub(crate) fn run(args: TokenArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        TokenCommand::Inspect(args) => inspect::run(&args),
        TokenCommand::Verify(args) => verify::run(&args),
    }
}

/// Reads one token; white space around it does not count.
fn read_token(file: &Path) -> anyhow::Result<String> {
    let looks_like_a_token = file.to_string_lossy().matches('.').count() == 2
        && file.to_string_lossy().starts_with("ey");
    anyhow::ensure!(
        !looks_like_a_token || file.exists(),
        "a token is never an argument, because other processes can read those; \
         put it into a file or pipe it in"
    );
    let bytes = if file == Path::new("-") {
        let mut bytes = Vec::new();
        let stdin = std::io::stdin().lock();
        stdin.take(INPUT_BYTES_MAX).read_to_end(&mut bytes).context("cannot read the token")?;
        bytes
    } else {
        read_file(file, INPUT_BYTES_MAX)?
    };
    let text = String::from_utf8(bytes).context("the token is not text")?;
    let token = text.trim().to_owned();
    anyhow::ensure!(!token.is_empty(), "there is no token in the input");
    Ok(token)
}

fn read_file(file: &Path, bytes_max: u64) -> anyhow::Result<Vec<u8>> {
    let context = || format!("cannot read {}", file.display());
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).with_context(context)?;
    opened.take(bytes_max).read_to_end(&mut bytes).with_context(context)?;
    Ok(bytes)
}

/// `3 s`, `4 min`, `2 h`, `9 d`: the size of a time, for people.
fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

/// `… (in 57 s)` or `… (94 s ago)`.
fn when(time: UnixTime, now: UnixTime) -> String {
    let seconds = i64::try_from(time.0).unwrap_or(i64::MAX);
    let text = jiff::Timestamp::from_second(seconds)
        .map_or_else(|_| format!("{seconds} s after 1970"), |time| time.to_string());
    if time > now {
        format!("{text} (in {})", span(time.since(now)))
    } else {
        format!("{text} ({} ago)", span(now.since(time)))
    }
}

fn clock() -> UnixTime {
    let seconds = jiff::Timestamp::now().as_second();
    UnixTime(u64::try_from(seconds).unwrap_or_default())
}

/// The file argument both commands share.
#[derive(Debug, Args)]
struct Input {
    /// File that holds the token; `-` or nothing: standard input
    #[arg(value_name = "FILE", default_value = "-")]
    file: PathBuf,
}

#[cfg(test)]
mod tests;
