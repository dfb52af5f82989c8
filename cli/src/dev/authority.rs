//! `countersign dev authority`: an in-memory CA behind the standard SPIFFE Workload API.

use std::{path::PathBuf, process::ExitCode};

use clap::Args;

/// Arguments of `countersign dev authority`.
#[derive(Debug, Args)]
pub struct AuthorityArgs {
    /// Trust domain of the identities
    #[arg(long, value_name = "NAME", default_value = "demo.test")]
    trust_domain: String,
    /// Folder for the sockets, one per workload: DIR/<namespace>.<service account>.sock
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// A workload to serve; repeat for more
    #[arg(long = "workload", value_name = "NAMESPACE/ACCOUNT", required = true)]
    workloads: Vec<String>,
}

/// Runs the authority until SIGTERM or Ctrl-C.
///
/// # Errors
/// When the arguments are wrong or a socket cannot be made.
pub fn run(args: AuthorityArgs) -> anyhow::Result<ExitCode> {
    super::refuse_in_kubernetes("dev authority")?;
    anyhow::bail!("dev authority is being written: {args:?}")
}
