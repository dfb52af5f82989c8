//! Whose context tokens count, and who may present them: the mesh's lists in the token crate's terms.
//!
//! Invariant: an entry that cannot be used makes the whole list unusable; nothing is skipped. The
//! signers' certificates are validated by `certs-client`, like those of peers.

use countersign_ctxtoken::{
    Constraints, Issuer, IssuerSet, KeyForms, KeySet, Limits as TokenLimits, Origin, PathPattern,
    Presenter, Presenters, ScopePattern, SubPattern,
};
use countersign_policy::Documents;
use countersign_policy::doc::{IssuerJwks, IssuerKeys, TrustedIssuer};

use crate::issuers::follow::Fetched;

/// The issuer allow-list of the documents.
///
/// # Errors
/// A sentence naming the entry that cannot be used.
pub fn issuers(documents: &Documents, fetched: &Fetched) -> Result<IssuerSet, String> {
    issuer_set(&documents.mesh.issuers, fetched)
}

/// A list of issuers, ours or those of another trust domain.
///
/// # Errors
/// A sentence naming the entry that cannot be used.
pub fn issuer_set(listed: &[TrustedIssuer], fetched: &Fetched) -> Result<IssuerSet, String> {
    let convert = |issuer: &TrustedIssuer| {
        let jwks = key_set(issuer, fetched)?;
        let keys = match issuer.keys {
            IssuerKeys::X5c => KeyForms::X5c,
            IssuerKeys::Jwks => KeyForms::Jwks,
            IssuerKeys::Either => KeyForms::Either,
        };
        Ok(Issuer { id: issuer.id.clone(), keys, allow: constraints(issuer)?, jwks })
    };
    let issuers = listed.iter().map(convert).collect::<Result<Vec<_>, String>>()?;
    IssuerSet::new(issuers).map_err(|error| error.to_string())
}

/// The issuer's key set, read from its file or as it was fetched last.
///
/// # Errors
/// A sentence naming the file that cannot be used.
pub fn key_set(issuer: &TrustedIssuer, fetched: &Fetched) -> Result<Option<KeySet>, String> {
    let path = match &issuer.jwks {
        None => return Ok(None),
        Some(IssuerJwks::Destination { .. }) => return Ok(Some(fetched.key_set(&issuer.id))),
        Some(IssuerJwks::File(file)) => file.resolve(),
    };
    let unusable = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let bytes = std::fs::read(&path).map_err(|error| unusable(&error))?;
    KeySet::from_jwks_json(&bytes).map(Some).map_err(|error| unusable(&error))
}

/// What an issuer may say.
///
/// # Errors
/// A sentence naming the pattern that cannot be used.
pub fn constraints(issuer: &TrustedIssuer) -> Result<Constraints, String> {
    let unusable =
        |error: &dyn std::fmt::Display| format!("context.issuers {}: {error}", issuer.id);
    let origin = |text: &String| {
        Origin::parse(text).ok_or_else(|| unusable(&format!("`{text}` is no origin")))
    };
    let sub = |text: &String| SubPattern::parse(text).map_err(|error| unusable(&error));
    let scope = |text: &String| ScopePattern::parse(text).map_err(|error| unusable(&error));
    Ok(Constraints {
        origins: issuer.origins.iter().map(origin).collect::<Result<_, _>>()?,
        subs: issuer.subjects.iter().map(sub).collect::<Result<_, _>>()?,
        impersonate: issuer.impersonate.iter().map(sub).collect::<Result<_, _>>()?,
        scopes: issuer.scopes.iter().map(scope).collect::<Result<_, _>>()?,
        max_ttl_s: issuer.max_ttl_s.unwrap_or(TokenLimits::default().ttl_s_max),
    })
}

/// Which peers may present tokens where.
///
/// # Errors
/// A sentence naming the entry that cannot be used.
pub fn presenters(documents: &Documents) -> Result<Presenters, String> {
    let convert = |presenter: &countersign_policy::doc::Presenter| {
        let to = PathPattern::parse(&presenter.to.text())
            .map_err(|error| format!("context.presenters: {error}"))?;
        Ok(Presenter { peer: presenter.peer.clone(), to })
    };
    if documents.mesh.presenters.is_empty() {
        return Ok(Presenters::any());
    }
    let presenters = documents.mesh.presenters.iter().map(convert);
    Ok(Presenters::only(presenters.collect::<Result<Vec<_>, String>>()?))
}
