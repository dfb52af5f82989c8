//! Thousands of connections, opened and then left alone, in a process of their own.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use futures_util::stream::{StreamExt as _, TryStreamExt as _};
use rustls::ClientConfig;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::client::{Call, Conn};
use crate::process::Process;
use crate::{Leaf, tls, wait};

/// What the holder prints once all connections are open.
pub const HOLDING: &str = "holding";

/// Connections opened at a time.
const AT_A_TIME: usize = 64;

/// What each connection has done before it falls silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One HTTP/1.1 request in plaintext.
    Http1,
    /// A mutual TLS handshake as a mesh peer and one HTTP/2 request.
    Mesh,
    /// A mutual TLS handshake as a mesh peer for opaque bytes, some of them there and back.
    MeshTcp,
    /// Some opaque bytes in plaintext, there and back.
    Tcp,
    /// Half a ClientHello.
    HalfOpen,
}

impl Kind {
    const ALL: [(&'static str, Kind); 5] = [
        ("http1", Kind::Http1),
        ("mesh", Kind::Mesh),
        ("mesh-tcp", Kind::MeshTcp),
        ("tcp", Kind::Tcp),
        ("half-open", Kind::HalfOpen),
    ];

    fn name(self) -> &'static str {
        Kind::ALL.iter().find(|(_, kind)| *kind == self).map_or("", |(name, _)| name)
    }
}

/// What a holder is told to do.
pub struct Order {
    kind: Kind,
    address: SocketAddr,
    count: usize,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Order {
    /// `KIND ADDRESS COUNT [CERTIFICATE KEY]`.
    ///
    /// # Errors
    /// When it is something else.
    pub fn parse(arguments: &[String]) -> Result<Order> {
        let [kind, address, count, identity @ ..] = arguments else {
            bail!("KIND ADDRESS COUNT [CERTIFICATE KEY]");
        };
        let known = Kind::ALL.iter().find(|(name, _)| name == kind);
        let (_, kind) = known.with_context(|| format!("no kind `{kind}`"))?;
        let identity = match identity {
            [certificate, key] => Some((certificate.into(), key.into())),
            _ => None,
        };
        Ok(Order { kind: *kind, address: address.parse()?, count: count.parse()?, identity })
    }

    fn config(&self, alpn: &[u8]) -> Result<Arc<ClientConfig>> {
        let (certificate, key) = self.identity.as_ref().context("a mesh peer has an identity")?;
        Ok(tls::client(Some(&Leaf::read(certificate, key)?), &[alpn]))
    }
}

/// An open connection of any kind.
pub enum Held {
    /// HTTP.
    Http(Conn),
    /// Bytes in plaintext.
    Plain(TcpStream),
    /// Bytes inside TLS.
    Tls(Box<tokio_rustls::client::TlsStream<TcpStream>>),
}

/// Opens all connections.
///
/// # Errors
/// When one of them cannot be opened or is not answered.
pub async fn open(order: &Order) -> Result<Vec<Held>> {
    let config = match order.kind {
        Kind::Mesh => Some(order.config(tls::MESH_H2)?),
        Kind::MeshTcp => Some(order.config(b"countersign/tcp")?),
        Kind::Http1 | Kind::Tcp | Kind::HalfOpen => None,
    };
    let one = |_| one(order.kind, order.address, config.clone());
    futures_util::stream::iter(0..order.count)
        .map(one)
        .buffer_unordered(AT_A_TIME)
        .try_collect()
        .await
}

async fn one(kind: Kind, address: SocketAddr, config: Option<Arc<ClientConfig>>) -> Result<Held> {
    let opened = async {
        Ok(match (kind, config) {
            (Kind::Mesh, Some(config)) => {
                Held::Http(asked(Conn::tls(address, config).await?).await?)
            }
            (Kind::MeshTcp, Some(config)) => {
                let mut stream = crate::client::tls_stream(address, config).await?;
                echoed(&mut stream).await?;
                Held::Tls(Box::new(stream))
            }
            (Kind::Tcp, _) => {
                let mut stream = TcpStream::connect(address).await?;
                echoed(&mut stream).await?;
                Held::Plain(stream)
            }
            (Kind::HalfOpen, _) => {
                let mut stream = TcpStream::connect(address).await?;
                // The start of a handshake record of 512 bytes, and of its ClientHello.
                stream.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3]).await?;
                Held::Plain(stream)
            }
            (Kind::Http1, _) => Held::Http(asked(Conn::h1(address).await?).await?),
            (Kind::Mesh | Kind::MeshTcp, None) => bail!("a mesh peer has an identity"),
        })
    };
    // A full accept queue makes the kernel try again after a second, three, seven.
    tokio::time::timeout(4 * wait::DEADLINE, opened).await.context("no answer")?
}

async fn asked(mut conn: Conn) -> Result<Conn> {
    let reply = conn.send(Call::get("orders.shop", "/held")).await?;
    anyhow::ensure!(reply.status < 500, "{} {}", reply.status, reply.text());
    Ok(conn)
}

async fn echoed<IO>(io: &mut IO) -> Result<()>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    io.write_all(b"\x01hold").await?;
    io.flush().await?;
    let mut answer = [0; 5];
    io.read_exact(&mut answer).await?;
    Ok(())
}

/// A holder in its own process, with all its connections open.
pub struct Holder {
    _process: Process,
}

impl Holder {
    /// Starts `program`, the holder, and waits until everything is open.
    ///
    /// # Panics
    /// When it fails.
    pub async fn start(
        program: &str,
        folder: &Path,
        (kind, address, count): (Kind, SocketAddr, usize),
        leaf: Option<&Leaf>,
    ) -> Holder {
        let name = format!("hold-{}-{}-{count}", kind.name(), address.port());
        let mut command = Command::new(program);
        command.args([kind.name(), &address.to_string(), &count.to_string()]);
        if let Some(leaf) = leaf {
            let (certificate, key) = leaf.write(folder, &name);
            command.arg(certificate).arg(key);
        }
        let process = Process::start(&name, command, folder);
        wait::until_within(Duration::from_secs(300), &name, || {
            if let Some(status) = process.exit_status() {
                panic!("{name} ended with {status}\n{}", process.tail());
            }
            std::future::ready(process.stdout().contains(HOLDING).then_some(()))
        })
        .await;
        Holder { _process: process }
    }
}
