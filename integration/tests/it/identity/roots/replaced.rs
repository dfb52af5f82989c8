//! A callee that goes on with a certificate of a root that was replaced.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use countersign_integration::client::{self, Call, Conn};
use countersign_integration::outcome::refused;
use countersign_integration::{App, Authority, Lab, Proxy, lab, ports, tls, wait};
use http::Response;
use http_body::Frame;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;

use super::{HOST, in_force};

/// A caller of `orders` at this address. It has a certificate of the new root and trusts both.
async fn caller(lab: &Lab, new: &Authority, orders: SocketAddr) -> Proxy {
    let mesh = lab.mesh().destination("shop/orders", HOST, orders, &[&lab.id("shop", "orders")]);
    let mesh = lab.write("mesh.yaml", &mesh.document());
    let out = ports::free();
    let web = lab.proxy("shop", "web").outbound_at(out).documents(&[&mesh]).start().await;
    let both = format!("{}{}", lab.ca.pem(), new.pem());
    in_force(&web, || drop(lab.write_text("bundle.pem", &both))).await;
    in_force(&web, || drop(new.leaf("shop", "web").write(lab.folder(), "shop.web.id"))).await;
    web
}

/// What was sent to it before may be answered for a moment; a stream does not go on, and nothing
/// new is sent.
#[tokio::test]
async fn attack_answers_on_after_its_root_was_replaced() {
    let (lab, new) = (Lab::new(), Authority::new(lab::DOMAIN));
    let old = lab.ca.leaf("shop", "orders");
    let callee = App::tls_mirror(tls::server(&old, &[tls::MESH_H2]));
    let web = caller(&lab, &new, callee.address).await;
    let mut conn = Conn::h2(web.outbound()).await.unwrap();
    let (sender, body) = client::stream();
    let mut open = conn.start(Call::post(HOST, "/echo", "").body(body)).await.unwrap();
    sender.send(Ok(Frame::data("while its root counts".into()))).await.unwrap();
    wait::ends("an echo", open.body_mut().frame()).await.unwrap().unwrap();
    let seen = callee.seen().len();

    in_force(&web, || drop(lab.write_text("bundle.pem", new.pem()))).await;
    let reply = conn.send(Call::get(HOST, "/")).await.unwrap();
    refused(&web, &reply, "server_identity_unexpected").await;
    wait::ends("the stream", client::collect(open)).await.unwrap_err();
    drop(sender);
    assert_eq!(callee.seen().len(), seen, "a request reached it");
    web.metric_reaches("countersign_connections_ended_total", &["reason=\"revoked\""], 1.0).await;
}

/// It holds a request back, and refuses it unprocessed when its root is gone: the second try goes by
/// what counts then, not by what counted when the request came.
#[tokio::test]
async fn attack_refuses_a_request_to_be_sent_it_again() {
    let (lab, new) = (Lab::new(), Authority::new(lab::DOMAIN));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    let acceptor = TlsAcceptor::from(tls::server(&lab.ca.leaf("shop", "orders"), &[tls::MESH_H2]));
    let (streams, go) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let (counted, told) = (Arc::clone(&streams), Arc::clone(&go));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            // Who does not believe it ends the handshake.
            let Ok(stream) = acceptor.accept(stream).await else { continue };
            let (counted, told) = (Arc::clone(&counted), Arc::clone(&told));
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                        let told = Arc::clone(&told);
                        tokio::spawn(async move {
                            told.notified().await;
                            respond.send_reset(h2::Reason::REFUSED_STREAM);
                        });
                    } else {
                        let got_it = Response::builder().status(204).body(()).unwrap();
                        let _ = respond.send_response(got_it, true);
                    }
                }
            });
        }
    });
    let web = caller(&lab, &new, address).await;
    let call = tokio::spawn(client::call(web.outbound(), Call::get(HOST, "/")));
    wait::until_true("the request", || streams.load(Ordering::Relaxed) == 1).await;
    in_force(&web, || drop(lab.write_text("bundle.pem", new.pem()))).await;
    go.notify_one();
    let reply = wait::ends("the answer", call).await.unwrap();
    refused(&web, &reply, "server_identity_unexpected").await;
    assert_eq!(streams.load(Ordering::Relaxed), 1, "it was sent the request again");
}
