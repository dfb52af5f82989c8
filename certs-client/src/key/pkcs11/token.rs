//! One token: its threads, their sessions, and the keys in it.
//!
//! Invariants: a signature is asked for on the token's threads and waited for within the budget;
//! a session, a login or a handle that was lost is made again once per call, not more often; a token
//! that cannot be seen is waited for once, until it was seen again (`patience.rs`).

use std::{
    fmt, mem,
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use countersign_config::pkcs11::{Pkcs11Key, Pkcs11Token};
use cryptoki::{session::Session, slot::Slot};
use tracing::{info, warn};

use super::{
    super::{ExternalKey, KeyError, KeyFailure, SigningKey},
    find::FoundKey,
    generate::{self, Keeper},
    module::{self, Entered, Module},
    patience::Patience,
    pin::Pin,
    pool::Pool,
    trouble::{Remedy, Trouble},
};

/// Time for everything that is not on the data path: loading, login, looking up, making a key.
const SETUP: Duration = Duration::from_secs(10);

/// A token that was opened.
pub struct Token {
    pub(super) shared: Arc<Shared>,
    pool: Pool<Worker>,
}

/// What the threads of a token share.
pub(super) struct Shared {
    pub(super) config: Pkcs11Token,
    module: Arc<Module>,
    pin: Pin,
    patience: Patience,
    /// Made keys whose last user is gone: a thread of the token destroys them.
    discarded: Mutex<Vec<Keeper>>,
}

/// One thread's session.
pub(super) struct Worker {
    shared: Arc<Shared>,
    session: Option<(u64, Session)>,
}

/// A session with the module it belongs to.
pub(super) struct Open<'a> {
    pub(super) module: &'a Entered<'a>,
    pub(super) session: &'a Session,
    pub(super) shared: &'a Shared,
}

impl Token {
    /// The token of this configuration; users of the same one share it.
    ///
    /// # Errors
    /// When its module cannot be loaded.
    pub fn of(config: &Pkcs11Token) -> Result<Arc<Token>, KeyError> {
        // A token stays open for good: what it remembers of a refused PIN must not be forgotten.
        static OPEN: Mutex<Vec<Arc<Token>>> = Mutex::new(Vec::new());
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = open.iter().find(|token| token.shared.config == *config) {
            return Ok(Arc::clone(token));
        }
        let token = Arc::new(
            Token::start(config).map_err(|trouble| trouble.into_failure(config.to_string()))?,
        );
        open.push(Arc::clone(&token));
        Ok(token)
    }

    fn start(config: &Pkcs11Token) -> Result<Token, Trouble> {
        let module = module::load(&config.module)?;
        let shared = Arc::new(Shared {
            config: config.clone(),
            module,
            pin: Pin::default(),
            patience: Patience::new(config.sign_timeout / 2),
            discarded: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let pool = Pool::start(move || Worker { shared: Arc::clone(&theirs), session: None })?;
        if module::is_elsewhere(&config.module) {
            info!(token = %config, "keys stay in another process");
        } else {
            warn!(
                token = %config,
                "the PKCS#11 module runs inside this process: a software token brings its keys into \
                 our memory; with p11-kit server and p11-kit-client.so they stay outside",
            );
        }
        Ok(Token { shared, pool })
    }

    /// Whether the module only passes calls on to another process.
    pub fn is_elsewhere(config: &Pkcs11Token) -> bool {
        module::is_elsewhere(&config.module)
    }

    /// A key that is in the token, which must be the one of `public_key` (a `subjectPublicKey`).
    ///
    /// # Errors
    /// When it is not there, is there twice, is of another type, or signs for another certificate.
    pub fn find(
        self: &Arc<Token>,
        key: &Pkcs11Key,
        public_key: &[u8],
    ) -> Result<Arc<dyn ExternalKey>, KeyError> {
        let found = FoundKey::new(Arc::clone(self), key.clone(), public_key.to_vec());
        found.look_up().map_err(|trouble| trouble.into_failure(key.to_string()))?;
        Ok(Arc::new(found))
    }

    /// A new P-256 key, made in the token; it is destroyed with the `SigningKey`.
    ///
    /// # Errors
    /// When the token does not make one.
    pub fn make(self: &Arc<Token>) -> Result<SigningKey, KeyError> {
        generate::make(self)
            .map(|key| SigningKey::external(Arc::new(key)))
            .map_err(|trouble| self.failure(trouble).into())
    }

    pub(super) fn failure(&self, trouble: Trouble) -> KeyFailure {
        trouble.into_failure(self.shared.config.to_string())
    }

    /// Signs on a thread of the token, within the budget of the data path.
    pub(super) fn on_data_path<T: Send + 'static>(
        &self,
        job: impl Fn(&Open<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        self.pool.run("C_Sign", self.shared.config.sign_timeout, move |worker| worker.call(&job))
    }

    /// Does something that may take seconds.
    pub(super) fn in_the_background<T: Send + 'static>(
        &self,
        call: &'static str,
        job: impl Fn(&Open<'_>) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, Trouble> {
        self.pool.run(call, SETUP, move |worker| worker.call(&job))
    }

    /// Has a made key destroyed by a thread of the token.
    pub(super) fn discard(&self, keeper: Keeper) {
        self.shared.discarded.lock().unwrap_or_else(PoisonError::into_inner).push(keeper);
        // If the queue is full, the next call takes it along.
        let _ = self.pool.post(Worker::sweep);
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({})", self.shared.config)
    }
}

impl Worker {
    /// Runs a job with a session that is open and logged in; what was lost is made again, once.
    fn call<T>(&mut self, job: &impl Fn(&Open<'_>) -> Result<T, Trouble>) -> Result<T, Trouble> {
        self.sweep();
        match self.patiently(job) {
            Err((epoch, trouble)) if trouble.remedy != Remedy::None => {
                self.recover(epoch, trouble)?;
                self.once(job).map_err(|(_, trouble)| trouble)
            }
            result => result.map_err(|(_, trouble)| trouble),
        }
    }

    /// As [`Worker::once`]; a token that cannot be seen for a moment is waited for.
    fn patiently<T>(
        &mut self,
        job: &impl Fn(&Open<'_>) -> Result<T, Trouble>,
    ) -> Result<T, (u64, Trouble)> {
        loop {
            let result = self.once(job);
            match &result {
                Ok(_) => self.shared.patience.seen(),
                Err((_, trouble)) if trouble.unseen => {
                    if let Some(pause) = self.shared.patience.pause(Instant::now()) {
                        thread::sleep(pause);
                        continue;
                    }
                }
                Err(_) => {}
            }
            return result;
        }
    }

    fn once<T>(
        &mut self,
        job: &impl Fn(&Open<'_>) -> Result<T, Trouble>,
    ) -> Result<T, (u64, Trouble)> {
        let shared = Arc::clone(&self.shared);
        let module = shared.module.enter().map_err(|trouble| (0, trouble))?;
        let at = |trouble| (module.epoch(), trouble);
        let session = match self.session.take() {
            Some((epoch, session)) if epoch == module.epoch() => session,
            _ => shared.open(&module, Access::Read).map_err(at)?,
        };
        let result = job(&Open { module: &module, session: &session, shared: &shared });
        self.session = Some((module.epoch(), session));
        result.map_err(at)
    }

    fn recover(&mut self, epoch: u64, trouble: Trouble) -> Result<(), Trouble> {
        match trouble.remedy {
            Remedy::Reconnect => {
                self.session = None;
                // The reason is what was answered first, not that a restart did not help.
                self.shared.module.restart(epoch).map_err(|_| trouble)
            }
            Remedy::Reopen => {
                self.close();
                Ok(())
            }
            Remedy::Lookup | Remedy::None => Ok(()),
        }
    }

    fn close(&mut self) {
        let Some((epoch, session)) = self.session.take() else { return };
        if let Ok(module) = self.shared.module.enter()
            && module.epoch() == epoch
        {
            // A session that cannot be closed is gone, which is what is wanted.
            let _ = session.close();
        }
    }

    /// Destroys made keys that nobody uses any more.
    fn sweep(&mut self) {
        let discarded =
            mem::take(&mut *self.shared.discarded.lock().unwrap_or_else(PoisonError::into_inner));
        for keeper in discarded {
            if let Ok(module) = self.shared.module.enter() {
                keeper.destroy(&module);
            }
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.sweep();
        self.close();
    }
}

/// What a session is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Access {
    Read,
    Write,
}

impl Shared {
    /// Opens a session at the configured token and logs in.
    pub(super) fn open(&self, module: &Entered<'_>, access: Access) -> Result<Session, Trouble> {
        let library = module.library();
        let slot = self.slot(module)?;
        // Sessions close when they are told to: those of an earlier start must never be, because
        // their numbers may mean others by now.
        let session = match access {
            Access::Read => library.open_ro_session_no_drop(slot)?,
            Access::Write => library.open_rw_session_no_drop(slot)?,
        };
        let file = self.config.pin_file.as_deref();
        if let Err(trouble) = self.pin.login(library, slot, &session, file) {
            let _ = session.close();
            return Err(trouble);
        }
        Ok(session)
    }

    fn slot(&self, module: &Entered<'_>) -> Result<Slot, Trouble> {
        let library = module.library();
        let mut fitting = Vec::new();
        let mut seen = Vec::new();
        for slot in library.get_slots_with_token()? {
            let Ok(info) = library.get_token_info(slot) else { continue };
            let (label, serial) = (info.label(), info.serial_number());
            if self.config.token.matches(label, info.manufacturer_id(), info.model(), serial) {
                fitting.push(slot);
            }
            seen.push(format!("\"{label}\" (serial {serial})"));
        }
        match fitting.as_slice() {
            [slot] => Ok(*slot),
            [] if seen.is_empty() => Err(Trouble {
                call: "C_GetSlotList",
                answer: "there is no token".to_owned(),
                hint: Some("is it plugged in, and does its server (p11-kit server) offer it?"),
                remedy: Remedy::Reconnect,
                unseen: true,
            }),
            [] => Err(Trouble {
                unseen: true,
                ..Trouble::new(
                    "C_GetTokenInfo",
                    format!("no such token; there are {}", seen.join(", ")),
                    Some("compare the token's label with the configuration"),
                )
            }),
            many => Err(Trouble::new(
                "C_GetTokenInfo",
                format!("{} tokens fit: {}", many.len(), seen.join(", ")),
                Some("name the serial number too: `pkcs11:token=…;serial=…`"),
            )),
        }
    }
}
