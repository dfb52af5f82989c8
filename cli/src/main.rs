//! `countersign`: the command line tool.
//!
//! This file is the table of commands and nothing else: one `mod` line, one variant and one match
//! arm per command. Each command owns a file with its arguments and a `run` function.
//! Exit codes: 0 = yes, 1 = the answer is no (bad token, bad certificate, problems found),
//! 2 = the question could not be asked (usage, missing file, unreachable peer); `why` says 3 when
//! it is the proxy that could not be reached.
#![forbid(unsafe_code)]

mod cert;
mod check;
mod completion;
mod demo;
mod signer;
mod token;
mod why;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use countersign_cli::dev;

/// Identities, signed request context and policy for services: tools for people.
#[derive(Debug, Parser)]
#[command(name = "countersign", version, about, max_term_width = 100)]
#[command(after_help = "Exit codes: 0 yes, 1 the answer is no, 2 the question could not be asked.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at certificates and identity sockets
    Cert(cert::CertArgs),
    /// Check documents and proxy configurations, offline
    Check(check::CheckArgs),
    /// Print a completion script for a shell
    Completion(completion::CompletionArgs),
    /// A whole mesh on this machine, and what it allows and refuses
    Demo(demo::DemoArgs),
    /// An app of the demo
    #[command(hide = true)]
    DemoService(demo::service::ServiceArgs),
    /// Authority and issuer for laptops and tests; never for production
    Dev(dev::DevArgs),
    /// Sign the certificate requests of pods in Kubernetes
    Signer(signer::SignerArgs),
    /// Look at tokens and check them
    Token(token::TokenArgs),
    /// Say why a request was allowed or refused
    Why(why::WhyArgs),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Cert(args) => cert::run(args),
        Command::Check(args) => check::run(&args),
        Command::Completion(args) => completion::run(&args, Cli::command()),
        Command::Demo(args) => demo::run(&args),
        Command::DemoService(args) => demo::service::run(args),
        Command::Dev(args) => dev::run(args),
        Command::Signer(args) => signer::run(&args),
        Command::Token(args) => token::run(args),
        Command::Why(args) => why::run(&args),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("countersign: {error:#}");
        ExitCode::from(2)
    })
}
