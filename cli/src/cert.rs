//! `countersign cert`: what a certificate says, in plain words.

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Arguments of `countersign cert`.
#[derive(Debug, Args)]
pub(crate) struct CertArgs {
    #[command(subcommand)]
    command: CertCommand,
}

#[derive(Debug, Subcommand)]
enum CertCommand {
    /// Show the identity, the chain, the time left and every problem
    Inspect {
        /// A PEM or DER file, or a Workload API socket
        source: String,
    },
}

/// Runs one `cert` command.
pub(crate) fn run(args: CertArgs) -> anyhow::Result<ExitCode> {
    anyhow::bail!("cert is being written: {:?}", args.command)
}
