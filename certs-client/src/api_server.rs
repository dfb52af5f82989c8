//! The API server of a Kubernetes cluster, as this pod may ask it: the one client of it.
//!
//! Invariant: our token is read again for each call, and goes to this server alone.

use countersign_config::KubernetesApi;

use crate::{
    credential,
    https::{Answer, Client, HttpsError, Request, Trust, Url},
};

/// Why there is no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ApiServerError {
    /// There is no such address.
    #[error("{0}")]
    Address(&'static str),
    /// What came back is no answer.
    #[error("{0}")]
    Call(HttpsError),
    /// Our own token cannot be read: the file, and why.
    #[error("{0}")]
    Token(String),
}

/// An API server, with everything needed to ask it.
#[derive(Clone)]
pub struct ApiServer {
    base: Url,
    client: Client,
    api: KubernetesApi,
}

impl ApiServer {
    /// The one a configuration names.
    ///
    /// # Errors
    /// Why its address cannot be asked.
    pub fn new(api: &KubernetesApi) -> Result<ApiServer, &'static str> {
        let base = Url::parse(&api.server)?;
        let client = Client::new(Trust::PemFile(api.ca.clone()));
        Ok(ApiServer { base, client, api: api.clone() })
    }

    /// The same with another largest answer.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes: usize) -> ApiServer {
        self.client = self.client.answer_bytes_max(bytes);
        self
    }

    /// What was configured.
    pub fn api(&self) -> &KubernetesApi {
        &self.api
    }

    /// The address of a path, for [`ApiServer::send`].
    ///
    /// # Errors
    /// Why there is no such address.
    pub fn url(&self, path: &str) -> Result<Url, ApiServerError> {
        self.base.below(path).map_err(ApiServerError::Address)
    }

    /// Asks once, with our token. Every status is an answer.
    ///
    /// # Errors
    /// What was asked, and what came instead of an answer.
    pub async fn send(&self, request: Request) -> Result<Answer, ApiServerError> {
        let token = credential::read(&self.api.token_file).map_err(ApiServerError::Token)?;
        self.client.send(request.bearer(&token)).await.map_err(ApiServerError::Call)
    }
}
