//! Loaded modules: one of each per process, as PKCS#11 asks for, initialised once and again after
//! whoever is behind it went away.
//!
//! Invariant: nothing calls a module while it is being initialised. A loaded module stays loaded.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard},
    time::{Duration, Instant},
};

use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    error::{Error, RvError},
};
use tracing::{info, warn};

use super::trouble::Trouble;

/// Time between two attempts to start a module that is not there.
const RETRY: Duration = Duration::from_millis(500);

/// A loaded module.
pub(super) struct Module {
    path: PathBuf,
    state: RwLock<State>,
}

struct State {
    library: Pkcs11,
    /// Grows each time the module starts: sessions and handles of earlier ones mean nothing.
    epoch: u64,
    initialized: bool,
    tried_at: Option<Instant>,
}

/// The right to call a module; it is not restarted meanwhile.
pub(super) struct Entered<'a>(RwLockReadGuard<'a, State>);

impl Entered<'_> {
    pub(super) fn library(&self) -> &Pkcs11 {
        &self.0.library
    }

    pub(super) fn epoch(&self) -> u64 {
        self.0.epoch
    }
}

/// The module of this path, loaded at the first call.
pub(super) fn load(path: &Path) -> Result<Arc<Module>, Trouble> {
    static LOADED: Mutex<Vec<Arc<Module>>> = Mutex::new(Vec::new());
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(module) = loaded.iter().find(|module| module.path == path) {
        return Ok(Arc::clone(module));
    }
    let library = Pkcs11::new(path)?;
    let state = State { library, epoch: 0, initialized: false, tried_at: None };
    let module = Arc::new(Module { path: path.to_owned(), state: RwLock::new(state) });
    loaded.push(Arc::clone(&module));
    Ok(module)
}

/// Whether a module only passes calls on to another process, which then holds the keys.
pub(super) fn is_elsewhere(path: &Path) -> bool {
    let resolved = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    [path, &resolved].iter().any(|path| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("p11-kit-client"))
    })
}

impl Module {
    /// Enters the module; starts it before if need be.
    pub(super) fn enter(&self) -> Result<Entered<'_>, Trouble> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.initialized {
            return Ok(Entered(state));
        }
        let epoch = state.epoch;
        drop(state);
        self.restart(epoch)?;
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        if state.initialized { Ok(Entered(state)) } else { Err(away()) }
    }

    /// Starts the module again, unless somebody did since `epoch`, or tried a moment ago.
    pub(super) fn restart(&self, epoch: u64) -> Result<(), Trouble> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.epoch != epoch {
            return Ok(());
        }
        if state.tried_at.is_some_and(|tried| tried.elapsed() < RETRY) {
            return Err(away());
        }
        state.tried_at = Some(Instant::now());
        if state.initialized {
            warn!(module = %self.path.display(), "the PKCS#11 module lost its token; starting it again");
            state.initialized = false;
            // What it answers does not matter: its server is gone, or it forgets everything now.
            let _ = state.library.clone().finalize();
        }
        match state.library.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
            Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => {}
            Err(error) => return Err(error.into()),
        }
        state.epoch = state.epoch.saturating_add(1);
        state.initialized = true;
        info!(module = %self.path.display(), starts = state.epoch, "PKCS#11 module started");
        Ok(())
    }
}

fn away() -> Trouble {
    Trouble::new(
        "C_Initialize",
        "the module is not connected; it was tried a moment ago",
        Some("does its server (p11-kit server) run?"),
    )
}
