//! Every frame between pods, as `tcpdump` on the bridge saw it.
//!
//! A capture that lost frames is no proof, so that is a failure; and it ends with a marker, so
//! that nothing before it is still in a buffer.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use super::wire::{self, Report};
use super::{GATEWAY, Pod, Space};
use crate::process::Process;
use crate::wait;

/// A running capture.
pub struct Capture {
    router: Arc<Space>,
    tcpdump: Process,
    file: PathBuf,
}

const MARKER: &[u8] = b"the capture ends here";
/// Of the bridge's own address; it answers with ICMP, which nobody minds.
const MARKER_PORT: u16 = 9;

impl Capture {
    pub(super) async fn start(router: Arc<Space>, folder: &Path) -> Capture {
        let file = folder.join("between-pods.pcap");
        let mut command = Command::new("tcpdump");
        // As root to the end: in a user namespace there may be nobody else to become.
        command.args(["-i", "br0", "-n", "-U", "-Z", "root", "-s", "0", "-B", "131072", "-w"]);
        command.arg(&file);
        let tcpdump = Process::start_in(&router, "tcpdump", command, folder);
        wait::until_true("tcpdump", || tcpdump.stderr().contains("listening on br0")).await;
        Capture { router, tcpdump, file }
    }

    /// Ends it and says what was seen between `pods`.
    ///
    /// # Panics
    /// When frames were lost.
    pub async fn stop(self, pods: &[&Pod]) -> Report {
        let to = SocketAddr::from((Ipv4Addr::from([10, 47, 255, 254]), MARKER_PORT));
        self.router.ip("neighbour replace 10.47.255.254 lladdr 02:00:00:00:47:47 dev br0");
        let send = move || {
            let socket = std::net::UdpSocket::bind((GATEWAY.0, 0)).unwrap();
            socket.send_to(MARKER, to).unwrap();
        };
        self.router.run(send);
        wait::until_true("the end of the capture", || {
            let tail = tail(&self.file).unwrap_or_default();
            tail.windows(MARKER.len()).any(|window| window == MARKER)
        })
        .await;
        self.tcpdump.terminate();
        self.tcpdump.ended().await;
        let told = self.tcpdump.stderr();
        assert!(told.contains("\n0 packets dropped by kernel"), "the capture has holes: {told}");
        let bytes = fs::read(&self.file).unwrap();
        let _ = fs::remove_file(&self.file);
        wire::report(&bytes, &|ip| super::is_of(pods, ip))
    }
}

/// The end of a file, where the marker is looked for.
fn tail(file: &Path) -> io::Result<Vec<u8>> {
    const LENGTH: u64 = 64 * 1024;
    let mut file = File::open(file)?;
    let from = file.metadata()?.len().saturating_sub(LENGTH);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
