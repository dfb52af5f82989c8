//! What crossed between pods: reads a capture and checks that every TCP byte belongs to a TLS 1.3
//! connection of the mesh. Pure: bytes in, [`Report`] out.
//!
//! A connection of the mesh is one whose ClientHello offers a `countersign/…` protocol, for an
//! app's own TLS must not cross bare either.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a capture shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Everything that must not cross between pods; empty is good.
    pub violations: BTreeSet<String>,
    /// Connections of the mesh that got as far as encrypted data both ways, by what was offered.
    pub mesh: BTreeMap<String, usize>,
    /// The same, by destination.
    pub to: BTreeMap<SocketAddr, usize>,
    /// Bytes in encrypted records.
    pub encrypted_bytes: u64,
}

impl Report {
    /// Only TLS 1.3 of the mesh crossed, and some did.
    ///
    /// # Panics
    /// When anything else did.
    pub fn assert_only_mesh_tls(&self) {
        assert!(self.violations.is_empty(), "crossed between pods: {:#?}", self.violations);
        assert!(!self.mesh.is_empty(), "nothing crossed between pods: {self:?}");
    }
}

/// Reads a capture file of Ethernet frames; only what runs between addresses of `is_pod` counts.
///
/// # Panics
/// When the file is no capture.
pub fn report(pcap: &[u8], is_pod: &dyn Fn(IpAddr) -> bool) -> Report {
    let mut all = Streams::default();
    let header = pcap.get(..24).expect("a capture file has a header");
    assert_eq!(header[..4], 0xa1b2_c3d4_u32.to_le_bytes(), "not a capture of this machine");
    assert_eq!(header[20], 1, "not Ethernet");
    let mut rest = &pcap[24..];
    while let Some(head) = rest.get(..16) {
        let length =
            |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap_or_default());
        assert_eq!(length(8), length(12), "a frame was cut");
        let end = 16 + usize::try_from(length(8)).unwrap_or(usize::MAX);
        let Some(frame) = rest.get(16..end) else { break }; // still being written
        all.frame(frame, is_pod);
        rest = &rest[end..];
    }
    all.finish()
}

type Way = (SocketAddr, SocketAddr);

#[derive(Default)]
struct Streams {
    ways: BTreeMap<Way, Half>,
    closed: Vec<(Way, Half)>,
    violations: BTreeSet<String>,
}

impl Streams {
    fn frame(&mut self, frame: &[u8], is_pod: &dyn Fn(IpAddr) -> bool) {
        let Some(packet) = Packet::parse(frame) else { return };
        if !is_pod(packet.from) || !is_pod(packet.to) {
            return;
        }
        match packet.protocol {
            TCP => {
                if let Some(segment) = Segment::parse(&packet) {
                    self.segment(&segment);
                } else {
                    self.violations.insert("a broken TCP segment".to_owned());
                }
            }
            ICMPV6 => {} // neighbours look for each other
            protocol => {
                let Packet { from, to, .. } = packet;
                self.violations.insert(format!("IP protocol {protocol} from {from} to {to}"));
            }
        }
    }

    fn segment(&mut self, segment: &Segment<'_>) {
        let way = (segment.from, segment.to);
        if segment.syn {
            // The same ports again are another connection.
            let again = self.ways.get(&way).is_some_and(|half| half.first != segment.sequence);
            if again && let Some(half) = self.ways.remove(&way) {
                self.closed.push((way, half));
            }
            let half = Half::new(segment.sequence, !segment.ack);
            self.ways.entry(way).or_insert(half);
            return;
        }
        if segment.payload.is_empty() {
            return;
        }
        match self.ways.get_mut(&way) {
            Some(half) => half.bytes(segment.sequence, segment.payload),
            None => {
                let text = format!("bytes of a connection that began unseen: {way:?}");
                self.violations.insert(text);
            }
        }
    }

    fn finish(mut self) -> Report {
        let mut report = Report { violations: self.violations, ..Report::default() };
        self.closed.extend(self.ways);
        let mut answered = BTreeMap::<Way, usize>::new();
        for ((from, to), half) in &self.closed {
            if let Some(wrong) = half.complaint() {
                let line = format!("{from} to {to}: {wrong}");
                report.violations.insert(line);
            }
            report.encrypted_bytes += half.tls.encrypted;
            if !half.is_client && half.tls.encrypted > 0 {
                *answered.entry((*to, *from)).or_default() += 1;
            }
        }
        for (way, half) in &self.closed {
            let both = half.is_client && half.tls.encrypted > 0 && answered.contains_key(way);
            if both {
                *report.mesh.entry(half.tls.offered.join(" ")).or_default() += 1;
                *report.to.entry(way.1).or_default() += 1;
            }
        }
        report
    }
}

/// One direction of one connection.
struct Half {
    is_client: bool,
    first: u32,
    /// Bytes in order so far, counted from the first.
    next: u64,
    /// Segments that came early, by offset.
    early: BTreeMap<u64, Vec<u8>>,
    tls: Tls,
}

impl Half {
    fn new(first: u32, is_client: bool) -> Half {
        let tls = Tls { is_client, ..Tls::default() };
        Half { is_client, first, next: 0, early: BTreeMap::new(), tls }
    }

    fn bytes(&mut self, sequence: u32, payload: &[u8]) {
        let ahead = sequence.wrapping_sub(self.first.wrapping_add(1));
        // The offset nearest to where we are, as sequence numbers wrap every 4 GiB.
        let behind = u32::try_from(self.next & 0xffff_ffff).unwrap_or(0);
        let step = i64::from(ahead.wrapping_sub(behind).cast_signed());
        let Some(offset) = self.next.checked_add_signed(step) else { return };
        self.early.entry(offset).or_default().clone_from(&payload.to_vec());
        while let Some((&offset, _)) = self.early.first_key_value()
            && offset <= self.next
        {
            let Some((_, bytes)) = self.early.pop_first() else { break };
            let known = usize::try_from(self.next - offset).unwrap_or(usize::MAX);
            if let Some(fresh) = bytes.get(known..) {
                self.next += u64::try_from(fresh.len()).unwrap_or(0);
                self.tls.feed(fresh);
            }
        }
    }

    fn complaint(&self) -> Option<String> {
        if let Some(wrong) = &self.tls.wrong {
            return Some(wrong.clone());
        }
        (!self.early.is_empty()).then(|| format!("a hole in the capture at byte {}", self.next))
    }
}

/// Follows the records of one direction.
#[derive(Default)]
struct Tls {
    is_client: bool,
    /// Of the record being read.
    header: Vec<u8>,
    left: usize,
    /// Handshake bytes before encryption.
    hello: Vec<u8>,
    offered: Vec<String>,
    encrypted: u64,
    wrong: Option<String>,
}

const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;

impl Tls {
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && self.wrong.is_none() {
            if self.left == 0 {
                let (head, rest) = bytes.split_at(bytes.len().min(5 - self.header.len()));
                self.header.extend_from_slice(head);
                bytes = rest;
                if self.header.len() == 5 {
                    self.begin();
                }
                continue;
            }
            let (part, rest) = bytes.split_at(bytes.len().min(self.left));
            bytes = rest;
            self.left -= part.len();
            match self.header[0] {
                HANDSHAKE => self.hello.extend_from_slice(part),
                APPLICATION_DATA => self.encrypted += u64::try_from(part.len()).unwrap_or(0),
                _ => {}
            }
            if self.left == 0 {
                self.header.clear();
                self.greeting();
            }
        }
    }

    fn begin(&mut self) {
        let kind = self.header[0];
        self.left = usize::from(u16::from_be_bytes([self.header[3], self.header[4]]));
        let before = self.encrypted == 0;
        let may = match kind {
            CHANGE_CIPHER_SPEC => self.left == 1,
            ALERT => before && self.left == 2,
            HANDSHAKE => before && self.left <= 16_384,
            APPLICATION_DATA => !self.is_client || !self.offered.is_empty(),
            _ => false,
        };
        if !may || self.header[1] != 3 || self.left == 0 {
            let start = String::from_utf8_lossy(&self.header).into_owned();
            self.wrong = Some(format!("not TLS 1.3 from {start:?} on"));
        }
    }

    /// Checks each message before encryption: only hellos that speak TLS 1.3.
    fn greeting(&mut self) {
        while let Some(head) = self.hello.get(..4) {
            let length =
                usize::from(head[1]) << 16 | usize::from(head[2]) << 8 | usize::from(head[3]);
            let Some(message) = self.hello.get(4..4 + length) else { return };
            let (kind, message) = (head[0], message.to_vec());
            self.hello.drain(..4 + length);
            let wrong = match (self.is_client, kind) {
                (true, 1) => self.client_hello(&message),
                (false, 2) => server_hello(&message),
                _ => Some(format!("handshake message {kind} in the clear")),
            };
            self.wrong = self.wrong.take().or(wrong);
        }
    }

    fn client_hello(&mut self, message: &[u8]) -> Option<String> {
        let Some(found) = extensions(message, true) else {
            return Some("a broken ClientHello".to_owned());
        };
        let versions = found.get(&43).map_or(&[][..], |body| body.get(1..).unwrap_or(&[]));
        if versions != [3, 4] {
            return Some(format!("a ClientHello for versions {versions:?}"));
        }
        let mut names = found.get(&16).map_or(&[][..], |body| body.get(2..).unwrap_or(&[]));
        self.offered.clear();
        while let Some((&length, rest)) = names.split_first() {
            let (name, rest) = rest.split_at_checked(usize::from(length))?;
            self.offered.push(String::from_utf8_lossy(name).into_owned());
            names = rest;
        }
        let mesh = self.offered.iter().all(|name| name.starts_with("countersign/"));
        let text = format!("a ClientHello that offers {:?}", self.offered);
        (!mesh || self.offered.is_empty()).then_some(text)
    }
}

fn server_hello(message: &[u8]) -> Option<String> {
    let found = extensions(message, false);
    let version = found.and_then(|found| found.get(&43).map(|body| body.to_vec()));
    (version.as_deref() != Some(&[3, 4])).then(|| format!("a ServerHello of version {version:?}"))
}

/// The extensions of a hello by number.
fn extensions(message: &[u8], client: bool) -> Option<BTreeMap<u16, &[u8]>> {
    let two =
        |bytes: &[u8]| Some(usize::from(u16::from_be_bytes(bytes.get(..2)?.try_into().ok()?)));
    let mut rest = message.get(34..)?; // version, random
    let session = usize::from(*rest.first()?);
    rest = rest.get(1 + session..)?;
    rest = if client {
        let suites = two(rest)?;
        let after = rest.get(2 + suites..)?;
        after.get(1 + usize::from(*after.first()?)..)?
    } else {
        rest.get(3..)? // suite, compression
    };
    rest = rest.get(2..2 + two(rest)?)?;
    let mut found = BTreeMap::new();
    while !rest.is_empty() {
        let (kind, length) = (two(rest)?, two(rest.get(2..)?)?);
        found.insert(u16::try_from(kind).ok()?, rest.get(4..4 + length)?);
        rest = rest.get(4 + length..)?;
    }
    Some(found)
}

const TCP: u8 = 6;
const ICMPV6: u8 = 58;

struct Packet<'a> {
    from: IpAddr,
    to: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// `None` for what is no IP, such as ARP.
    fn parse(frame: &'a [u8]) -> Option<Packet<'a>> {
        let kind = frame.get(12..14)?;
        let packet = frame.get(14..)?;
        if kind == [0x08, 0x00] {
            let head = usize::from(packet.first()? & 0x0f) * 4;
            let total = usize::from(u16::from_be_bytes(packet.get(2..4)?.try_into().ok()?));
            let address = |at: usize| {
                let bytes: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
                Some(IpAddr::from(Ipv4Addr::from(bytes)))
            };
            return Some(Packet {
                from: address(12)?,
                to: address(16)?,
                protocol: *packet.get(9)?,
                payload: packet.get(head..total)?,
            });
        }
        if kind != [0x86, 0xdd] {
            return None;
        }
        let length = usize::from(u16::from_be_bytes(packet.get(4..6)?.try_into().ok()?));
        let address = |at: usize| {
            let bytes: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
            Some(IpAddr::from(Ipv6Addr::from(bytes)))
        };
        Some(Packet {
            from: address(8)?,
            to: address(24)?,
            protocol: *packet.get(6)?,
            payload: packet.get(40..40 + length)?,
        })
    }
}

struct Segment<'a> {
    from: SocketAddr,
    to: SocketAddr,
    sequence: u32,
    syn: bool,
    ack: bool,
    payload: &'a [u8],
}

impl<'a> Segment<'a> {
    fn parse(packet: &Packet<'a>) -> Option<Segment<'a>> {
        let bytes = packet.payload;
        let port = |at: usize| Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let flags = *bytes.get(13)?;
        Some(Segment {
            from: SocketAddr::new(packet.from, port(0)?),
            to: SocketAddr::new(packet.to, port(2)?),
            sequence: u32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?),
            syn: flags & 0x02 != 0,
            ack: flags & 0x10 != 0,
            payload: bytes.get(usize::from(*bytes.get(12)? >> 4) * 4..)?,
        })
    }
}
