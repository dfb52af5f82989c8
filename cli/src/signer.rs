//! `countersign signer`: approves and signs the certificate requests of pods in Kubernetes.
//!
//! The work is the library's; here are the configuration, the clock, the log and the end.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::Args;
use countersign_config::{SignerConfig, env};
use countersign_controller::Signer;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Arguments of `countersign signer`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  countersign signer --config signer.yaml
  countersign check signer.yaml
Runs until SIGTERM or Ctrl-C. The configuration, the ClusterRole it needs and what goes wrong are in
docs/identity/kubernetes.md.")]
pub(crate) struct SignerArgs {
    /// A SignerConfig
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

/// Runs `countersign signer`.
pub(crate) fn run(args: &SignerArgs) -> anyhow::Result<ExitCode> {
    let (config, documents) = SignerConfig::load(&args.config)?;
    log();
    let clock = Arc::new(|| {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    });
    let (domain, name) = (config.trust_domain.clone(), config.signer_name.clone());
    let server = config.api.server.clone();
    let signer =
        Signer::new(config, documents.as_ref(), clock).context("the signer cannot start")?;
    println!("signer {name} of {domain}, asking {server}");
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            () = signer.run() => {}
            _ = terminate.recv() => {}
            _ = tokio::signal::ctrl_c() => {}
        }
        Ok(ExitCode::SUCCESS)
    })
}

/// Lines on standard error, for people on a terminal and as JSON elsewhere.
fn log() {
    let directives = env::COUNTERSIGN_LOG.get().unwrap_or_else(|| "info".to_owned());
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if std::io::stderr().is_terminal() {
        builder.try_init()
    } else {
        builder.json().flatten_event(true).try_init()
    };
    // Only a second subscriber in one process fails, and there is none.
    let _ = started;
}
