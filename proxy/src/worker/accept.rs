//! The accept loop of a worker's listeners: under the connection cap, until drain, and never past
//! what the kernel had queued by then.
//!
//! Invariant: each connection is counted as long as it is served, however that ends.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use countersign_config::limits;
use tokio::net::{TcpListener, TcpStream};

use super::{Side, Worker};
use crate::intercept::listen::{self, AcceptError};

/// Accepts until drain, then empties the kernel's queue so that no queued client is reset.
pub(super) fn spawn_accept<F, Fut>(
    worker: &Rc<Worker>,
    side: Side,
    socket: std::net::TcpListener,
    serve: F,
) -> tokio::task::JoinHandle<()>
where
    F: Fn(Rc<Worker>, TcpStream, SocketAddr) -> Fut + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let worker = Rc::clone(worker);
    tokio::task::spawn_local(async move {
        let spawn = |stream, from| {
            spawn_connection(worker.connections(side), serve(Rc::clone(&worker), stream, from));
        };
        match accept_until_drain(&worker, side, socket, spawn).await {
            Ok(listener) => accept_queued(listener, spawn),
            Err(error) => {
                tracing::error!(code = "DP-03", %error, "a listener does not accept");
                worker.shared.fail();
            }
        }
    })
}

async fn accept_until_drain(
    worker: &Worker,
    side: Side,
    socket: std::net::TcpListener,
    spawn: impl Fn(TcpStream, SocketAddr),
) -> std::io::Result<TcpListener> {
    let listener = TcpListener::from_std(socket)?;
    let drain = worker.drain(side);
    let make_room = || {
        worker.metrics.limit_hit("NOFILE");
        worker.pool.shed_idle();
    };
    loop {
        tokio::select! {
            accepted = listen::accept(&listener, make_room) => {
                let (stream, from) = accepted?;
                spawn(stream, from);
            }
            () = drain.cancelled() => return Ok(listener),
        }
        if !worker.has_room(side) {
            worker.metrics.limit_hit("CONNS_MAX");
            wait_for_room(worker, side).await;
        }
    }
}

/// Accepts what the kernel has queued, then closes the listener. Asks the socket itself: tokio's
/// readiness may not have heard of the newest connections.
fn accept_queued(listener: TcpListener, spawn: impl Fn(TcpStream, SocketAddr)) {
    let Ok(socket) = listener.into_std() else { return };
    for _ in 0..limits::LISTEN_BACKLOG_MAX {
        match socket.accept() {
            Ok((stream, from)) => {
                let stream =
                    stream.set_nonblocking(true).and_then(|()| TcpStream::from_std(stream));
                if let Ok(stream) = stream {
                    spawn(stream, from);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return,
            Err(error) if listen::classify(&error) == AcceptError::Connection => {}
            Err(_) => return,
        }
    }
}

/// One open connection, counted until it ends, even by a panic.
struct Open(Rc<Cell<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

fn spawn_connection(count: &Rc<Cell<usize>>, serve: impl Future<Output = ()> + 'static) {
    count.set(count.get() + 1);
    let open = Open(Rc::clone(count));
    tokio::task::spawn_local(async move {
        let _open = open;
        serve.await;
    });
}

/// At the cap the loop stops accepting; the kernel's queue holds the newcomers.
async fn wait_for_room(worker: &Worker, side: Side) {
    while !worker.has_room(side) && !worker.drain(side).is_cancelled() {
        tokio::time::sleep(Duration::from_millis(limits::ACCEPT_BACKOFF_MS_MIN)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::io::Read as _;

    use super::*;

    fn run<T>(work: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build_local(tokio::runtime::LocalOptions::default());
        runtime.expect("a runtime").block_on(work)
    }

    #[test]
    fn a_connection_that_panics_is_counted_out() {
        run(async {
            let count = Rc::new(Cell::new(0));
            spawn_connection(&count, async { panic!("as a test") });
            spawn_connection(&count, std::future::pending());
            assert_eq!(count.get(), 2);
            tokio::time::sleep(Duration::from_millis(20)).await;
            assert_eq!(count.get(), 1);
        });
    }

    #[test]
    fn the_queue_is_emptied_before_the_listener_closes() {
        run(async {
            let any = "127.0.0.1:0".parse().expect("an address");
            let socket = listen::bind(any, "test").expect("a socket");
            let address = socket.local_addr().expect("its address");
            let listener = TcpListener::from_std(socket).expect("a listener");
            // The runtime has had no turn to hear of these.
            let queued: Vec<_> = (0..20)
                .map(|_| std::net::TcpStream::connect(address).expect("a connection"))
                .collect();
            let accepted = RefCell::new(Vec::new());
            accept_queued(listener, |stream, _| accepted.borrow_mut().push(stream));
            assert_eq!(accepted.borrow().len(), 20);
            drop(accepted);
            for mut client in queued {
                assert_eq!(client.read(&mut [0]).expect("closed, not reset"), 0);
            }
            assert!(std::net::TcpStream::connect(address).is_err());
        });
    }
}
