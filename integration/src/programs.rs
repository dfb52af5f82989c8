//! The programs under test, as built by `make test` in profile `e2e`.

use std::path::{Path, PathBuf};

use countersign_config::env;

/// `countersign-proxy`.
pub fn proxy() -> PathBuf {
    find("countersign-proxy")
}

/// `countersign`.
pub fn cli() -> PathBuf {
    find("countersign")
}

/// Whether they were built to be fast; cargo's dev profile is a fifth of that.
pub fn are_optimised() -> bool {
    proxy().parent().is_none_or(|folder| !folder.ends_with("debug"))
}

/// In `$COUNTERSIGN_BIN_DIR`, else in `e2e` beside the folder of this test's own profile.
fn find(name: &str) -> PathBuf {
    let folder = env::COUNTERSIGN_BIN_DIR.get().map(PathBuf::from).or_else(beside_the_tests);
    let program = folder.unwrap_or_default().join(name);
    assert!(
        program.is_file(),
        "there is no program {}; build it: cargo build --profile e2e --bins \
         --package countersign-proxy --package countersign-cli (or run `make test`)",
        program.display()
    );
    program
}

/// `target/debug/deps/it-…` → `target/e2e`.
fn beside_the_tests() -> Option<PathBuf> {
    let own = std::env::current_exe().ok()?;
    Some(own.ancestors().nth(3)?.join("e2e"))
}

/// The Python of the test-bed; without it, `None` and a line that says so, or a failure where
/// `COUNTERSIGN_TESTBED=require` is set.
///
/// # Panics
/// When the test-bed is required and missing.
pub fn python(test: &str) -> Option<PathBuf> {
    let python = cache().map(|cache| cache.join("py/bin/python")).filter(|path| path.exists());
    if python.is_none() {
        missing(test, "the Python packages");
    }
    python
}

/// A program that travels as a wheel, such as `nats-server`; treated as [`python`].
///
/// # Panics
/// When the test-bed is required and the program is missing.
pub fn of_testbed(test: &str, name: &str) -> Option<PathBuf> {
    let found = cache().map(|cache| cache.join("py/bin").join(name)).filter(|path| path.exists());
    if found.is_none() {
        missing(test, name);
    }
    found
}

/// The folder whose `node_modules` has the Node packages of the test-bed; treated as [`python`].
///
/// # Panics
/// When the test-bed is required and they are missing.
pub fn node_packages(test: &str) -> Option<PathBuf> {
    let found = cache().map(|cache| cache.join("npm")).filter(|path| path.exists());
    if found.is_none() {
        missing(test, "the Node packages");
    }
    found
}

/// The folder of a program that travels as a Maven artifact, such as `keycloak`; treated as
/// [`python`].
///
/// # Panics
/// When the test-bed is required and it is missing.
pub fn of_maven(test: &str, name: &str) -> Option<PathBuf> {
    let found = cache().map(|cache| cache.join("maven").join(name)).filter(|path| path.exists());
    if found.is_none() {
        missing(test, name);
    }
    found
}

/// A program built from a Go module of the test-bed, such as `kube` and `kube-apiserver`; missing,
/// it is treated as by [`python`].
///
/// # Panics
/// When the test-bed is required and it is missing.
pub fn go_tool(test: &str, module: &str, name: &str) -> Option<PathBuf> {
    let program = cache().map(|cache| cache.join(module).join(name)).filter(|path| path.exists());
    if program.is_none() {
        missing(test, name);
    }
    program
}

/// A program of the system, such as `openssl`; missing ones are treated as by [`python`].
///
/// # Panics
/// When the test-bed is required and the program is missing.
pub fn system(test: &str, name: &str) -> Option<PathBuf> {
    let mut places = PLACES.iter().map(|dir| Path::new(dir).join(name));
    let found = places.find(|path| path.is_file());
    if found.is_none() {
        missing(test, name);
    }
    found
}

/// Where Debian keeps programs.
const PLACES: [&str; 6] =
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin", "/usr/lib/postgresql/15/bin"];

pub(crate) fn missing(test: &str, what: &str) {
    let text = format!("skipped {test}: {what} missing (cargo xtask testbed base)");
    assert!(env::COUNTERSIGN_TESTBED.get().as_deref() != Some("require"), "{text}");
    eprintln!("{text}");
}

fn cache() -> Option<PathBuf> {
    if let Some(dir) = env::COUNTERSIGN_CACHE.get() {
        return Some(dir.into());
    }
    let base = env::XDG_CACHE_HOME.get().map(PathBuf::from);
    let base = base.or_else(|| Some(Path::new(&env::HOME.get()?).join(".cache")));
    Some(base?.join("countersign"))
}
