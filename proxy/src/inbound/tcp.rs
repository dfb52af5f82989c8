//! One opaque connection to the app: policy on what is known without a request, then bytes.
//!
//! Invariant: nothing reaches the app before policy has let the connection in and its record is
//! kept; a port with rules that look into requests takes no opaque connection at all.

use std::net::SocketAddr;
use std::time::Duration;

use countersign_config::limits;
use countersign_policy::doc::PortProtocol;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::inbound::connection::Connection;
use crate::inbound::decide;
use crate::intercept::watched::Watched;
use crate::journal::OpaqueJournal;
use crate::judged;
use crate::live::Snapshot;
use crate::refusal::{Refusal, Refused, Stage};
use crate::registry::Registered;
use crate::relay::{self, OnTcp, reset};
use crate::telemetry::Direction;
use crate::upstream::dial;

/// Serves the connection to its end.
pub(super) async fn serve<IO>(conn: Connection, client: IO)
where
    IO: AsyncRead + AsyncWrite + OnTcp + Unpin,
{
    let declared = conn.app_port().is_some_and(|app| app.protocol == Some(PortProtocol::Tcp));
    let mut client = Watched::new(client, declared);
    let snap = conn.worker().snapshot();
    let mut journal = account(&conn, &snap);
    // Boxed: what is large here is over when bytes begin to flow.
    let (mut app, registered) = match Box::pin(open(&conn, &snap, &mut journal)).await {
        Ok(opened) => opened,
        Err(refused) => {
            reset(&client);
            return journal.refused(&refused);
        }
    };
    // What lasts keeps no snapshot alive.
    drop(snap);
    let limits = conn.worker().relay(Direction::Inbound);
    journal.counting(&limits.moved);
    let end = relay::run(&mut client, &mut app, &limits, registered.ended()).await;
    journal.closed(&end, &client, &app);
}

/// Refuses a connection whose bytes, or whose protocol, cannot be served.
pub(super) async fn refuse<IO: OnTcp>(conn: Connection, client: IO, refused: &Refused) {
    reset(&client);
    account(&conn, &conn.worker().snapshot()).refused(refused);
}

fn account(conn: &Connection, snap: &Snapshot) -> OpaqueJournal {
    let mut journal = OpaqueJournal::open(conn.worker(), snap, Direction::Inbound, conn.port());
    journal.peer(conn.peer());
    journal
}

async fn open(
    conn: &Connection,
    snap: &Snapshot,
    journal: &mut OpaqueJournal,
) -> Result<(TcpStream, Registered), Refused> {
    let now = journal.started;
    let (permit, input) = decide::authorize_connection(conn, snap, now, journal)?;
    journal.let_in().await?;
    let decision = permit.decision();
    let registered = judged::opaque(conn.worker(), conn.peer(), input, decision, snap);
    conn.registered().stood_for();
    Ok((dial_app(conn).await?, registered))
}

/// An app that is just starting gets a few seconds to listen.
async fn dial_app(conn: &Connection) -> Result<TcpStream, Refused> {
    let (app, client) = (conn.app(), conn.captured().client().0);
    let mut waited_ms = 0;
    let mut pause_ms = 100;
    loop {
        let refused = match dial_once(conn, app, client).await {
            Ok(stream) => return Ok(stream),
            Err(refused) => refused,
        };
        if waited_ms >= limits::APP_WAIT_MS_MAX {
            return Err(refused);
        }
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        waited_ms += pause_ms;
        pause_ms = (pause_ms * 2).min(1_000);
    }
}

async fn dial_once(
    conn: &Connection,
    app: SocketAddr,
    client: SocketAddr,
) -> Result<TcpStream, Refused> {
    let refuse = |detail| Refused::new(Refusal::AppNotListening, Stage::Forward, detail);
    let limit = Duration::from_millis(limits::CONNECT_APP_MS_MAX);
    let dialling = dial::app(app, client, &conn.worker().shared.config);
    match tokio::time::timeout(limit, dialling).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(error)) => Err(refuse(format!("could not connect to {app}: {error}"))),
        Err(_) => Err(refuse(format!("no connection to {app} within {limit:?}"))),
    }
}
