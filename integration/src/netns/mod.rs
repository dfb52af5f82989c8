//! Network namespaces as pods: each has its app, its sidecar under UID 4747 and its redirect, so
//! that what is tested is what a node does.
//!
//! ```no_run
//! # use countersign_integration::netns::{Family, Mode, Net};
//! # use countersign_integration::{App, Lab, Mesh, documents};
//! # async fn example() {
//! let Some(net) = Net::new("the_name_of_the_test") else { return };
//! let (orders, billing) = (net.pod("orders"), net.pod("billing"));
//! let app = App::mirror_on(billing.listen_all(8080)); // the app of `billing`, on [::]:8080
//! let lab = Lab::new();
//! let mesh = lab.mesh().pod("shop/billing", &billing, &[(8080, "http")], &[&lab.id("shop", "billing")]);
//! let files = [
//!     lab.write("mesh.yaml", &mesh.document()),
//!     lab.write("access.yaml", &documents::access("shop", documents::anybody())),
//! ];
//! let files = [files[0].as_path(), files[1].as_path()];
//! // Rules first, then the sidecar: as the init container and the proxy container do.
//! let a = lab.proxy("shop", "orders").documents(&files).in_pod(&orders, Mode::Redirect).start().await;
//! let b = lab.proxy("shop", "billing").documents(&files).in_pod(&billing, Mode::Redirect).start().await;
//! let mut conn = orders.h1(billing.at(Family::V6, 8080)).await.unwrap(); // as an app: knows nothing
//! # }
//! ```
//!
//! Every pod is on one bridge, with an IPv4 and an IPv6 address. Whatever is addressed to nobody
//! goes to the **sink**, which counts and drops it: a redirect that was missed goes nowhere and
//! shows in [`Net::sunk`]. [`Net::capture`] records every frame between pods.
//!
//! It needs root, or a user namespace with a range of users (`make test SUITE=interception` makes
//! one where `/etc/subuid` has a range). Where neither is there, [`Net::new`] says so and gives
//! nothing; with `COUNTERSIGN_TESTBED=require` it fails.

pub mod capture;
mod link;
mod pod;
mod space;
#[cfg(test)]
mod tests;
pub mod user;
pub mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use countersign_config::env;
use serde_json::Value;

pub use self::capture::Capture;
pub use self::link::{Bad, Link};
pub use self::pod::Pod;
pub use self::space::Space;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Family; 2] = [Family::V4, Family::V6];
}

/// How a pod's inbound traffic reaches its sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Its destination is rewritten; the app sees the pod's own address as its client.
    Redirect,
    /// It is delivered unchanged; the app sees the client's address.
    Tproxy,
}

/// The bridge's address, every pod's gateway.
const GATEWAY: (Ipv4Addr, Ipv6Addr) =
    (Ipv4Addr::new(10, 47, 0, 1), Ipv6Addr::new(0xfd47, 0, 0, 0, 0, 0, 0, 1));

/// A bridge with pods, and nothing beyond it.
pub struct Net {
    router: Arc<Space>,
    pods: AtomicU8,
}

/// What went to addresses nobody has, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sunk {
    /// TCP.
    pub tcp: u64,
    /// UDP.
    pub udp: u64,
    /// Everything else.
    pub other: u64,
}

impl Net {
    /// An empty one; `None`, and a line that names `test` and the reason, where the machine does
    /// not allow it.
    ///
    /// # Panics
    /// When the test-bed is required, or a tool refuses its work.
    pub fn new(test: &str) -> Option<Net> {
        if let Err(reason) = possible() {
            skip(test, &reason);
            return None;
        }
        let router = Space::new("router").unwrap();
        quiet(&router);
        router.sysctl("ipv4/ip_forward", "1");
        router.sysctl("ipv6/conf/all/forwarding", "1");
        let (v4, v6) = GATEWAY;
        router.ip(&format!(
            "link add br0 type bridge mcast_snooping 0
             link add sink0 type veth peer name sink1
             address add {v4}/16 dev br0
             address add {v6}/64 dev br0 nodad
             link set br0 up
             link set sink0 up
             link set sink1 up
             route add default dev sink0
             route add ::/0 dev sink0"
        ));
        router.nft(SINK);
        Some(Net { router: Arc::new(router), pods: AtomicU8::new(2) })
    }

    /// One more pod.
    ///
    /// # Panics
    /// When there are too many.
    pub fn pod(&self, name: &str) -> Pod {
        let number = self.pods.fetch_add(1, Ordering::Relaxed);
        assert!(number < 250, "a net has room for 248 pods");
        let v4 = Ipv4Addr::new(10, 47, 0, number);
        let v6 = Ipv6Addr::new(0xfd47, 0, 0, 0, 0, 0, 0, u16::from(number));
        self.pod_at(name, v4, v6)
    }

    /// A pod with addresses of the test's choice, which may be outside the pods' networks: it
    /// stands for a host beyond the cluster.
    ///
    /// # Panics
    /// When the addresses are taken.
    pub fn pod_at(&self, name: &str, v4: Ipv4Addr, v6: Ipv6Addr) -> Pod {
        let space = Space::new(name).unwrap();
        quiet(&space);
        let port = format!("p{:x}", u128::from(v6) & 0xffff);
        let path = space.path().display();
        self.router.ip(&format!(
            "link add {port} type veth peer name eth0 netns {path}
             link set {port} master br0 up"
        ));
        let (gateway4, gateway6) = GATEWAY;
        space.ip(&format!(
            "address add {v4}/16 dev eth0
             address add {v6}/64 dev eth0 nodad
             link set eth0 up
             route add {gateway4} dev eth0
             route add default via {gateway4}
             route add {gateway6} dev eth0
             route add default via {gateway6}"
        ));
        if v4.octets()[..2] != [10, 47] {
            self.router.ip(&format!(
                "route add {v4} dev br0
                 route add {v6} dev br0"
            ));
        }
        Pod::new(space, v4, v6)
    }

    /// The node's own namespace, where whatever joins the host's network lives.
    pub fn node(&self) -> &Space {
        &self.router
    }

    /// What went to addresses nobody has so far.
    ///
    /// # Panics
    /// When nft does not tell.
    pub fn sunk(&self) -> Sunk {
        let mut command = Command::new("nft");
        command.args(["-j", "list", "counters", "table", "inet", "sink"]);
        let listed: Value = serde_json::from_str(&self.router.feed(command, "")).unwrap();
        let count = |name: &str| {
            let all = listed["nftables"].as_array().into_iter().flatten();
            let mut named = all.filter(|entry| entry["counter"]["name"] == name);
            named.next().and_then(|entry| entry["counter"]["packets"].as_u64()).unwrap()
        };
        Sunk { tcp: count("to_tcp"), udp: count("to_udp"), other: count("to_other") }
    }

    /// Starts to record every frame between pods.
    pub async fn capture(&self, folder: &Path) -> Capture {
        Capture::start(Arc::clone(&self.router), folder).await
    }

    /// From now on packets between two pods suffer as `bad` says; `None`, and a line that names
    /// `test`, where this user may not open the TUN device.
    ///
    /// # Panics
    /// When the test-bed is required and there is no TUN device.
    pub fn link(&self, test: &str, a: &Pod, b: &Pod, bad: Bad) -> Option<Link> {
        match Link::between(a, b, bad) {
            Ok(link) => Some(link),
            Err(error) => {
                skip(test, &format!("no TUN device: {error}"));
                None
            }
        }
    }
}

/// Addresses work at once, and nobody talks unasked.
fn quiet(space: &Space) {
    for device in ["all", "default"] {
        space.sysctl(&format!("ipv6/conf/{device}/accept_dad"), "0");
        space.sysctl(&format!("ipv6/conf/{device}/accept_ra"), "0");
        space.sysctl(&format!("ipv6/conf/{device}/disable_ipv6"), "0");
    }
}

const SINK: &str = "
table inet sink {
  counter to_tcp { }
  counter to_udp { }
  counter to_other { }
  chain forward {
    type filter hook forward priority filter; policy accept;
    oifname != \"sink0\" accept
    meta l4proto tcp counter name \"to_tcp\" drop
    meta l4proto udp counter name \"to_udp\" drop
    counter name \"to_other\" drop
  }
}
";

/// Says why a test is not run, or fails where everything must be.
fn skip(test: &str, reason: &str) {
    let text = format!("skipped {test}: {reason}");
    assert!(env::COUNTERSIGN_TESTBED.get().as_deref() != Some("require"), "{text}");
    eprintln!("{text}");
}

/// Why this process cannot make pods, if so.
fn possible() -> Result<(), String> {
    const HOW: &str = "run as root, or through `make test SUITE=interception` with a range for \
                       this user in /etc/subuid and newuidmap (Debian: uidmap)";
    if !rustix::process::geteuid().is_root() {
        return Err(format!("pods are network namespaces, which this user may not make: {HOW}"));
    }
    if !maps(user::SIDECAR) {
        return Err(format!("UID {} is not in this user namespace: {HOW}", user::SIDECAR));
    }
    for (tool, package) in TOOLS {
        let found = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];
        if !found.iter().any(|folder| Path::new(folder).join(tool).is_file()) {
            return Err(format!("{tool} is missing (cargo xtask testbed; Debian: {package})"));
        }
    }
    Space::new("probe").map(|_| ()).map_err(|error| format!("no network namespaces: {error}"))
}

const TOOLS: [(&str, &str); 4] =
    [("ip", "iproute2"), ("nft", "nftables"), ("tcpdump", "tcpdump"), ("setpriv", "util-linux")];

/// Whether `/proc/self/uid_map` (inside, outside, count) has this user.
fn maps(user: u32) -> bool {
    let text = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    text.lines().any(|line| {
        let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<u64>().ok());
        let (inside, _, count) = (numbers.next(), numbers.next(), numbers.next());
        let (Some(inside), Some(count)) = (inside, count) else { return false };
        (inside..inside.saturating_add(count)).contains(&u64::from(user))
    })
}

/// Whether an address is one of these pods'.
pub(crate) fn is_of(pods: &[&Pod], ip: IpAddr) -> bool {
    pods.iter().any(|pod| pod.ips().contains(&ip))
}
