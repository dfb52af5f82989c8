//! `countersign dev`: stand-ins for the infrastructure a laptop does not have.
//!
//! Each one speaks the standard protocol of the real thing, so that the proxy runs its production
//! code against it. Each one refuses to start inside Kubernetes.

pub mod authority;
pub mod issuer;
pub mod token;

use std::process::ExitCode;

use clap::{Args, Subcommand};

/// Arguments of `countersign dev`.
#[derive(Debug, Args)]
pub struct DevArgs {
    #[command(subcommand)]
    command: DevCommand,
}

#[derive(Debug, Subcommand)]
enum DevCommand {
    /// An in-memory certificate authority behind the standard SPIFFE Workload API
    Authority(authority::AuthorityArgs),
    /// An OpenID issuer for named test users
    Issuer(issuer::IssuerArgs),
    /// Print a bearer token of a test user
    Token(token::TokenArgs),
}

/// Runs one `dev` command.
///
/// # Errors
/// When the command cannot do its work; the text names what and where.
pub fn run(args: DevArgs) -> anyhow::Result<ExitCode> {
    match args.command {
        DevCommand::Authority(args) => authority::run(args),
        DevCommand::Issuer(args) => issuer::run(args),
        DevCommand::Token(args) => token::run(args),
    }
}

/// Refuses to start a development stand-in where production runs.
///
/// # Errors
/// When the process runs in a Kubernetes pod.
#[expect(clippy::disallowed_methods, reason = "set by Kubernetes, not a setting of ours")]
pub fn refuse_in_kubernetes(what: &str) -> anyhow::Result<()> {
    if std::env::var_os("KUBERNETES_SERVICE_HOST").is_some() {
        anyhow::bail!(
            "{what} is for laptops and tests and does not start inside Kubernetes \
             (KUBERNETES_SERVICE_HOST is set)"
        );
    }
    Ok(())
}
