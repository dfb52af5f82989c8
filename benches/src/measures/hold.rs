//! Idle clients, in processes of their own because descriptors are limited per process: this
//! program again, told to open connections, use each once and then hold them.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::load;

/// The word that makes this program a holder.
pub(crate) const HOLD: &str = "hold";
/// Connections of one holder.
const EACH_MAX: usize = 1000;
const HOLDING: &str = "holding\n";

/// Opens `count` connections, uses each once, says so, and holds them until its input ends.
pub(crate) fn hold(address: SocketAddr, count: usize) -> Result<()> {
    load::hold(address, count, || {
        std::io::stdout().write_all(HOLDING.as_bytes())?;
        std::io::stdout().flush()?;
        std::io::stdin().lock().read_line(&mut String::new())?;
        Ok(())
    })
}

/// Held connections; dropping it lets them go.
pub(super) struct Held(Vec<Child>);

impl Held {
    /// Opens `count` connections to `address`, as many processes as that takes.
    pub(super) fn open(address: SocketAddr, count: usize) -> Result<Held> {
        let program = std::env::current_exe().context("could not find my own executable")?;
        let mut held = Held(Vec::new());
        let mut left = count;
        while left > 0 {
            let each = left.min(EACH_MAX);
            let mut command = Command::new(&program);
            command.args([HOLD, &address.to_string(), &each.to_string()]);
            let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
            held.0.push(child);
            let child = held.0.last_mut().and_then(|child| child.stdout.as_mut());
            let mut line = String::new();
            BufReader::new(child.context("a holder without output")?).read_line(&mut line)?;
            ensure!(line == HOLDING, "the holder of {each} connections ended early");
            left -= each;
        }
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.stdin.take());
            // It ends with its input; nothing is lost if it was gone before.
            let _ = child.wait();
        }
    }
}
