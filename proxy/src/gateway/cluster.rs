//! The API server a gateway's document means: what the document leaves out is found as in any pod.

use std::path::PathBuf;

use countersign_certs_client::api_server::{ApiServer, ApiServerError};
use countersign_certs_client::https::{Answer, Request};
use countersign_config::KubernetesApi;
use countersign_policy::doc::{self, FileRef};
use serde_json::Value;

/// Where the API server is, and how to prove to it who we are.
///
/// # Errors
/// A sentence, when the document leaves the address out and this process is in no cluster.
pub(super) fn of(document: &doc::ApiServer) -> Result<KubernetesApi, String> {
    let own = |file: &Option<FileRef>, name: &str| {
        let default = || PathBuf::from(KubernetesApi::POD_FILES).join(name);
        file.as_ref().map_or_else(default, FileRef::resolve)
    };
    let server = document.server.clone().or_else(KubernetesApi::server_of_this_pod);
    let server = server.ok_or(
        "`server` is not written, and this process is in no cluster \
         (KUBERNETES_SERVICE_HOST is not set)",
    )?;
    let (ca, token_file) = (own(&document.ca, "ca.crt"), own(&document.token_file, "token"));
    Ok(KubernetesApi { server, ca, token_file })
}

/// `GET` of a path, whatever the type of what is there.
///
/// # Errors
/// Who was asked what, and what came.
pub(super) async fn get(api: &KubernetesApi, path: &str) -> Result<Answer, String> {
    let server = server(api)?;
    let url = server.url(path).map_err(|error| failed(api, &error))?;
    let request = Request::get(url).header(http::header::ACCEPT, "*/*");
    server.send(request).await.map_err(|error| failed(api, &error))
}

/// `POST` of an object.
///
/// # Errors
/// Who was asked what, and what came.
pub(super) async fn post(
    api: &KubernetesApi,
    path: &str,
    object: &Value,
) -> Result<Answer, String> {
    let server = server(api)?;
    let url = server.url(path).map_err(|error| failed(api, &error))?;
    server.send(Request::post(url).json(object)).await.map_err(|error| failed(api, &error))
}

fn server(api: &KubernetesApi) -> Result<ApiServer, String> {
    ApiServer::new(api).map_err(|problem| format!("`{}` is not asked: {problem}", api.server))
}

fn failed(api: &KubernetesApi, error: &ApiServerError) -> String {
    match error {
        ApiServerError::Address(problem) => format!("`{}` is not asked: {problem}", api.server),
        ApiServerError::Call(error) => error.to_string(),
        ApiServerError::Token(text) => format!("our own token for {}: {text}", api.server),
    }
}
