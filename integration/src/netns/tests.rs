//! The capture check on made-up captures: what it lets pass, and all it must not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::wire::{Report, report};

const A: &str = "10.47.0.2:40000";
const B: &str = "10.47.0.3:8080";

/// A capture in the making.
struct Pcap(Vec<u8>);

impl Pcap {
    fn new() -> Pcap {
        let mut bytes = vec![0; 24];
        bytes[..4].copy_from_slice(&0xa1b2_c3d4_u32.to_le_bytes());
        bytes[20] = 1;
        Pcap(bytes)
    }

    fn frame(&mut self, kind: u16, packet: &[u8]) {
        let frame = [&[0; 12], &kind.to_be_bytes()[..], packet].concat();
        let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
        self.0.extend([&[0; 8], &length[..], &length[..], &frame].concat());
    }

    fn packet(&mut self, from: IpAddr, to: IpAddr, protocol: u8, payload: &[u8]) {
        let length = |head: usize| u16::try_from(head + payload.len()).unwrap().to_be_bytes();
        match (from, to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let [high, low] = length(20);
                let head = [0x45, 0, high, low, 0, 0, 0, 0, 64, protocol, 0, 0];
                let all = [&head[..], &from.octets(), &to.octets(), payload].concat();
                self.frame(0x0800, &all);
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let [high, low] = length(0);
                let head = [0x60, 0, 0, 0, high, low, protocol, 64];
                let all = [&head[..], &from.octets(), &to.octets(), payload].concat();
                self.frame(0x86dd, &all);
            }
            _ => panic!("two families"),
        }
    }

    fn tcp(&mut self, from: &str, to: &str, sequence: u32, flags: u8, payload: &[u8]) {
        let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
        let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        let head = [&ports[..], &sequence.to_be_bytes(), &[0; 4], &[0x50, flags], &[0; 6]].concat();
        self.packet(from.ip(), to.ip(), 6, &[&head, payload].concat());
    }

    /// A handshake of TCP, then these bytes of each side.
    fn connection(client: &[u8], server: &[u8]) -> Pcap {
        let mut pcap = Pcap::new();
        pcap.tcp(A, B, u32::MAX, SYN, &[]);
        pcap.tcp(B, A, 700, SYN | ACK, &[]);
        pcap.tcp(A, B, 0, ACK, client);
        pcap.tcp(B, A, 701, ACK, server);
        pcap
    }

    fn report(&self) -> Report {
        let pods = [Ipv4Addr::new(10, 47, 0, 2), Ipv4Addr::new(10, 47, 0, 3)].map(IpAddr::from);
        report(&self.0, &|ip| pods.contains(&ip) || ip == IpAddr::V6(Ipv6Addr::LOCALHOST))
    }

    fn violation(&self) -> String {
        let report = self.report();
        assert_eq!(report.violations.len(), 1, "{report:?}");
        report.violations.into_iter().next().unwrap()
    }
}

const SYN: u8 = 2;
const ACK: u8 = 16;

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, 3, 3], &length[..], body].concat()
}

/// A hello with `supported_versions` and, from a client, ALPN.
fn hello(client: bool, versions: &[u8], names: &[&str]) -> Vec<u8> {
    let extension = |kind: u16, body: &[u8]| {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&kind.to_be_bytes(), &length[..], body].concat()
    };
    let list =
        |bytes: Vec<u8>| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), &bytes[..]].concat();
    let byte = |length: usize| u8::try_from(length).unwrap();
    let extensions = if client {
        let names: Vec<u8> =
            names.iter().flat_map(|name| [&[byte(name.len())], name.as_bytes()].concat()).collect();
        let versions = [&[byte(versions.len())], versions].concat();
        [extension(16, &list(names)), extension(43, &versions)].concat()
    } else {
        extension(43, versions)
    };
    let suites: &[u8] = if client { &[0, 2, 0x13, 1, 1, 0] } else { &[0x13, 1, 0] };
    let body = [&[3, 3], &[7; 32][..], &[0], suites, &list(extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let kind = if client { 1 } else { 2 };
    record(22, &[&[kind], &length[1..], &body].concat())
}

fn client() -> Vec<u8> {
    let names = ["countersign/h2", "countersign/http1.1"];
    [hello(true, &[3, 4], &names), record(20, &[1]), record(23, &[9; 90])].concat()
}

fn server() -> Vec<u8> {
    [hello(false, &[3, 4], &[]), record(20, &[1]), record(23, &[9; 500])].concat()
}

#[test]
fn tls13_of_the_mesh_is_fine() {
    let report = Pcap::connection(&client(), &server()).report();
    report.assert_only_mesh_tls();
    assert_eq!(report.mesh["countersign/h2 countersign/http1.1"], 1);
    assert_eq!(report.to[&B.parse().unwrap()], 1);
    assert_eq!(report.encrypted_bytes, 590);
}

#[test]
fn segments_may_come_twice_and_out_of_order() {
    let (all, mut pcap) = (client(), Pcap::connection(&[], &server()));
    let at = |from: usize, to: usize| (u32::try_from(from).unwrap(), &all[from..to]);
    for (sequence, bytes) in [at(60, all.len()), at(0, 20), at(0, 40), at(30, 70)] {
        pcap.tcp(A, B, sequence, ACK, bytes);
    }
    pcap.report().assert_only_mesh_tls();
}

#[test]
fn a_hole_is_a_violation() {
    let all = client();
    let mut pcap = Pcap::connection(&all[..20], &server());
    pcap.tcp(A, B, 30, ACK, &all[30..]);
    assert!(pcap.violation().ends_with("a hole in the capture at byte 20"));
}

#[test]
fn plaintext_is_a_violation() {
    let pcap = Pcap::connection(b"GET / HTTP/1.1\r\n", &[]);
    assert_eq!(pcap.violation(), format!("{A} to {B}: not TLS 1.3 from \"GET /\" on"));
    let after = [server(), b"HTTP/1.1 200 OK\r\n".to_vec()].concat();
    let pcap = Pcap::connection(&client(), &after);
    assert_eq!(pcap.violation(), format!("{B} to {A}: not TLS 1.3 from \"HTTP/\" on"));
}

#[test]
fn other_versions_are_violations() {
    let old = hello(true, &[3, 4, 3, 3], &["countersign/h2"]);
    let told = Pcap::connection(&old, &[]).violation();
    assert!(told.ends_with("a ClientHello for versions [3, 4, 3, 3]"), "{told}");
    let told = Pcap::connection(&client(), &hello(false, &[3, 3], &[])).violation();
    assert!(told.contains("a ServerHello of version"), "{told}");
}

#[test]
fn tls_of_an_app_without_the_mesh_around_is_a_violation() {
    for names in [&["h2"][..], &[], &["countersign/h2", "h2"]] {
        let told = Pcap::connection(&hello(true, &[3, 4], names), &[]).violation();
        assert!(told.contains("a ClientHello that offers"), "{told}");
    }
}

#[test]
fn handshakes_in_the_clear_after_the_hellos_are_violations() {
    let certificate = record(22, &[11, 0, 0, 1, 0]);
    let told = [hello(false, &[3, 4], &[]), certificate].concat();
    let told = Pcap::connection(&client(), &told).violation();
    assert!(told.ends_with("handshake message 11 in the clear"), "{told}");
}

#[test]
fn only_neighbours_and_strangers_may_speak_otherwise() {
    let [a, b] = [2, 3].map(|last| IpAddr::from([10, 47, 0, last]));
    let mut pcap = Pcap::connection(&client(), &server());
    pcap.frame(0x0806, &[0; 28]);
    pcap.packet(Ipv6Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into(), 58, &[135; 24]);
    pcap.packet(a, IpAddr::from([10, 47, 0, 1]), 17, b"?");
    pcap.report().assert_only_mesh_tls();
    pcap.packet(a, b, 17, b"?");
    assert_eq!(pcap.violation(), format!("IP protocol 17 from {a} to {b}"));
}

#[test]
fn bytes_of_a_connection_that_began_unseen_are_a_violation() {
    let mut pcap = Pcap::new();
    pcap.tcp(A, B, 1, ACK, &client());
    assert!(pcap.violation().starts_with("bytes of a connection that began unseen"));
    assert!(pcap.report().mesh.is_empty());
}
