//! Apps that speak no HTTP: each connection is handed to a function on a thread of its own.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

type Serving = Pin<Box<dyn Future<Output = std::io::Result<()>>>>;
type Serve = Arc<dyn Fn(TcpStream) -> Serving + Send + Sync>;

/// A running server of bytes; dropping it stops it.
pub struct BytesApp {
    /// Where it listens.
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
    _stop: oneshot::Sender<()>,
}

impl BytesApp {
    /// Sends everything back, and ends when the client has.
    pub fn echo() -> BytesApp {
        BytesApp::serving(|mut stream| Box::pin(async move { echo(&mut stream).await }))
    }

    /// [`BytesApp::echo`] on a listener of somebody's.
    pub fn echo_on(listener: std::net::TcpListener) -> BytesApp {
        BytesApp::on(listener, |mut stream| Box::pin(async move { echo(&mut stream).await }))
    }

    /// Speaks first, as databases and mail servers do, and then sends everything back.
    pub fn greeting(greeting: &'static [u8]) -> BytesApp {
        BytesApp::greeting_on(any(), greeting)
    }

    /// [`BytesApp::greeting`] on a listener of somebody's.
    pub fn greeting_on(listener: std::net::TcpListener, greeting: &'static [u8]) -> BytesApp {
        BytesApp::on(listener, move |mut stream| {
            Box::pin(async move {
                stream.write_all(greeting).await?;
                echo(&mut stream).await
            })
        })
    }

    /// Does what `serve` says with every connection.
    pub fn serving(serve: impl Fn(TcpStream) -> Serving + Send + Sync + 'static) -> BytesApp {
        BytesApp::on(any(), serve)
    }

    /// [`BytesApp::serving`] on a listener of somebody's.
    ///
    /// # Panics
    /// When the listener cannot be used.
    pub fn on(
        listener: std::net::TcpListener,
        serve: impl Fn(TcpStream) -> Serving + Send + Sync + 'static,
    ) -> BytesApp {
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let accepted = Arc::new(AtomicUsize::new(0));
        let (count, serve): (_, Serve) = (Arc::clone(&accepted), Arc::new(serve));
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime.unwrap(), async move {
                let listener = TcpListener::from_std(listener).unwrap();
                tokio::select! {
                    () = accept(listener, &count, &serve) => {}
                    _ = stopped => {}
                }
            });
        });
        BytesApp { address, accepted, _stop: stop }
    }

    /// How many connections came.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }
}

/// Whether a connection that carries `bytes` is reset without an answer: while it is opened, while
/// it is written to, or afterwards.
///
/// # Panics
/// When it stays open.
pub async fn is_cut_off(
    opening: impl Future<Output = std::io::Result<TcpStream>>,
    bytes: &[u8],
) -> bool {
    let exchange = async {
        let mut stream = opening.await?;
        // A reset that came first is told here, and only once.
        stream.write_all(bytes).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await
    };
    let outcome = crate::wait::ends("a connection that is refused", exchange).await;
    outcome.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
}

fn any() -> std::net::TcpListener {
    std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()
}

async fn accept(listener: TcpListener, count: &AtomicUsize, serve: &Serve) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        count.fetch_add(1, Ordering::Relaxed);
        tokio::task::spawn_local(serve(stream));
    }
}

async fn echo(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = stream.read(&mut buffer).await?;
        if count == 0 {
            return stream.shutdown().await;
        }
        stream.write_all(&buffer[..count]).await?;
    }
}
