//! How a gateway reaches the API server of a Kubernetes cluster: address, CA, own credential. What
//! a document leaves out is found as in any pod.
//!
//! Invariant: the credential is read again at each call and goes to this server only.

use std::path::PathBuf;

use countersign_certs_client::https::{Answer, Client, Request, Trust, Url};
use countersign_config::env;
use countersign_config::limits::CONTROL_ANSWER_BYTES_MAX;
use countersign_policy::doc::{ApiServer, FileRef};
use serde_json::Value;
use zeroize::Zeroizing;

/// Where Kubernetes puts a pod's own files.
const POD_FILES: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// An API server, with everything needed to ask it.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub struct Cluster {
    /// `https://host:port`.
    pub server: String,
    /// File of its CA.
    pub ca: PathBuf,
    /// File of the token to ask with.
    pub token_file: PathBuf,
}

impl Cluster {
    /// The one a document means.
    ///
    /// # Errors
    /// A sentence, when the document leaves the address out and this process is in no cluster.
    pub fn of(document: &ApiServer) -> Result<Cluster, String> {
        let own = |file: &Option<FileRef>, name: &str| {
            file.as_ref().map_or_else(|| PathBuf::from(POD_FILES).join(name), FileRef::resolve)
        };
        let server = match &document.server {
            Some(server) => server.clone(),
            None => in_this_pod()?,
        };
        let (ca, token_file) = (own(&document.ca, "ca.crt"), own(&document.token_file, "token"));
        Ok(Cluster { server, ca, token_file })
    }

    /// `GET` of a path.
    ///
    /// # Errors
    /// Who was asked what, and what came.
    pub async fn get(&self, path: &str) -> Result<Answer, String> {
        self.ask(Request::get(self.url(path)?).header(http::header::ACCEPT, "*/*")).await
    }

    /// `POST` of an object.
    ///
    /// # Errors
    /// Who was asked what, and what came.
    pub async fn post(&self, path: &str, object: &Value) -> Result<Answer, String> {
        self.ask(Request::post(self.url(path)?).json(object)).await
    }

    fn url(&self, path: &str) -> Result<Url, String> {
        let url = Url::parse(&self.server).and_then(|url| url.below(path));
        url.map_err(|problem| format!("`{}` is not asked: {problem}", self.server))
    }

    async fn ask(&self, request: Request) -> Result<Answer, String> {
        let token = self.token()?;
        let client = Client::new(Trust::PemFile(self.ca.clone()));
        client.send(request.bearer(&token)).await.map_err(|error| error.to_string())
    }

    fn token(&self) -> Result<Zeroizing<String>, String> {
        use std::io::Read as _;
        let failed = |error: &dyn std::fmt::Display| {
            format!("our own token for {}: {}: {error}", self.server, self.token_file.display())
        };
        let file = std::fs::File::open(&self.token_file).map_err(|error| failed(&error))?;
        let limit = u64::try_from(CONTROL_ANSWER_BYTES_MAX).unwrap_or(u64::MAX);
        let mut text = Zeroizing::new(String::new());
        file.take(limit).read_to_string(&mut text).map_err(|error| failed(&error))?;
        match text.trim() {
            "" => Err(failed(&"the file is empty")),
            token => Ok(Zeroizing::new(token.to_owned())),
        }
    }
}

fn in_this_pod() -> Result<String, String> {
    let missing = "`server` is not written, and this process is in no cluster \
                   (KUBERNETES_SERVICE_HOST is not set)";
    let host = env::KUBERNETES_SERVICE_HOST.get().ok_or(missing)?;
    let port = env::KUBERNETES_SERVICE_PORT.get().unwrap_or_else(|| "443".to_owned());
    let bare_v6 = host.contains(':') && !host.starts_with('[');
    let host = if bare_v6 { format!("[{host}]") } else { host };
    Ok(format!("https://{host}:{port}"))
}
