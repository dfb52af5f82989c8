//! Verified tokens, remembered by one worker. A hit spares parsing and the signature, nothing
//! else: time and issuer constraints are checked again, and the caller checks presenter and
//! custody again. Invariant: only what was verified gets in, and a token is found only if it is
//! byte for byte the one that was verified; everything goes when the generation (issuers, keys,
//! bundles) moves.
//! Refusals are never remembered: an attacker chooses those keys.

use std::{fmt, sync::Arc};

use quick_cache::{Weighter, unsync::Cache};

use crate::{
    Limits, RequestContext, UnixTime, Verified, VerifyError, VerifyWith,
    jws::{self, Parts},
    verify::{KnownChain, Named, Reader, check_constraints, check_times, name_key, verify_parts},
};

/// What an entry costs besides the token's own text: names, vectors, the entry itself.
const ENTRY_OVERHEAD_BYTES: usize = 1024;

/// Whether a token was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheResult {
    /// Known; times and constraints were checked again.
    Hit,
    /// New; everything was checked.
    Miss,
}

/// The token cache of one worker.
pub struct TokenCache {
    /// By the end of the token: the part of its signature that no client chooses. It only leads to
    /// the entry; whose it is shows the whole token.
    tokens: Cache<[u8; 32], Entry, ByBytes>,
    /// By the encoded header.
    chains: Cache<Box<[u8]>, Arc<KnownChain>>,
    /// The one that was used last: the next token's is nearly always the same, and comparing is
    /// cheaper than looking up.
    last: Option<Arc<KnownChain>>,
    reader: Reader,
    generation: u64,
    age_s_max: u64,
}

#[derive(Clone)]
struct Entry {
    /// Whose header the token begins with; `None`: `rest` is all of it.
    chain: Option<Arc<KnownChain>>,
    rest: Box<[u8]>,
    verified: Arc<Verified<RequestContext>>,
    until: UnixTime,
    bytes: usize,
}

impl Entry {
    /// Whether it is the entry of this token, byte for byte.
    fn is_of(&self, token: &[u8]) -> bool {
        let rest = match &self.chain {
            Some(chain) => token.strip_prefix(&*chain.header),
            None => Some(token),
        };
        rest.is_some_and(|rest| *rest == *self.rest)
    }
}

/// Weighs entries so that one capacity bounds both their number and their bytes.
#[derive(Clone)]
struct ByBytes {
    least: u64,
}

impl Weighter<[u8; 32], Entry> for ByBytes {
    fn weight(&self, _: &[u8; 32], entry: &Entry) -> u64 {
        self.least.max(u64::try_from(entry.bytes).unwrap_or(u64::MAX))
    }
}

impl TokenCache {
    /// An empty cache.
    pub fn new(limits: &Limits) -> Self {
        let entries = limits.cache_entries_max.max(1);
        let bytes = u64::try_from(limits.cache_bytes_max).unwrap_or(u64::MAX);
        let least = bytes.checked_div(u64::try_from(entries).unwrap_or(u64::MAX)).unwrap_or(1);
        Self {
            tokens: Cache::with_weighter(entries, bytes, ByBytes { least: least.max(1) }),
            chains: Cache::new(limits.chains_max),
            last: None,
            reader: Reader::default(),
            generation: 0,
            age_s_max: limits.cache_age_s_max,
        }
    }

    /// Verifies a token by steps 2 to 9 of the profile. `generation` names the state of issuers,
    /// keys and bundles that `with` holds; when it moves, everything is forgotten.
    pub fn verify(
        &mut self,
        token: &[u8],
        generation: u64,
        with: &VerifyWith<'_>,
    ) -> Result<(Arc<Verified<RequestContext>>, CacheResult), VerifyError> {
        self.follow(generation);
        if let Some(verified) = self.recall(token, with)? {
            return Ok((verified, CacheResult::Hit));
        }
        let accepted = self.last.as_ref().map(|last| &*last.header);
        let parts = jws::split(token, accepted, with.limits)?;
        let named = self.name_key(&parts, with)?;
        let known = matches!(named, Named::KnownChain(_));
        let (verified, chain) = verify_parts(&parts, named, with, &mut self.reader)?;
        let verified = Arc::new(verified);
        self.remember(token, &verified, chain.clone(), with.now);
        if let Some(chain) = chain {
            if !known {
                self.chains.insert(parts.header.into(), Arc::clone(&chain));
            }
            self.last = Some(chain);
        }
        Ok((verified, CacheResult::Miss))
    }

    /// Verified tokens held.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    fn follow(&mut self, generation: u64) {
        if self.generation != generation {
            self.tokens.clear();
            self.chains.clear();
            self.last = None;
            self.reader.clear();
            self.generation = generation;
        }
    }

    /// Step 3, and what of steps 8 and 9 can change.
    fn recall(
        &mut self,
        token: &[u8],
        with: &VerifyWith<'_>,
    ) -> Result<Option<Arc<Verified<RequestContext>>>, VerifyError> {
        let Some(end) = token.last_chunk() else { return Ok(None) };
        let entry = self.tokens.get(end).filter(|entry| entry.is_of(token));
        let Some(entry) = entry else { return Ok(None) };
        if entry.until <= with.now {
            self.tokens.remove(end);
            return Ok(None);
        }
        let verified = Arc::clone(&entry.verified);
        check_times(&verified, with)?;
        let issuer = with.issuers.get(verified.iss.as_str());
        check_constraints(&verified, issuer.ok_or(VerifyError::IssuerNotAllowed)?)?;
        Ok(Some(verified))
    }

    /// A header seen on a valid token before needs no decoding and no chain validation. Headers
    /// are remembered only after the whole token was accepted, so nobody but an issuer can fill
    /// this cache.
    fn name_key(&mut self, parts: &Parts<'_>, with: &VerifyWith<'_>) -> Result<Named, VerifyError> {
        let last = self.last.as_ref().filter(|last| *last.header == *parts.header);
        if let Some(known) = last.or_else(|| self.chains.get(parts.header)) {
            if known.key.not_after >= with.now {
                return Ok(Named::KnownChain(Arc::clone(known)));
            }
            self.last = None;
            self.chains.remove(parts.header);
        }
        name_key(parts, with)
    }

    fn remember(
        &mut self,
        token: &[u8],
        verified: &Arc<Verified<RequestContext>>,
        chain: Option<Arc<KnownChain>>,
        now: UnixTime,
    ) {
        let until = verified.exp.min(now.plus(self.age_s_max));
        let Some(end) = token.last_chunk().filter(|_| until > now) else { return };
        let bytes = token.len().saturating_add(ENTRY_OVERHEAD_BYTES);
        let header = chain.as_ref().map_or(0, |chain| chain.header.len());
        let rest = token.get(header..).unwrap_or_default().into();
        let verified = Arc::clone(verified);
        self.tokens.insert(*end, Entry { chain, rest, verified, until, bytes });
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache")
            .field("tokens", &self.tokens.len())
            .field("chains", &self.chains.len())
            .field("generation", &self.generation)
            .finish()
    }
}
