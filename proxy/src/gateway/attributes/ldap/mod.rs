//! The groups of a user in a directory: one search on a connection of its own.
//!
//! Invariants: what is read is bounded, in one message and in all; a search that did not end well
//! names no groups at all; without TLS only this machine is asked; the password is read for every
//! connection and printed by nobody.

mod ber;
mod message;

use std::io::Read as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use countersign_config::limits::{LDAP_ANSWER_BYTES_MAX, LDAP_ENTRIES_MAX, LDAP_MESSAGE_BYTES_MAX};
use countersign_policy::doc::{LdapSearch, LdapSecurity};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

use self::message::{Outcome, Said};
use super::{Answer, Question};

/// Longest password of ours.
const PASSWORD_BYTES_MAX: u64 = 4 * 1024;
/// Seconds a directory may search; whoever waits has given up long before.
const SEARCH_S_MAX: u32 = 5;

/// Looks the groups of a user up.
pub(super) async fn groups(search: &LdapSearch, question: &Question) -> Result<Answer, String> {
    let place = format!("{}:{}", search.host, search.port);
    let failed = |why: String| format!("directory {place}: {why}");
    let stream = connect(search).await.map_err(failed)?;
    let found = match search.security {
        LdapSecurity::Plain => Session::new(stream).groups(search, question, 1).await,
        LdapSecurity::Ldaps => {
            let stream = encrypt(stream, search).await.map_err(failed)?;
            Session::new(stream).groups(search, question, 1).await
        }
        LdapSecurity::StartTls => {
            let mut plain = Session::new(stream);
            plain.start_tls().await.map_err(failed)?;
            let stream = encrypt(plain.stream, search).await.map_err(failed)?;
            Session::new(stream).groups(search, question, 2).await
        }
    };
    found.map(|groups| Answer::Groups(kept(groups, &search.keep))).map_err(failed)
}

/// The groups that count, sorted, each once.
fn kept(found: Vec<Vec<u8>>, keep: &[String]) -> Vec<String> {
    let text = |name: Vec<u8>| String::from_utf8(name).ok();
    let mut groups: Vec<String> =
        found.into_iter().filter_map(text).filter(|name| keep.contains(name)).collect();
    groups.sort();
    groups.dedup();
    groups
}

async fn connect(search: &LdapSearch) -> Result<TcpStream, String> {
    let found = lookup_host((search.host.as_str(), search.port)).await;
    let found = found.map_err(|error| format!("it is not found: {error}"))?;
    // `localhost` may resolve to anything; without TLS only this machine is asked.
    let plain = search.security == LdapSecurity::Plain;
    let permitted = |address: &SocketAddr| !plain || address.ip().is_loopback();
    let mut last = "it has no address that may be asked".to_owned();
    for address in found.filter(permitted).take(4) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
}

async fn encrypt(
    stream: TcpStream,
    search: &LdapSearch,
) -> Result<tokio_rustls::client::TlsStream<TcpStream>, String> {
    let roots = match &search.roots {
        Some(file) => from_file(&file.resolve())?,
        None => of_the_system().await,
    };
    let config = ClientConfig::builder_with_provider(crate::tls::provider(&[]))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(search.host.clone());
    let name = name.map_err(|_| "its host is not a name a certificate can carry".to_owned())?;
    let connector = TlsConnector::from(Arc::new(config));
    connector.connect(name, stream).await.map_err(|error| format!("tls: {error}"))
}

fn from_file(file: &Path) -> Result<RootCertStore, String> {
    let failed = |why: String| format!("its authorities, {}: {why}", file.display());
    let mut store = RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|e| failed(e.to_string()))?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| failed(error.to_string()))?;
        store.add(certificate).map_err(|error| failed(error.to_string()))?;
    }
    if store.is_empty() { Err(failed("it holds no certificate".to_owned())) } else { Ok(store) }
}

/// Reading a few hundred files takes a while, so not on the thread that runs everything else.
async fn of_the_system() -> RootCertStore {
    let read = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let mut store = RootCertStore::empty();
    if let Ok(native) = read {
        store.add_parsable_certificates(native.certs);
    }
    store
}

fn password(file: &Path) -> Result<Zeroizing<Vec<u8>>, String> {
    let failed = |error: std::io::Error| format!("our password, {}: {error}", file.display());
    let mut bytes = Zeroizing::new(Vec::new());
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(PASSWORD_BYTES_MAX).read_to_end(&mut bytes).map_err(failed)?;
    while bytes.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
        bytes.pop();
    }
    // An empty password would be an anonymous bind that succeeds for any name (RFC 4513 §5.1.2).
    if bytes.is_empty() {
        Err(format!("our password, {}: it is empty", file.display()))
    } else {
        Ok(bytes)
    }
}

/// One connection to a directory.
struct Session<S> {
    stream: S,
    read: Vec<u8>,
    /// Bytes of all messages that came.
    came: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Session<S> {
    fn new(stream: S) -> Session<S> {
        Session { stream, read: Vec::new(), came: 0 }
    }

    async fn send(&mut self, message: &[u8]) -> Result<(), String> {
        let sent = self.stream.write_all(message).await;
        sent.map_err(|error| error.to_string())?;
        self.stream.flush().await.map_err(|error| error.to_string())
    }

    /// The next message, whole.
    async fn receive(&mut self, number: u32, attribute: &str) -> Result<Said, String> {
        let whole = loop {
            match ber::length(&self.read, LDAP_MESSAGE_BYTES_MAX)? {
                Some(whole) if self.read.len() >= whole => break whole,
                Some(_) | None => {}
            }
            match self.stream.read_buf(&mut self.read).await {
                Ok(0) => return Err("it closed the connection".to_owned()),
                Ok(count) => self.came = self.came.saturating_add(count),
                Err(error) => return Err(error.to_string()),
            }
            if self.came > LDAP_ANSWER_BYTES_MAX {
                return Err(format!("its answer is longer than {LDAP_ANSWER_BYTES_MAX} bytes"));
            }
        };
        let rest = self.read.split_off(whole);
        let message = std::mem::replace(&mut self.read, rest);
        let (about, said) = message::read(&message, attribute)?;
        if about != number {
            return Err("it answers something nobody asked".to_owned());
        }
        Ok(said)
    }

    async fn start_tls(&mut self) -> Result<(), String> {
        self.send(&message::start_tls(1)).await?;
        match self.receive(1, "").await? {
            // Whatever else came before the handshake came from nobody who proved anything.
            Said::Extended(Outcome { code: 0 }) if self.read.is_empty() => Ok(()),
            Said::Extended(Outcome { code: 0 }) => Err("it speaks before TLS began".to_owned()),
            Said::Extended(Outcome { code }) => Err(format!("it refuses StartTLS (result {code})")),
            _ => Err("it answers something nobody asked".to_owned()),
        }
    }

    async fn groups(
        mut self,
        search: &LdapSearch,
        question: &Question,
        mut number: u32,
    ) -> Result<Vec<Vec<u8>>, String> {
        let limits = (u32::try_from(LDAP_ENTRIES_MAX).unwrap_or(u32::MAX), SEARCH_S_MAX);
        // Made first: what cannot be asked needs no bind.
        let asked = message::search(number.saturating_add(1), search, question, limits)?;
        if let Some(bind) = &search.bind {
            let password = password(&bind.password.resolve())?;
            let message = Zeroizing::new(message::bind(number, &bind.dn, &password));
            self.send(&message).await?;
            match self.receive(number, "").await? {
                Said::Bound(Outcome { code: 0 }) => {}
                Said::Bound(Outcome { code }) => {
                    return Err(format!("it refuses our bind as {} (result {code})", bind.dn));
                }
                _ => return Err("it answers something nobody asked".to_owned()),
            }
        }
        number = number.saturating_add(1);
        self.send(&asked).await?;
        let mut found = Vec::new();
        loop {
            match self.receive(number, &search.attribute).await? {
                Said::Entry(values) => found.extend(values),
                Said::Reference => {}
                Said::Done(Outcome { code: 0 }) => break,
                Said::Done(Outcome { code }) => {
                    return Err(format!("its search ended with result {code}"));
                }
                Said::Bound(_) | Said::Extended(_) => {
                    return Err("it answers something nobody asked".to_owned());
                }
            }
            if found.len() > LDAP_ENTRIES_MAX {
                return Err(format!("it names more than {LDAP_ENTRIES_MAX} groups"));
            }
        }
        // What was asked is answered; nobody waits for the goodbye.
        _ = self.send(&message::unbind(number.saturating_add(1))).await;
        Ok(found)
    }
}
