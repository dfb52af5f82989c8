//! A URL that may be asked: `https`, or `http`; a host, no user name, no fragment.

use std::{fmt, net::IpAddr};

use http::{Uri, uri::Scheme};

/// A URL of the control plane.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url {
    uri: Uri,
}

impl Url {
    /// Reads one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Url, &'static str> {
        if text.contains('#') {
            return Err("it has a fragment");
        }
        let uri: Uri = text.parse().map_err(|_| "it is not a URL")?;
        let Some(authority) = uri.authority() else { return Err("it names no host") };
        if authority.as_str().contains('@') {
            return Err("it names a user");
        }
        if uri.host().is_none_or(str::is_empty) {
            return Err("it names no host");
        }
        if uri.scheme() != Some(&Scheme::HTTPS) && uri.scheme() != Some(&Scheme::HTTP) {
            return Err("only https:// can be asked");
        }
        Ok(Url { uri })
    }

    /// This URL with a path below its own: `https://host/prefix` and `/v1/x` give
    /// `https://host/prefix/v1/x`.
    ///
    /// # Errors
    /// When the result is no URL.
    pub fn below(&self, path: &str) -> Result<Url, &'static str> {
        let prefix = self.uri.path().trim_end_matches('/');
        let authority = self.authority();
        Url::parse(&format!("{}://{authority}{prefix}{path}", self.scheme()))
    }

    /// Where a `Location` leads from here.
    ///
    /// # Errors
    /// When it is neither a URL nor an absolute path.
    pub fn join(&self, location: &str) -> Result<Url, &'static str> {
        if location.starts_with("//") {
            return Url::parse(&format!("{}:{location}", self.scheme()));
        }
        if location.starts_with('/') {
            return Url::parse(&format!("{}://{}{location}", self.scheme(), self.authority()));
        }
        Url::parse(location)
    }

    /// Whether the server proves who it is.
    pub fn is_https(&self) -> bool {
        self.uri.scheme() == Some(&Scheme::HTTPS)
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, written or implied.
    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_https() { 443 } else { 80 })
    }

    /// Host and port as they are written.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// Path and query.
    pub fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }

    /// Whether its host can only be this machine.
    pub fn is_loopback(&self) -> bool {
        let address = self.host().parse::<IpAddr>();
        self.host() == "localhost" || address.is_ok_and(|address| address.is_loopback())
    }

    fn scheme(&self) -> &str {
        self.uri.scheme_str().unwrap_or("https")
    }
}

impl fmt::Display for Url {
    /// Without the query, which may hold more than people should read.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority(), self.uri.path())
    }
}
