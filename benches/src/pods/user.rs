//! The sidecar's user. Redirect rules go by the user that made a socket, so a proxy in a pod runs
//! under one of its own, without privileges; configurations and programs must be readable to it.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The default of `interception.proxyUid`.
const SIDECAR: &str = "4747";

/// The same program and arguments under the sidecar's user; it ends with the thread that starts it.
pub(crate) fn command(wanted: &Command, folder: &Path) -> Result<Command> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid", SIDECAR, "--regid", SIDECAR, "--clear-groups", "--no-new-privs"]);
    command.args(["--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all"]);
    command.args(["--pdeathsig", "KILL", "--"]);
    command.arg(runnable_by_all(Path::new(wanted.get_program()), folder)?);
    command.args(wanted.get_args());
    Ok(command)
}

/// Lets every user write into `folder`.
pub(crate) fn open_to_all(folder: &Path) -> Result<()> {
    fs::set_permissions(folder, Permissions::from_mode(0o1777))
        .with_context(|| format!("could not open {}", folder.display()))
}

/// Whether other users reach a file or folder.
pub(crate) fn is_reachable(path: &Path) -> bool {
    let visible = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    path.ancestors().filter(|path| !path.as_os_str().is_empty()).all(visible)
}

/// `program`, or a copy of it in `folder` where other users do not reach it.
fn runnable_by_all(program: &Path, folder: &Path) -> Result<PathBuf> {
    if is_reachable(program) {
        return Ok(program.to_owned());
    }
    let name = program.file_name().context("a program without a name")?;
    let copy = folder.join(name);
    let own = fs::metadata(program)?;
    if fs::metadata(&copy).is_ok_and(|it| it.len() == own.len() && it.mtime() > own.mtime()) {
        return Ok(copy);
    }
    fs::copy(program, &copy)
        .with_context(|| format!("could not copy {} to {}", program.display(), copy.display()))?;
    Ok(copy)
}
