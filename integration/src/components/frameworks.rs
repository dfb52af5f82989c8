//! Web frameworks as they are, with OpenTelemetry's automatic instrumentation and nothing of ours:
//! Flask and Starlette under `opentelemetry-instrument`, Express under `--require`.
//!
//! Each answers `/v1/users/<user>/<what>` and calls the service at another address meanwhile
//! (`orders`, `fanout`), after its answer (`later`), or when a file appears (`job`).

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::netns::Pod;
use crate::process::Process;
use crate::{programs, wait};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framework {
    /// Python, threads and processes: Flask under gunicorn, requests.
    Flask,
    /// Python, asyncio: Starlette under uvicorn, httpx.
    Starlette,
    /// Node: Express, `http` and `fetch`.
    Express,
}

/// How an app of one is started.
pub struct App {
    command: Command,
    name: &'static str,
}

impl App {
    /// The app at `listen`, which calls `billing`; its jobs go on when `go_on` is there. `None`
    /// where the test-bed has no such framework.
    pub fn new(
        framework: Framework,
        test: &str,
        listen: SocketAddr,
        billing: &str,
        go_on: &Path,
    ) -> Option<App> {
        let (mut command, name) = match framework {
            Framework::Flask => {
                let mut command =
                    Command::new(programs::of_testbed(test, "opentelemetry-instrument")?);
                command.arg(programs::of_testbed(test, "gunicorn")?);
                command.args(["--workers", "2", "--worker-class", "gthread", "--threads", "16"]);
                command.args(["--no-control-socket", "--bind", &listen.to_string()]);
                command.arg("flask_app:app");
                (command, "flask")
            }
            Framework::Starlette => {
                let mut command =
                    Command::new(programs::of_testbed(test, "opentelemetry-instrument")?);
                command.arg(programs::of_testbed(test, "uvicorn")?);
                command.args(["--host", &listen.ip().to_string()]);
                command.args(["--port", &listen.port().to_string(), "--log-level", "warning"]);
                command.arg("starlette_app:app");
                (command, "starlette")
            }
            Framework::Express => {
                let modules = programs::node_packages(test)?.join("node_modules");
                let mut command = Command::new(programs::system(test, "node")?);
                command.args(["--require", "@opentelemetry/auto-instrumentations-node/register"]);
                command.arg("express_app.js");
                command.env("NODE_PATH", modules).env("PORT", listen.port().to_string());
                command.env("HOST", listen.ip().to_string());
                command.env("OTEL_NODE_RESOURCE_DETECTORS", "none");
                (command, "express")
            }
        };
        command.current_dir(folder()).env("PYTHONDONTWRITEBYTECODE", "1");
        command.env("BILLING", billing).env("GO_ON", go_on);
        for exporter in ["TRACES", "METRICS", "LOGS"] {
            command.env(format!("OTEL_{exporter}_EXPORTER"), "none");
        }
        Some(App { command, name })
    }

    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start(self, listen: SocketAddr, logs: &Path) -> Process {
        let process = Process::start(self.name, self.command, logs);
        listening(&process, async || tokio::net::TcpStream::connect(listen).await.is_ok()).await;
        process
    }

    /// As [`App::start`], in a pod.
    ///
    /// # Panics
    /// When it does not.
    pub async fn start_in(self, pod: &Pod, listen: SocketAddr, logs: &Path) -> Process {
        let process = pod.start(self.name, self.command, logs);
        listening(&process, async || pod.connect(listen).await.is_ok()).await;
        process
    }
}

/// Instrumentation takes its time at the start.
async fn listening(process: &Process, there: impl AsyncFn() -> bool) {
    wait::until_within(wait::DEADLINE * 2, "the framework", async || {
        if let Some(status) = process.exit_status() {
            panic!("the framework ended with {status}\n{}", process.tail());
        }
        there().await.then_some(())
    })
    .await;
}

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/components/frameworks")
}
