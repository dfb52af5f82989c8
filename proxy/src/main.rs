//! `countersign-proxy`: the data path as a process.
#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;

use countersign_config::ProxyConfig;
use countersign_proxy::app;
use countersign_proxy::control;
use countersign_proxy::intercept::init;
use countersign_proxy::{refusal, telemetry};

/// Cheaper for each request than libc's (docs/decisions/0008).
#[global_allocator]
static HEAP: mimalloc::MiMalloc = mimalloc::MiMalloc;

const HELP: &str = "\
countersign-proxy: a mutual TLS sidecar and gateway that carries signed request context

Usage:
  countersign-proxy --config FILE    run with this ProxyConfig
  countersign-proxy init --config FILE [--dry-run | --verify] [--backend nft|nft-split|iptables]
                                     install the redirect for it (needs NET_ADMIN), or print it,
                                     or compare it with what is in force
  countersign-proxy init --remove    take the redirect out
  countersign-proxy drain [--no-wait] | reload | log LEVEL   (--config FILE | --socket PATH)
                                     tell a running proxy by its control socket: let those inside
                                     leave and wait for it, read the documents again, log more or less
  countersign-proxy --version
  countersign-proxy docs refusals|metrics    print a generated reference

Signals: SIGTERM and SIGINT drain and exit 0 (a second one ends at once), SIGHUP reads the documents again.
Exit codes: 0 ended as asked, 1 failed while running, 2 usage or invalid configuration.
Environment: docs/environment.md.
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--config" | "-c", file] => app::run(&PathBuf::from(file)),
        ["init", rest @ ..] => match init::Arguments::read(rest) {
            Some(arguments) => init::run(&arguments),
            None => usage(),
        },
        [command @ .., "--config" | "-c", file] => tell(command, control_of(file)),
        [command @ .., "--socket", path] => tell(command, Ok(PathBuf::from(path))),
        ["--version" | "-V"] => {
            print(&format!("countersign-proxy {}\n", env!("CARGO_PKG_VERSION")))
        }
        ["--help" | "-h" | "help"] => print(HELP),
        ["docs", "refusals"] => print(&refusal::render_docs()),
        ["docs", "metrics"] => print(&telemetry::names::render_docs()),
        _ => usage(),
    }
}

/// Tells a running proxy something by its control socket.
fn tell(command: &[&str], socket: Result<PathBuf, String>) -> ExitCode {
    let Ok(command) = control::Command::parse(&command.join(" ")) else { return usage() };
    let socket = match socket {
        Ok(socket) => socket,
        Err(why) => {
            eprintln!("{why}");
            return ExitCode::from(2);
        }
    };
    match control::ask(&socket, &command) {
        Ok(answer) => print(&format!("{answer}\n")),
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// The control socket that a configuration names.
fn control_of(file: &str) -> Result<PathBuf, String> {
    let file_path = PathBuf::from(file);
    let config = ProxyConfig::load_alone(&file_path).map_err(|error| error.to_string())?;
    config.control.ok_or_else(|| format!("{file} names no control socket (`control.socket`)"))
}

fn usage() -> ExitCode {
    eprint!("{HELP}");
    ExitCode::from(2)
}

fn print(text: &str) -> ExitCode {
    use std::io::Write as _;
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
