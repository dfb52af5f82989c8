//! HTTP/2 that means something else once it is HTTP/1.1: pseudo-header fields, lengths, line ends.

use countersign_integration::client;
use countersign_integration::h2raw::{END_HEADERS, END_STREAM, Fate, H2Raw, block, frame, kind};
use countersign_integration::tls;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::{API, Door, HOST, House};

type Fields = Vec<(Vec<u8>, Vec<u8>)>;

/// The pseudo-header fields of an honest request to `/`.
fn honest(host: &str) -> Fields {
    fields(&[
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", host),
        (":path", "/v1/users/alice/orders"),
    ])
}

fn fields(pairs: &[(&str, &str)]) -> Fields {
    pairs.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect()
}

/// One stream with this head and these DATA frames, in one piece: whoever reads the head has read
/// what is wrong with the data, however busy the machine is.
async fn ask<IO>(io: IO, head: &Fields, data: &[&[u8]]) -> Fate
where
    IO: AsyncRead + AsyncWrite + Unpin,
{
    let mut conn = H2Raw::open(io, &[]).await;
    let last = if data.is_empty() { END_STREAM } else { 0 };
    let mut frames = frame(kind::HEADERS, END_HEADERS | last, 1, &block(head));
    for (number, piece) in data.iter().enumerate() {
        let last = if number + 1 == data.len() { END_STREAM } else { 0 };
        frames.extend(frame(kind::DATA, last, 1, piece));
    }
    conn.write(&frames).await;
    conn.fate(1).await
}

impl House {
    async fn ask(&self, door: Door, head: &Fields, data: &[&[u8]]) -> Fate {
        match door {
            Door::App => {
                ask(TcpStream::connect(self.web.outbound()).await.unwrap(), head, data).await
            }
            Door::Outside => {
                ask(TcpStream::connect(self.edge.gateway()).await.unwrap(), head, data).await
            }
            Door::Peer => {
                let config = tls::client(Some(self.lab.gateway.leaf()), &[tls::MESH_H2]);
                let stream = client::tls_stream(self.orders.inbound(), config).await.unwrap();
                ask(stream, head, data).await
            }
        }
    }

    /// What an honest request carries at a door, beside its pseudo-header fields.
    fn credentials(&self, door: Door) -> Fields {
        match door {
            Door::Outside => fields(&[("authorization", &format!("Bearer {}", self.alice))]),
            // The receiving sidecar is to speak HTTP/1.1 to the app.
            Door::Peer => fields(&[("countersign-http1", "1.1")]),
            Door::App => Vec::new(),
        }
    }

    fn host(door: Door) -> &'static str {
        if door == Door::Outside { API } else { HOST }
    }

    /// Asks at every door with a head that `change` has spoiled.
    async fn refuses_h2(&self, what: &str, data: &[&[u8]], change: impl Fn(&mut Fields)) {
        for door in super::DOORS {
            let mut head = honest(House::host(door));
            head.extend(self.credentials(door));
            change(&mut head);
            let fate = self.ask(door, &head, data).await;
            assert!(fate.refused(), "{door:?} {what}: {fate:?}");
        }
        let seen = self.app.seen();
        assert!(seen.is_empty(), "{what} reached the app: {seen:?}");
    }

    async fn still_serves_h2(&self) {
        for door in super::DOORS {
            let mut head = honest(House::host(door));
            head.extend(self.credentials(door));
            head.extend(fields(&[("content-length", "5")]));
            let fate = self.ask(door, &head, &[b"hel", b"lo"]).await;
            assert_eq!(fate, Fate::Served, "{door:?}");
        }
    }
}

fn set(head: &mut Fields, name: &str, value: &str) {
    for field in head.iter_mut().filter(|field| field.0 == name.as_bytes()) {
        field.1 = value.as_bytes().to_vec();
    }
}

fn add(head: &mut Fields, name: &str, value: &str) {
    head.push((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
}

#[tokio::test]
async fn attack_abuses_pseudo_headers() {
    let house = House::start().await;
    for missing in [":method", ":scheme", ":path"] {
        let without = |head: &mut Fields| head.retain(|field| field.0 != missing.as_bytes());
        house.refuses_h2(&format!("no {missing}"), &[], without).await;
    }
    for twice in [":method", ":scheme", ":path", ":authority"] {
        let double = |head: &mut Fields| {
            let again = head.iter().find(|field| field.0 == twice.as_bytes()).cloned().unwrap();
            head.insert(0, again);
        };
        house.refuses_h2(&format!("two {twice}"), &[], double).await;
    }
    for unknown in [":foo", ":status", ":protocol", ":host", ":"] {
        house
            .refuses_h2(unknown, &[], |head| head.insert(0, (unknown.into(), b"x".to_vec())))
            .await;
    }
    let late = |head: &mut Fields| {
        head.insert(0, (b"x-first".to_vec(), b"1".to_vec()));
    };
    house.refuses_h2("pseudo-header after a field", &[], late).await;
    house.still_serves_h2().await;
}

#[tokio::test]
async fn attack_sends_host_unlike_authority() {
    let house = House::start().await;
    house.refuses_h2("another host", &[], |head| add(head, "host", "admin.shop")).await;
    for host in ["admin.shop@orders.shop", "orders.shop/x", "orders shop", "", "orders.shop:x"] {
        house.refuses_h2(host, &[], |head| set(head, ":authority", host)).await;
    }
    let two = |head: &mut Fields| {
        let own = head.iter().find(|field| field.0 == b":authority").cloned().unwrap().1;
        head.push((b"host".to_vec(), own.clone()));
        head.push((b"host".to_vec(), own));
    };
    house.refuses_h2("two hosts", &[], two).await;
    house.still_serves_h2().await;
}

/// Line ends, spaces and colons where a downgrade would turn them into fields or requests.
#[tokio::test]
async fn attack_injects_lines_by_downgrade() {
    let house = House::start().await;
    let smuggled = "x\r\n\r\nGET /admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n";
    for (name, value) in [
        ("x-a", "b\r\ntransfer-encoding: chunked"),
        ("x-a", "b\ntransfer-encoding: chunked"),
        ("x-a", "b\rc"),
        ("x-a", "b\0c"),
        ("x-a", smuggled),
        ("x-a: b\r\ntransfer-encoding", "chunked"),
        ("x-a:b", "c"),
        ("x a", "b"),
        ("X-Upper", "b"),
        ("", "b"),
        ("x-é", "b"),
    ] {
        house.refuses_h2(&format!("{name:?}: {value:?}"), &[], |head| add(head, name, value)).await;
    }
    for path in [
        "/ HTTP/1.1\r\nHost: admin.shop\r\n\r\nGET /",
        "/a b",
        "/a\r\nx: y",
        "v1/users/alice/orders",
        "",
        "*",
        "http://admin.shop/",
        "/v1/users/alice%2forders",
    ] {
        house.refuses_h2(&format!(":path {path:?}"), &[], |head| set(head, ":path", path)).await;
    }
    for method in ["GET / HTTP/1.1\r\nX: y\r\n\r\nGET", "GE T", "", "get", "GET\0"] {
        house
            .refuses_h2(&format!(":method {method:?}"), &[], |head| set(head, ":method", method))
            .await;
    }
    for scheme in ["ftp", "http\r\nx: y", "http://admin.shop/?", ""] {
        house
            .refuses_h2(&format!(":scheme {scheme:?}"), &[], |head| set(head, ":scheme", scheme))
            .await;
    }
    house.still_serves_h2().await;
}

/// A fragment is cut off before anybody reads the path: what is decided on is what is forwarded.
#[tokio::test]
async fn attack_hides_a_path_behind_a_fragment_over_http2() {
    let house = House::start().await;
    for door in super::DOORS {
        let mut head = honest(House::host(door));
        head.extend(house.credentials(door));
        set(&mut head, ":path", "/v1/users/alice/orders#/../../admin");
        let fate = house.ask(door, &head, &[]).await;
        if fate == Fate::Served {
            let target = house.app.last().target;
            assert!(target.ends_with("/v1/users/alice/orders"), "{door:?} {target}");
        }
    }
    assert!(!house.app.seen().is_empty());
}

/// Framing of HTTP/1 has no place in HTTP/2, and a length must be that of the data.
#[tokio::test]
async fn attack_frames_http2_like_http1() {
    let house = House::start().await;
    for (name, value) in [
        ("transfer-encoding", "chunked"),
        ("transfer-encoding", "identity"),
        ("transfer_encoding", "chunked"),
        ("content_length", "50"),
        ("connection", "close"),
        ("connection", "content-length"),
        ("connection", "countersign-user"),
        ("proxy-connection", "keep-alive"),
        ("keep-alive", "timeout=5"),
        ("upgrade", "websocket"),
    ] {
        let data: [&[u8]; 1] = [b"0\r\n\r\nGET /admin HTTP/1.1\r\nHost: orders.shop\r\n\r\n"];
        house.refuses_h2(&format!("{name}: {value}"), &data, |head| add(head, name, value)).await;
    }
    for lengths in [&["4", "5"][..], &["5", "5"], &["5, 5"], &["+5"], &["-1"], &["0x5"], &[""]] {
        let add_all =
            |head: &mut Fields| lengths.iter().for_each(|l| add(head, "content-length", l));
        house.refuses_h2(&format!("lengths {lengths:?}"), &[b"hello"], add_all).await;
    }
    house.still_serves_h2().await;
}

/// A length that the data does not have: whoever reads the body never sees an end, and the bytes
/// that are too many never become a request.
#[tokio::test]
async fn attack_states_another_length_than_the_data() {
    let house = House::start().await;
    let smuggled: &[u8] = b"GET /v1/users/alice/hidden HTTP/1.1\r\nHost: orders.shop\r\n\r\n";
    for (length, data) in [("0", smuggled), ("3", smuggled), ("500", smuggled)] {
        for door in super::DOORS {
            let mut head = honest(House::host(door));
            head.extend(house.credentials(door));
            add(&mut head, "content-length", length);
            let fate = house.ask(door, &head, &[data]).await;
            assert!(fate.refused(), "{door:?} {length}: {fate:?}");
        }
    }
    let hidden = |seen: &countersign_integration::Seen| seen.target.contains("hidden");
    assert!(!house.app.seen().iter().any(hidden));
    house.still_serves_h2().await;
}

/// Data that comes only once the answer to "no data" is there: the app has had a request without a
/// body, and never gets another one.
#[tokio::test]
async fn attack_sends_data_behind_a_request_without_any() {
    let house = House::start().await;
    let mut head = honest(HOST);
    head.extend(house.credentials(Door::Peer));
    add(&mut head, "content-length", "0");
    let config = tls::client(Some(house.lab.gateway.leaf()), &[tls::MESH_H2]);
    let stream = client::tls_stream(house.orders.inbound(), config).await.unwrap();
    let mut conn = H2Raw::open(stream, &[]).await;
    conn.send(kind::HEADERS, END_HEADERS, 1, &block(&head)).await;
    assert_eq!(conn.fate(1).await, Fate::Served);
    let smuggled = b"GET /v1/users/alice/hidden HTTP/1.1\r\nHost: orders.shop\r\n\r\n";
    conn.send(kind::DATA, END_STREAM, 1, smuggled).await;
    house.still_serves_h2().await;
    let seen = house.app.seen();
    assert_eq!(seen.len(), 1 + super::DOORS.len());
    assert!(!seen.iter().any(|seen| seen.target.contains("hidden")));
}
