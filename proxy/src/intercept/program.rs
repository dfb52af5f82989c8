//! The programs `init` runs. Nothing but `init` starts programs, and none of its words come from
//! anybody but us: configuration reaches them as rule text made from numbers and addresses.

use std::io::{self, Write as _};
use std::process::{Child, Command, Stdio};

use crate::intercept::rules::Family;

/// A program, found along `PATH` and in the usual places of system programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Program(&'static str);

/// A program that could not be started, or that failed.
#[derive(Debug, thiserror::Error)]
#[error("`{program}` {what}")]
pub struct ProgramError {
    program: String,
    what: String,
}

impl Program {
    /// The rule language of the kernel.
    pub const NFT: Program = Program("nft");
    /// Routes.
    pub const IP: Program = Program("ip");

    /// Shows the rules of a family in the old form.
    pub fn save(family: Family) -> Program {
        match family {
            Family::V4 => Program("iptables-save"),
            Family::V6 => Program("ip6tables-save"),
        }
    }

    /// Loads rules of a family in the old form.
    pub fn restore(family: Family) -> Program {
        match family {
            Family::V4 => Program("iptables-restore"),
            Family::V6 => Program("ip6tables-restore"),
        }
    }

    /// Runs it and returns what it printed.
    ///
    /// # Errors
    /// [`ProgramError`] with the first lines it said on standard error.
    pub fn run(self, arguments: &[&str]) -> Result<String, ProgramError> {
        self.with_input(arguments, "")
    }

    /// Runs it with text on standard input.
    ///
    /// # Errors
    /// The same.
    pub fn feed(self, arguments: &[&str], input: &str) -> Result<(), ProgramError> {
        self.with_input(arguments, input).map(drop)
    }

    /// An error of this program in our own words.
    pub fn said(self, what: String) -> ProgramError {
        ProgramError { program: self.0.to_owned(), what }
    }

    fn with_input(self, arguments: &[&str], input: &str) -> Result<String, ProgramError> {
        let failed = |what: String| ProgramError {
            program: format!("{} {}", self.0, arguments.join(" ")).trim_end().to_owned(),
            what,
        };
        let io = |error: io::Error| failed(format!("cannot be run: {error}"));
        let mut child = self.spawn(arguments).map_err(io)?;
        if let Some(mut stdin) = child.stdin.take() {
            // It may end without reading; then its status says why.
            let _ = stdin.write_all(input.as_bytes());
        }
        let output = child.wait_with_output().map_err(io)?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said: Vec<_> = said.lines().filter(|line| !line.trim().is_empty()).take(4).collect();
        Err(failed(format!("failed ({}): {}", output.status, said.join(" | "))))
    }

    /// Along `PATH`, else where system programs usually are: init containers often have no `PATH`
    /// that names those folders.
    fn spawn(self, arguments: &[&str]) -> io::Result<Child> {
        let along_path = self.0.to_owned();
        let usual = ["/usr/sbin", "/sbin"].map(|folder| format!("{folder}/{}", self.0));
        let mut last = Err(io::ErrorKind::NotFound.into());
        for program in std::iter::once(along_path).chain(usual) {
            last = Command::new(program)
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn();
            match &last {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Ok(_) | Err(_) => break,
            }
        }
        last
    }
}
