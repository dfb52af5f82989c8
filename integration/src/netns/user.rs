//! Programs under a user of their own: privileges are dropped before the program starts, thus
//! before its first socket, because redirect rules go by the user that made the socket.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use crate::process;

/// The sidecar's user.
pub const SIDECAR: u32 = 4747;

/// `program` under `user` (a number, or a name that is a group too) with no capabilities but
/// `keep`, such as `net_raw`. It cannot gain any, and ends with the thread that starts it.
pub fn command(user: &str, keep: &[&str], program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    let kept: String = keep.iter().map(|capability| format!(",+{capability}")).collect();
    command.args(["--reuid", user, "--regid", user, "--clear-groups", "--no-new-privs"]);
    command.arg(format!("--inh-caps=-all{kept}")).arg(format!("--ambient-caps=-all{kept}"));
    command.arg(format!("--bounding-set=-all{kept}"));
    // Changing the user forgets the signal asked for earlier.
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// Lets every user write into `folder`, which only its owner can see otherwise.
///
/// # Panics
/// When it belongs to somebody else.
pub fn open_to_all(folder: &Path) {
    fs::set_permissions(folder, Permissions::from_mode(0o1777)).unwrap();
}

/// A copy of `program` that every user can run, as a checkout may lie in a folder only its owner
/// sees; or `program` itself where everybody can.
///
/// # Panics
/// When it cannot be copied.
pub fn runnable_by_all(program: &Path) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let visible = |path: &Path| fs::metadata(path).is_ok_and(|found| found.mode() & 0o001 != 0);
    if program.ancestors().all(visible) {
        return program.to_owned();
    }
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let own = fs::metadata(program).unwrap();
    let folder = std::env::temp_dir().join(format!("countersign-programs-{}", own.uid()));
    fs::create_dir_all(&folder).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    let name = program.file_name().unwrap_or_default();
    let copy = folder.join(name);
    let is_same = fs::metadata(&copy).is_ok_and(|copy| {
        (copy.len(), copy.mtime(), copy.mtime_nsec()) == (own.len(), own.mtime(), own.mtime_nsec())
    });
    if !is_same {
        let fresh = folder.join(format!(".{}", std::process::id()));
        // Not written by this process: whatever it starts meanwhile would hold the copy open, and
        // no program runs that somebody may write to.
        let mut cp = Command::new("cp");
        let done = process::run(cp.arg("--preserve=mode,timestamps").arg(program).arg(&fresh));
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        fs::rename(&fresh, &copy).unwrap();
    }
    copy
}
