//! `countersign completion`: completion scripts for shells.

use std::process::ExitCode;

use clap::Args;
use clap_complete::Shell;

/// Arguments of `countersign completion`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  countersign completion bash > /etc/bash_completion.d/countersign
  countersign completion zsh > \"${fpath[1]}/_countersign\"
  countersign completion fish > ~/.config/fish/completions/countersign.fish")]
pub(crate) struct CompletionArgs {
    /// The shell
    shell: Shell,
}

/// Writes the script for `command` to standard output.
pub(crate) fn run(args: &CompletionArgs, mut command: clap::Command) -> anyhow::Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut command, "countersign", &mut script);
    std::io::Write::write_all(&mut std::io::stdout().lock(), &script)?;
    Ok(ExitCode::SUCCESS)
}
