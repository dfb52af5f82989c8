//! A handshake that begins before its root goes and ends after it.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use countersign_integration::client::{Call, Conn};
use countersign_integration::{App, Authority, BytesApp, Lab, Leaf, lab, tls, wait};
use rustls::ClientConnection;
use serde_json::json;

use super::in_force;

/// A client that has seen the server's side of the handshake and keeps its own back.
struct Late {
    tcp: TcpStream,
    session: ClientConnection,
}

impl Late {
    fn begin(to: SocketAddr, leaf: &Leaf) -> Late {
        let config = tls::client(Some(leaf), &[tls::MESH_TCP]);
        let mut session = ClientConnection::new(config, to.ip().into()).unwrap();
        let mut tcp = TcpStream::connect(to).unwrap();
        tcp.set_read_timeout(Some(wait::DEADLINE)).unwrap();
        session.write_tls(&mut tcp).unwrap();
        while session.is_handshaking() {
            assert!(session.read_tls(&mut tcp).unwrap() > 0, "closed in the handshake");
            session.process_new_packets().unwrap();
        }
        Late { tcp, session }
    }

    /// Sends the certificate, and bytes; what comes back before the connection ends, or at first.
    fn finish(mut self) -> Vec<u8> {
        let mut stream = rustls::Stream::new(&mut self.session, &mut self.tcp);
        let mut answer = [0; 16];
        let read = stream.write_all(b"hello").and_then(|()| stream.read(&mut answer));
        answer[..read.unwrap_or(0)].to_vec()
    }
}

/// The snapshot of the handshake still knew the root; the connection is judged by the one in force.
#[tokio::test]
async fn a_handshake_that_outlasts_its_root_opens_nothing() {
    let (lab, app, new) = (Lab::new(), BytesApp::echo(), Authority::new(lab::DOMAIN));
    let rules = json!([{"name": "bytes", "effect": "allow",
        "match": {"caller": {"anyInMesh": true}, "tcp": {"any": true}}}]);
    let mesh = lab.mesh();
    let orders = lab
        .orders_with(&App::mirror(), &mesh, rules, |spec| {
            spec.with(|config| {
                config["app"][0]["protocol"] = json!("tcp");
                config["app"][0]["address"] = json!(app.address);
            })
        })
        .await;
    let both = format!("{}{}", lab.ca.pem(), new.pem());
    in_force(&orders, || drop(lab.write_text("bundle.pem", &both))).await;
    in_force(&orders, || drop(new.leaf("shop", "orders").write(lab.folder(), "shop.orders.id")))
        .await;
    let begin = async |leaf: Leaf| {
        let to = orders.inbound();
        tokio::task::spawn_blocking(move || Late::begin(to, &leaf)).await.unwrap()
    };
    let finish = async |late: Late| tokio::task::spawn_blocking(|| late.finish()).await.unwrap();
    let (old, good) =
        (begin(lab.ca.leaf("shop", "web")).await, begin(new.leaf("shop", "web")).await);
    let control = begin(lab.ca.leaf("shop", "web")).await;
    assert_eq!(finish(control).await, b"hello", "while its root counts");
    in_force(&orders, || drop(lab.write_text("bundle.pem", new.pem()))).await;
    assert_eq!(finish(old).await, b"");
    assert_eq!(finish(good).await, b"hello", "the other root still counts");
}

/// A certificate that has not ended counts for nothing once its root is gone.
#[tokio::test]
async fn attack_uses_old_leaf_after_removed_root() {
    let (lab, app, new) = (Lab::new(), App::mirror(), Authority::new(lab::DOMAIN));
    let orders = lab.orders(&app, |spec| spec).await;
    let old = lab.ca.leaf("shop", "web");
    let call = async |leaf: &Leaf| {
        let config = tls::client(Some(leaf), &[tls::MESH_H2]);
        let mut conn = Conn::tls(orders.inbound(), config).await.ok()?;
        conn.send(Call::get("orders.shop", "/")).await.ok().map(|reply| reply.status)
    };
    assert_eq!(call(&old).await, Some(200));
    let both = format!("{}{}", lab.ca.pem(), new.pem());
    in_force(&orders, || drop(lab.write_text("bundle.pem", &both))).await;
    in_force(&orders, || drop(new.leaf("shop", "orders").write(lab.folder(), "shop.orders.id")))
        .await;
    assert_eq!(call(&old).await, Some(200), "both roots count");
    in_force(&orders, || drop(lab.write_text("bundle.pem", new.pem()))).await;
    let served = app.seen().len();
    assert_eq!(call(&old).await, None);
    assert_eq!(call(&new.leaf("shop", "web")).await, Some(200));
    assert_eq!(app.seen().len(), served + 1);
}
