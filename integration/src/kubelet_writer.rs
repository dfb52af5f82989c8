//! Files as their writers keep them: kubelet's projected volumes, and programs that write each file
//! by itself, over the old one or beside it.
//!
//! A [`Volume`] does what kubelet's atomic writer does, step by step, so that a reader meets the
//! same symlinks and the same instants between them. Invariant: what is not kubelet's way
//! ([`overwrite`], [`replace`]) is not a method of a volume.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A projected, Secret or CSI volume: `NAME` → `..data/NAME`, `..data` → `..2026_11_21_…`.
pub struct Volume {
    folder: PathBuf,
    revision: AtomicU32,
}

impl Volume {
    /// An empty one.
    ///
    /// # Panics
    /// When the folder cannot be made.
    pub fn new(folder: &Path) -> Volume {
        fs::create_dir_all(folder).unwrap();
        Volume { folder: folder.to_owned(), revision: AtomicU32::new(0) }
    }

    /// Where a file of it is found.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Puts these files in the place of all there were: a new folder is filled, `..data_tmp` points
    /// at it and is renamed over `..data`, names are made and removed, the old folder goes.
    ///
    /// # Panics
    /// When the file system does not do it.
    pub fn write(&self, files: &[(&str, &str)]) {
        let number = self.revision.fetch_add(1, Ordering::Relaxed);
        let fresh = format!("..2026_11_21_18_00_00.{number:010}");
        let data = self.folder.join("..data");
        let old = fs::read_link(&data).ok();
        fs::create_dir(self.folder.join(&fresh)).unwrap();
        for (name, text) in files {
            let path = self.folder.join(&fresh).join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        }
        symlink(&fresh, self.folder.join("..data_tmp")).unwrap();
        fs::rename(self.folder.join("..data_tmp"), &data).unwrap();
        for (name, _) in files {
            if fs::symlink_metadata(self.path(name)).is_err() {
                symlink(Path::new("..data").join(name), self.path(name)).unwrap();
            }
        }
        for entry in fs::read_dir(&self.folder).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if !name.starts_with("..") && files.iter().all(|(kept, _)| *kept != name) {
                fs::remove_file(self.path(&name)).unwrap();
            }
        }
        if let Some(old) = old {
            fs::remove_dir_all(self.folder.join(old)).unwrap();
        }
    }
}

/// Writes over each file, one after the other, as spiffe-helper and shell scripts do.
///
/// # Panics
/// When a file cannot be written.
pub fn overwrite(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// Renames a new file over each old one, as Istio's agent does.
///
/// # Panics
/// When a file cannot be written.
pub fn replace(folder: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(folder).unwrap();
    for (name, text) in files {
        let fresh = folder.join(format!("{name}.tmp"));
        fs::write(&fresh, text).unwrap();
        fs::rename(&fresh, folder.join(name)).unwrap();
    }
}
