//! Calls of the API server: who we are there, and what its answers mean to a person.

use countersign_config::KubernetesApi;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;

use super::super::{
    publish::{Failed, Publisher},
    renewing::IssueError,
};
use crate::{
    api_server::{ApiServer, ApiServerError},
    https::{Answer, Request, Url},
    status::NextTry,
};

/// Characters of a text of the API server that are shown.
const SHOWN_CHARS_MAX: usize = 300;

/// The API server as this pod may ask it.
#[derive(Clone)]
pub(super) struct Api(ApiServer);

impl Api {
    pub(super) fn new(config: &KubernetesApi) -> Result<Api, &'static str> {
        ApiServer::new(config).map(Api)
    }

    /// Reads an object.
    pub(super) async fn get(&self, call: &'static str, path: &str) -> Result<Answer, IssueError> {
        self.send(call, Request::get(self.url(call, path)?)).await
    }

    /// Makes an object.
    pub(super) async fn create(
        &self,
        call: &'static str,
        path: &str,
        object: &Value,
    ) -> Result<Answer, IssueError> {
        self.send(call, Request::post(self.url(call, path)?).json(object)).await
    }

    fn url(&self, call: &'static str, path: &str) -> Result<Url, IssueError> {
        self.0.url(path).map_err(|error| failed(call, error))
    }

    async fn send(&self, call: &'static str, request: Request) -> Result<Answer, IssueError> {
        self.0.send(request).await.map_err(|error| failed(call, error))
    }

    /// What an answer that is no success means.
    pub(super) fn refused(&self, call: &'static str, answer: &Answer) -> IssueError {
        let text = format!("{}: {}", answer.status, message(answer));
        let error = IssueError::retry(call, text).after(answer.retry_after);
        match answer.status {
            StatusCode::UNAUTHORIZED => error.hint(format!(
                "the API server does not take the token in {}: it must be projected without \
                 `audience`, and it ends with its pod",
                self.0.api().token_file.display()
            )),
            StatusCode::FORBIDDEN => error.hint(
                "bind the ClusterRole of docs/identity/kubernetes.md to this service account",
            ),
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST => error.hint(
                "the API server does not take the request as it is: compare `signerName` and \
                 `expirationSeconds` with what the cluster allows",
            ),
            StatusCode::TOO_MANY_REQUESTS => error.hint("the API server is busy"),
            _ => error,
        }
    }
}

/// The configuration names no server that can be asked; that does not change by itself.
pub(super) fn unusable(publisher: &Publisher, config: &KubernetesApi, problem: &str) {
    let failed = Failed {
        authority: &config.server,
        call: "read the configuration",
        answer: problem.to_owned(),
        hint: None,
    };
    publisher.failed(failed, NextTry::Never);
}

fn failed(call: &'static str, error: ApiServerError) -> IssueError {
    match error {
        ApiServerError::Address(problem) => IssueError::retry(call, problem),
        ApiServerError::Call(error) => IssueError::retry(call, error.to_string()),
        ApiServerError::Token(text) => IssueError::retry("read the token", text).hint(
            "project a serviceAccountToken without `audience` into this container; \
             see docs/identity/kubernetes.md",
        ),
    }
}

/// The `message` of a `Status`, or the beginning of whatever came.
fn message(answer: &Answer) -> String {
    #[derive(Deserialize)]
    struct Told {
        message: String,
    }
    match answer.json::<Told>() {
        Ok(told) => shown(&told.message),
        Err(_) => answer.shown(),
    }
}

/// A text of somebody else in one line that cannot do anything to a terminal.
pub(super) fn shown(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect()
}
