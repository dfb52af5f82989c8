//! What is asked. Headers and bodies carry credentials: they are never printed.

use std::fmt;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use http_body_util::Full;

use super::{Url, error::Problem};

/// A request of the control plane.
#[derive(Clone)]
pub struct Request {
    method: Method,
    url: Url,
    headers: Vec<(HeaderName, String)>,
    body: Option<(&'static str, Bytes)>,
}

impl Request {
    /// `GET`.
    pub fn get(url: Url) -> Request {
        Request::new(Method::GET, url)
    }

    /// `POST`; give it a body.
    pub fn post(url: Url) -> Request {
        Request::new(Method::POST, url)
    }

    /// `PUT`; give it a body.
    pub fn put(url: Url) -> Request {
        Request::new(Method::PUT, url)
    }

    /// Any method.
    pub fn new(method: Method, url: Url) -> Request {
        Request { method, url, headers: Vec::new(), body: None }
    }

    /// The same with a header more. Its value is checked when the request is sent.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: impl Into<String>) -> Request {
        self.headers.push((name, value.into()));
        self
    }

    /// The same with a bearer token.
    #[must_use]
    pub fn bearer(self, token: &str) -> Request {
        self.header(header::AUTHORIZATION, format!("Bearer {token}"))
    }

    /// The same with a JSON body.
    #[must_use]
    pub fn json(self, value: &serde_json::Value) -> Request {
        self.body("application/json", value.to_string())
    }

    /// The same with a body.
    #[must_use]
    pub fn body(mut self, content_type: &'static str, bytes: impl Into<Bytes>) -> Request {
        self.body = Some((content_type, bytes.into()));
        self
    }

    pub(super) fn method(&self) -> &Method {
        &self.method
    }

    pub(super) fn url(&self) -> &Url {
        &self.url
    }

    pub(super) fn is_get(&self) -> bool {
        self.method == Method::GET
    }

    /// The request as hyper sends it, for `url`, which a redirect may have changed. Credentials go
    /// to the host that was asked, not to the one it names.
    pub(super) fn message(&self, url: &Url) -> Result<http::Request<Full<Bytes>>, Problem> {
        let mut builder = http::Request::builder()
            .method(self.method.clone())
            .uri(url.path_and_query())
            .header(header::HOST, url.authority())
            .header(header::CONNECTION, "close");
        if !self.headers.iter().any(|(name, _)| name == header::ACCEPT) {
            builder = builder.header(header::ACCEPT, "application/json");
        }
        let same_host =
            url.authority() == self.url.authority() && url.is_https() == self.url.is_https();
        for (name, value) in &self.headers {
            let mut value = HeaderValue::from_str(value).map_err(|_| {
                Problem::Request(format!("the value of `{name}` holds bytes no header may have"))
            })?;
            value.set_sensitive(true);
            if same_host || name == header::ACCEPT {
                builder = builder.header(name, value);
            }
        }
        let body = match &self.body {
            Some((content_type, bytes)) => {
                builder = builder.header(header::CONTENT_TYPE, *content_type);
                bytes.clone()
            }
            None => Bytes::new(),
        };
        builder.body(Full::new(body)).map_err(|error| Problem::Request(error.to_string()))
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Request({} {})", self.method, self.url)
    }
}
