//! A bad network between two pods: packets wait, come out of order, get lost.
//!
//! Each pod gets a TUN device and a route to the other pod's addresses through it, so apps and
//! sidecars use the addresses they know. One thread per direction reads packets and writes each
//! into the other pod once its time has come. (The kernels we test on have no `netem`.)

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use rustix::ioctl::{Updater, ioctl, opcode};

use super::Pod;

/// How bad a link is, each way.
#[derive(Clone, Copy, Debug)]
pub struct Bad {
    /// How long each packet waits.
    pub delay: Duration,
    /// Up to this much longer, so that packets overtake each other.
    pub jitter: Duration,
    /// Of a thousand packets so many are lost.
    pub lost_per_mille: u32,
}

/// A bad link in force; dropping it makes the way between the pods good again.
pub struct Link {
    stop: Arc<AtomicBool>,
    carried: Arc<AtomicU64>,
    lost: Arc<AtomicU64>,
    ends: [Pod; 2],
}

const DEVICE: &str = "bad0";

impl Link {
    pub(super) fn between(a: &Pod, b: &Pod, bad: Bad) -> io::Result<Link> {
        let link = Link {
            stop: Arc::default(),
            carried: Arc::default(),
            lost: Arc::default(),
            ends: [a.clone(), b.clone()],
        };
        let open = |pod: &Pod| pod.space().run(open).map(Arc::new);
        let (at_a, at_b) = (open(a)?, open(b)?);
        for (here, there) in [(a, b), (b, a)] {
            let [v4, v6] = there.ips();
            let [own4, own6] = here.ips();
            // A redirect leads to an address of the device that packets came by.
            here.space().ip(&format!(
                "address add {own4}/32 dev {DEVICE}
                 address add {own6}/128 dev {DEVICE} nodad
                 link set {DEVICE} mtu 9000 up
                 route add {v4}/32 dev {DEVICE} src {own4}
                 route add {v6}/128 dev {DEVICE} src {own6}"
            ));
        }
        link.carry(Arc::clone(&at_a), Arc::clone(&at_b), bad, 1);
        link.carry(at_b, at_a, bad, 2);
        Ok(link)
    }

    /// Packets delivered so far.
    pub fn carried(&self) -> u64 {
        self.carried.load(Ordering::Relaxed)
    }

    /// Packets lost on purpose so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    fn carry(&self, from: Arc<File>, to: Arc<File>, bad: Bad, seed: u64) {
        let (waiting, next) = mpsc::channel();
        let (stop, lost) = (Arc::clone(&self.stop), Arc::clone(&self.lost));
        std::thread::spawn(move || {
            let mut dice = Dice(seed);
            let mut packet = vec![0; 65_536];
            while let Ok(length) = (&*from).read(&mut packet) {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                if dice.roll(1000) < u64::from(bad.lost_per_mille) {
                    lost.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let extra = dice.roll(bad.jitter.as_micros().try_into().unwrap_or(u64::MAX).max(1));
                let due = Instant::now() + bad.delay + Duration::from_micros(extra);
                if waiting.send((due, packet[..length].to_vec())).is_err() {
                    return;
                }
            }
        });
        let (stop, carried) = (Arc::clone(&self.stop), Arc::clone(&self.carried));
        std::thread::spawn(move || {
            deliver(&next, &to, &carried, || stop.load(Ordering::Relaxed));
        });
    }
}

type Waiting = (Instant, Vec<u8>);

/// Writes packets when they are due, until nobody sends more.
fn deliver(
    next: &mpsc::Receiver<Waiting>,
    to: &File,
    carried: &AtomicU64,
    stop: impl Fn() -> bool,
) {
    let mut heap = BinaryHeap::<Reverse<Waiting>>::new();
    while !stop() {
        let now = Instant::now();
        let idle = Duration::from_millis(50); // how long a stopped link may linger
        let wait = heap.peek().map_or(idle, |Reverse((due, _))| due.saturating_duration_since(now));
        match next.recv_timeout(wait.min(idle)) {
            Ok(packet) => heap.push(Reverse(packet)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) if heap.is_empty() => return,
            Err(RecvTimeoutError::Disconnected) => std::thread::sleep(wait),
        }
        while heap.peek().is_some_and(|Reverse((due, _))| *due <= Instant::now()) {
            let Some(Reverse((_, packet))) = heap.pop() else { break };
            let mut to = to;
            if to.write_all(&packet).is_ok() {
                carried.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Without the device its readers fail and end; a pod that is gone has none any more.
        for pod in &self.ends {
            let _ = pod.run("ip", &["link", "delete", DEVICE]);
        }
    }
}

/// A fixed sequence: a failure can be repeated.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

/// `struct ifreq` as far as TUNSETIFF reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

const TUN_WITHOUT_HEADER: u16 = 0x0001 | 0x1000; // IFF_TUN | IFF_NO_PI
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<i32>(b'T', 202);

/// Makes the device in the calling thread's namespace.
fn open() -> io::Result<File> {
    let device = File::options().read(true).write(true).open("/dev/net/tun")?;
    let mut request = Request { name: [0; 16], flags: TUN_WITHOUT_HEADER, rest: [0; 22] };
    request.name[..DEVICE.len()].copy_from_slice(DEVICE.as_bytes());
    #[expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]
    // SAFETY: the kernel reads and writes one `ifreq`, which `request` is in size and layout.
    unsafe {
        ioctl(&device, Updater::<TUNSETIFF, Request>::new(&mut request))?;
    }
    Ok(device)
}
