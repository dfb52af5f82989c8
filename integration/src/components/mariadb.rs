//! MariaDB: the server speaks first, so a proxy that waits for the client's first bytes stalls.

use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use super::{Server, folder_of, prepare};
use crate::netns::{Pod, user};
use crate::process::Process;

const USER: &str = "mysql";

/// Starts a server whose user `root` needs no password from anywhere.
///
/// # Panics
/// When it does not start.
pub async fn start(pod: &Pod, parent: &Path, port: u16) -> Server {
    let folder = folder_of(parent, "mariadb", USER);
    let data = folder.join("data");
    let mut install = user::command(USER, &[], "mariadb-install-db");
    install.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
    install.args(["--auth-root-authentication-method=normal", "--skip-test-db", "--force"]);
    install.args(["--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"]);
    // A server clears its temporary folder of what it takes for its own remains.
    install.env("TMPDIR", &folder);
    prepare(install).await;
    let start = folder.join("start.sql");
    let everywhere = "CREATE USER app@'%';\nGRANT ALL ON *.* TO app@'%';\nCREATE DATABASE shop;\n";
    std::fs::write(&start, everywhere).unwrap();
    let mut command = user::command(USER, &[], "mariadbd");
    command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
    command.env("TMPDIR", &folder);
    command.arg(format!("--socket={}", folder.join("socket").display()));
    command.arg(format!("--pid-file={}", folder.join("pid").display()));
    command.arg(format!("--init-file={}", start.display())).arg(format!("--port={port}"));
    command.args(["--bind-address=*", "--skip-name-resolve", "--innodb-flush-log-at-trx-commit=0"]);
    let process = Process::start_in(pod.space(), "mariadb", command, parent);
    Server::listening(process, pod, port).await
}

/// `mariadb` with one statement.
pub fn client(host: IpAddr, port: u16, statement: &str) -> Command {
    let mut command = Command::new("mariadb");
    command.args([
        "--no-defaults",
        "--protocol=tcp",
        "--user=app",
        "--batch",
        "--skip-column-names",
    ]);
    command.arg(format!("--host={host}")).arg(format!("--port={port}"));
    command.args(["--connect-timeout=20", "--database=shop", "--execute", statement]);
    command
}
