//! An app at the level of bytes: what it answers is written down by the test, so it can be older
//! than HTTP/1.1, switch protocols, lie or break off.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A running raw app; dropping it stops it.
pub struct RawApp {
    /// Where it listens.
    pub address: SocketAddr,
    heads: Arc<Mutex<Vec<String>>>,
    accepting: JoinHandle<()>,
}

/// One connection to a raw app.
pub struct Caller {
    /// The connection, for everything that is no head.
    pub stream: TcpStream,
    heads: Arc<Mutex<Vec<String>>>,
    unread: Vec<u8>,
}

impl RawApp {
    /// Serves each connection with `serve`.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn serving<F, Fut>(serve: F) -> RawApp
    where
        F: Fn(Caller) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        let accepting = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let _ = stream.set_nodelay(true);
                let heads = Arc::clone(&seen);
                tokio::spawn(serve(Caller { stream, heads, unread: Vec::new() }));
            }
        });
        RawApp { address, heads, accepting }
    }

    /// Answers every head with these bytes and keeps the connection.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn answering(answer: &'static str) -> RawApp {
        RawApp::serving(move |mut caller| async move {
            while caller.head().await.is_some() {
                caller.write(answer).await;
            }
        })
        .await
    }

    /// Agrees to every upgrade and sends back whatever comes then; other requests get 426.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn echo_after_upgrade() -> RawApp {
        RawApp::serving(|mut caller| async move {
            while let Some(head) = caller.head().await {
                let Some(token) = field(&head, "upgrade") else {
                    caller.write("HTTP/1.1 426 Upgrade Required\r\ncontent-length: 0\r\n\r\n").await;
                    continue;
                };
                let accept = field(&head, "sec-websocket-key").unwrap_or_default();
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {token}\r\n\
                     Sec-WebSocket-Accept: of-{accept}\r\n\r\n"
                );
                caller.write(&answer).await;
                return caller.echo().await;
            }
        })
        .await
    }

    /// Every head so far, as it came.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for RawApp {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Caller {
    /// The next request head with its empty line; `None` at the end.
    pub async fn head(&mut self) -> Option<String> {
        let end = loop {
            if let Some(end) = self.unread.windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            if self.stream.read_buf(&mut self.unread).await.ok()? == 0 {
                return None;
            }
        };
        let rest = self.unread.split_off(end);
        let head = String::from_utf8_lossy(&std::mem::replace(&mut self.unread, rest)).into_owned();
        self.heads.lock().unwrap_or_else(PoisonError::into_inner).push(head.clone());
        Some(head)
    }

    /// Exactly this many bytes of what follows a head; fewer at the end.
    pub async fn body(&mut self, length: usize) -> Vec<u8> {
        while self.unread.len() < length {
            match self.stream.read_buf(&mut self.unread).await {
                Ok(0) | Err(_) => break,
                Ok(_) => {}
            }
        }
        let rest = self.unread.split_off(length.min(self.unread.len()));
        std::mem::replace(&mut self.unread, rest)
    }

    /// Writes; a connection that is gone takes nothing.
    pub async fn write(&mut self, text: &str) {
        let _ = self.stream.write_all(text.as_bytes()).await;
        let _ = self.stream.flush().await;
    }

    /// Sends everything back until the other end is done, then ends too.
    pub async fn echo(mut self) {
        let _ = self.stream.write_all(&self.unread).await;
        let (mut read, mut write) = self.stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    }
}

/// A field of a raw head.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}
