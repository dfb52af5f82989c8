//! Segments that fit no connection: a late one must not kill a live connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use countersign_integration::client::{Call, Conn};
use countersign_integration::documents::anybody;
use countersign_integration::netns::{Family, Mode, Pod};
use countersign_integration::{App, Pair, tls, wait};
use rustls::pki_types::ServerName;
use socket2::{Domain, Protocol, Socket, Type};
use tokio_rustls::TlsConnector;

/// A TCP header without options, as far as it matters here.
#[derive(Clone, Copy, Debug)]
struct Head {
    from: u16,
    to: u16,
    seq: u32,
    ack: u32,
    length: u32,
}

/// Sees the IPv4 TCP packets a pod receives, and sends some of its own.
struct Wire(Arc<Socket>);

impl Wire {
    fn of(pod: &Pod) -> Wire {
        let socket = pod.space().run(|| {
            let socket = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::TCP)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            socket
        });
        Wire(Arc::new(socket))
    }

    /// The last packet that came from `from` to port `to` so far.
    fn last(&self, from: SocketAddr, to: u16) -> Head {
        let mut last = None;
        let mut packet = [0; 65_536];
        let mut socket: &Socket = &self.0;
        while let Ok(length) = std::io::Read::read(&mut socket, &mut packet) {
            let head = read(&packet[..length]).filter(|(source, head)| {
                *source == from.ip() && head.from == from.port() && head.to == to
            });
            last = head.map(|(_, head)| head).or(last);
        }
        last.expect("no packet of the connection was seen")
    }

    fn send(&self, from: IpAddr, to: SocketAddr, head: Head) {
        let (IpAddr::V4(own), IpAddr::V4(other)) = (from, to.ip()) else { panic!("IPv4 only") };
        let mut segment = Vec::new();
        segment.extend(head.from.to_be_bytes());
        segment.extend(head.to.to_be_bytes());
        segment.extend(head.seq.to_be_bytes());
        segment.extend(head.ack.to_be_bytes());
        // 20 bytes of header, PSH and ACK, a window, checksum to come, no urgent data; one byte.
        segment.extend([0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0, b'!']);
        let mut summed = [own.octets(), other.octets()].concat();
        summed.extend([0, 6, 0, u8::try_from(segment.len()).unwrap()]);
        summed.extend(&segment);
        segment[16..18].copy_from_slice(&checksum(&summed).to_be_bytes());
        self.0.send_to(&segment, &SocketAddr::new(to.ip(), 0).into()).unwrap();
    }
}

fn read(packet: &[u8]) -> Option<(IpAddr, Head)> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
    let source = IpAddr::from([packet[12], packet[13], packet[14], packet[15]]);
    let tcp = packet.get(header..total)?;
    let word = |at: usize| u32::from_be_bytes([tcp[at], tcp[at + 1], tcp[at + 2], tcp[at + 3]]);
    let data = usize::from(tcp.get(12)? >> 4) * 4;
    let length = u32::try_from(tcp.len() - data).unwrap();
    let ports = word(0);
    let head = Head {
        from: u16::try_from(ports >> 16).unwrap(),
        to: u16::try_from(ports & 0xffff).unwrap(),
        seq: word(4),
        ack: word(8),
        length,
    };
    Some((source, head))
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap()
}

#[tokio::test]
async fn out_of_window_segment_does_not_reset() {
    let Some(pair) = Pair::new("out_of_window_segment_does_not_reset") else { return };
    let _app = App::mirror_on(pair.billing.listen_all(Pair::PORT));
    let _billing = pair.sidecar(&pair.billing, anybody(), Mode::Redirect).start().await;
    // No sidecar on this side: the test is the peer, so that the packets are its own.
    let wire = Wire::of(&pair.orders);
    let to = pair.billing.at(Family::V4, Pair::PORT);
    let stream = pair.orders.connect(to).await.unwrap();
    let own = stream.local_addr().unwrap();
    let leaf = pair.lab.ca.leaf("shop", "orders");
    let connector = TlsConnector::from(tls::client(Some(&leaf), &[tls::MESH_H2]));
    let name = ServerName::IpAddress(to.ip().into());
    let mut conn = Conn::h2_over(connector.connect(name, stream).await.unwrap()).await.unwrap();
    let call = || Call::get("billing.shop", "/");
    assert_eq!(conn.send(call()).await.unwrap().status, 200);

    let stray = |wire: &Wire| {
        let seen = wire.last(to, own.port());
        // Acknowledges what was received and claims to be far beyond the window: a reset in answer
        // would have the number the receiver waits for.
        wire.send(
            own.ip(),
            to,
            Head {
                from: own.port(),
                to: to.port(),
                seq: seen.ack.wrapping_add(1 << 30),
                ack: seen.seq.wrapping_add(seen.length),
                length: 1,
            },
        );
    };
    stray(&wire);
    wait::until_true("the drop of the segment", || dropped(&pair.billing) == 1).await;
    assert_eq!(conn.send(call()).await.unwrap().status, 200, "the connection lives");

    // Without the rule the same segment ends it.
    pair.billing.space().nft("flush chain inet countersign invalid");
    stray(&wire);
    wait::until_true("the reset", || conn.is_closed()).await;
}

/// How many packets the rule has dropped.
fn dropped(pod: &Pod) -> u64 {
    let listed = pod.run("nft", &["list", "chain", "inet", "countersign", "invalid"]);
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let mut words = listed.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().and_then(|count| count.parse().ok()).unwrap()
}
