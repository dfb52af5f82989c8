//! OpenSMTPD: the server speaks first, each side waits for the other's line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Server, folder_of};
use crate::netns::Pod;
use crate::process::Process;

/// A server that keeps what it gets in one file.
pub struct Smtp {
    /// The server.
    pub server: Server,
    mailbox: PathBuf,
}

/// Under whom it hands over mail.
const USER: &str = "opensmtpd";

/// Starts it. Its spool and its socket have fixed places, so it gets a view of its own of them; and
/// of who answers for names: nobody, at once, for it looks up every client's before it greets.
///
/// # Panics
/// When it does not start.
pub async fn start(pod: &Pod, parent: &Path, port: u16) -> Smtp {
    let folder = folder_of(parent, "smtp", USER);
    let (config, mailbox) = (folder.join("smtpd.conf"), folder.join("mail"));
    let text = format!(
        "listen on 0.0.0.0 port {port} hostname mail.shop
listen on :: port {port} hostname mail.shop
table users {{ \"@\" = \"{USER}\" }}
action \"keep\" mda \"/bin/cat >> {}\" virtual <users>
match from any for any action \"keep\"\n",
        mailbox.display()
    );
    fs::write(&config, text).unwrap();
    let script = "set -e
mount -t tmpfs -o mode=755 spool /var/spool
mkdir -m 711 /var/spool/smtpd
mount -t tmpfs -o mode=755 run /run
printf 'nameserver 127.0.0.1\n' >/run/resolv.conf
mount --bind /run/resolv.conf /etc/resolv.conf
exec smtpd -d -f \"$1\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "smtpd"]).arg(&config);
    let process = Process::start_in(pod.space(), "smtpd", command, parent);
    Smtp { server: Server::listening(process, pod, port).await, mailbox }
}

impl Smtp {
    /// Everything delivered so far.
    pub fn mail(&self) -> String {
        fs::read_to_string(&self.mailbox).unwrap_or_default()
    }
}
