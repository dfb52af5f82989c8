//! `countersign demo`: a whole mesh on this machine, and lines that show what it refuses.
//!
//! Authority, issuer, gateway, two apps and their sidecars are processes of their own; requests are
//! made for real and the verdicts are read from the proxies. Exit code 0 only if every line is as
//! expected. However the demo ends, its processes end with it.

mod ask;
mod attacker;
mod deferred;
mod load;
mod mesh;
mod ports;
mod process;
mod proxies;
pub(crate) mod service;
mod story;
mod table;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use clap::Args;
use countersign_cli::dev;
use tokio::signal::unix::{SignalKind, signal};

use mesh::Mesh;
use ports::Ports;
use table::Table;

/// Interrupted, as shells say it.
const INTERRUPTED: u8 = 130;

/// Arguments of `countersign demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  countersign demo           # the story, then everything stays up for curl until Ctrl-C
  countersign demo --once    # the story only
Exit code 0 if every line is as expected, 1 if not, 2 if the demo could not run.
It starts `countersign-proxy` from its own folder, or from COUNTERSIGN_BIN_DIR.")]
pub(crate) struct DemoArgs {
    /// End after the story
    #[arg(long)]
    once: bool,
}

/// Runs the demo.
pub(crate) fn run(args: &DemoArgs) -> anyhow::Result<ExitCode> {
    dev::refuse_in_kubernetes("countersign demo")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (mut mesh, code) = tokio::select! {
            told = tell(args) => told?,
            outcome = interrupted() => return outcome.map(|()| ExitCode::from(INTERRUPTED)),
        };
        if !args.once {
            invite(&mesh)?;
            interrupted().await?;
            mesh.all_run()?;
        }
        Ok(code)
    })
}

/// The story, and whether every line was as expected.
async fn tell(args: &DemoArgs) -> anyhow::Result<(Mesh, ExitCode)> {
    let start = Instant::now();
    // Whoever stays to explore gets the ports of the documentation; tests side by side spread.
    let ports = Ports::choose(if args.once { std::process::id() } else { 0 })?;
    println!("starting authority, issuer, gateway, two apps and their sidecars ...\n");
    let mut mesh = Mesh::start(ports).await?;
    let table = Table::start();
    let mut as_expected = 0;
    for number in 1..=story::LINES {
        let line = story::line(number, &mut mesh).await;
        // A process that ended says more than what failed without it.
        mesh.all_run()?;
        let line = line.with_context(|| format!("line {number} could not be tried"))?;
        as_expected += usize::from(line.is_as_expected());
        table.line(number, &line);
    }
    table.end(as_expected, story::LINES, start.elapsed().as_secs_f64());
    let code = if as_expected == story::LINES { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    Ok((mesh, code))
}

/// What to try while everything is up.
fn invite(mesh: &Mesh) -> anyhow::Result<()> {
    let gateway = mesh.gateway();
    for (name, token) in [("alice", &mesh.alice), ("mallory", &mesh.mallory)] {
        let file = mesh.folder().join(format!("{name}.token"));
        std::fs::write(&file, token)
            .with_context(|| format!("could not write {}", file.display()))?;
    }
    let token = |user: &str| {
        let file = mesh.folder().join(format!("{user}.token"));
        format!("-H \"Authorization: Bearer $(cat {})\"", file.display())
    };
    println!("\nEverything stays up until Ctrl-C. To try:");
    println!("  curl -i {} http://{gateway}/v1/users/alice/orders", token("alice"));
    println!("  curl -i {} http://{gateway}/v1/users/alice/orders", token("mallory"));
    let admins: Vec<_> =
        mesh.proxies.iter().map(|proxy| format!("--admin http://{}", proxy.admin)).collect();
    let cli = std::env::current_exe().context("this program does not know where it is")?;
    println!("  {} why --last-denied {}", cli.display(), admins.join(" "));
    println!("Decisions as pages:");
    for proxy in &mesh.proxies {
        println!("  {:14} http://{}/", proxy.name, proxy.admin);
    }
    println!("Documents and logs; a saved policy is in force within a second:");
    println!("  {}", mesh.folder().display());
    Ok(())
}

async fn interrupted() -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        outcome = tokio::signal::ctrl_c() => outcome?,
        _ = terminate.recv() => {}
        _ = hangup.recv() => {}
    }
    println!("\nstopping everything");
    Ok(())
}
