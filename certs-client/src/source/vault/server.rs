//! One call to the server: path below `v1/`, namespace, token; what went wrong in words.
//!
//! Invariant: a credential goes into one request and nowhere else; what the server says about it
//! is shown without it.

use std::{borrow::Cow, path::Path};

use countersign_config::{identity::VaultSource, limits::CRL_BYTES_MAX};
use http::HeaderName;
use serde_json::Value;
use zeroize::Zeroizing;

use super::answers::{Answer, Unusable};
use crate::{
    credential,
    https::{Client, Request, Trust, Url},
    source::renewing::IssueError,
};

const TOKEN: HeaderName = HeaderName::from_static("x-vault-token");
const NAMESPACE: HeaderName = HeaderName::from_static("x-vault-namespace");
/// Listeners may insist on it, so that a browser cannot be led to them.
const REQUEST: HeaderName = HeaderName::from_static("x-vault-request");

/// The server, as one source sees it.
pub(super) struct Server {
    pub(super) source: VaultSource,
    base: Url,
    client: Client,
    lists: Client,
}

/// What is asked.
pub(super) struct Call<'a> {
    /// For people.
    pub(super) name: &'static str,
    /// Below `v1/`.
    pub(super) path: &'a str,
    /// Who asks.
    pub(super) token: Option<&'a str>,
    /// `POST` with this; `GET` without.
    pub(super) body: Option<&'a Value>,
}

impl<'a> Call<'a> {
    /// Something that everybody may read.
    pub(super) fn public(name: &'static str, path: &'a str) -> Call<'a> {
        Call { name, path, token: None, body: None }
    }

    /// A failure of this call.
    pub(super) fn failed(&self, answer: impl std::fmt::Display) -> IssueError {
        IssueError::retry(self.name, format!("{}: {answer}", self.path))
    }

    /// An answer with a good status that cannot be used.
    pub(super) fn unusable(&self, unusable: Unusable) -> IssueError {
        self.failed(unusable).hint("is this the API of OpenBao or Vault?")
    }

    /// An answer with another status; `hint` is asked what to do about its text.
    pub(super) fn refused(
        &self,
        answer: &Answer,
        secrets: &[&str],
        hint: impl FnOnce(u16, &str) -> Option<Cow<'static, str>>,
    ) -> IssueError {
        let text = answer.shown(secrets);
        let error = self.failed(&text).after(answer.retry_after);
        match hint(answer.status, &text) {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

impl Server {
    /// # Errors
    /// When the address is none.
    pub(super) fn new(source: VaultSource) -> Result<Server, &'static str> {
        let trust = source.ca.clone().map_or(Trust::System, Trust::PemFile);
        let client = Client::new(trust);
        // As PEM a list is a third larger; one that is too large itself is the store's to discard.
        let lists = client.clone().answer_bytes_max(CRL_BYTES_MAX / 2 * 3);
        let base = Url::parse(&source.address)?;
        Ok(Server { source, base, client, lists })
    }

    /// Asks once.
    pub(super) async fn ask(&self, call: &Call<'_>) -> Result<Answer, IssueError> {
        self.ask_by(&self.client, call).await
    }

    /// Asks once for what may be as large as a revocation list.
    pub(super) async fn ask_for_list(&self, call: &Call<'_>) -> Result<Answer, IssueError> {
        self.ask_by(&self.lists, call).await
    }

    async fn ask_by(&self, client: &Client, call: &Call<'_>) -> Result<Answer, IssueError> {
        let url = self.base.below(&format!("/v1/{}", call.path));
        let url = url.map_err(|problem| call.failed(problem))?;
        let mut request = match call.body {
            Some(body) => Request::post(url).json(body),
            None => Request::get(url),
        };
        request = request.header(REQUEST, "true");
        if let Some(namespace) = &self.source.namespace {
            request = request.header(NAMESPACE, namespace.as_str());
        }
        if let Some(token) = call.token {
            request = request.header(TOKEN, token);
        }
        let answer = client.send(request).await.map_err(|error| call.failed(error.problem))?;
        Ok(Answer {
            status: answer.status.as_u16(),
            retry_after: answer.retry_after,
            body: answer.body,
        })
    }
}

/// A token or id that somebody else writes.
pub(super) fn credential(path: &Path) -> Result<Zeroizing<String>, IssueError> {
    credential::read(path).map_err(|problem| IssueError::retry("read the credential", problem))
}
