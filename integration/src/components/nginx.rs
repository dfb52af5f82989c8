//! nginx: HTTP/1.0, HTTP/1.1 and cleartext HTTP/2 of another implementation, and an app that does
//! its own TLS.

use std::fs;
use std::path::Path;

use super::{SERVER, Server, folder_of};
use crate::netns::{Pod, user};
use crate::process::Process;

/// The ports of one nginx.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// HTTP/1.
    pub http: u16,
    /// HTTP/2 without TLS.
    pub h2: u16,
    /// TLS 1.2 and 1.3, then HTTP/1.1 or HTTP/2.
    pub tls: u16,
}

/// Starts it, as one process: workers would outlive a master that is killed. It keeps what is PUT
/// under `/files/`, says hello at `/hello`, and at `/who` tells the address of its client.
///
/// # Panics
/// When it does not start.
pub async fn start(pod: &Pod, parent: &Path, ports: Ports, certificate: &str, key: &str) -> Server {
    let folder = folder_of(parent, "nginx", SERVER);
    user::open_to_all(&folder);
    let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
    write("app.pem", certificate);
    write("app.key", key);
    write("nginx.conf", &config(ports));
    let mut command = user::command(SERVER, &[], "nginx");
    command.arg("-p").arg(&folder).args(["-e", "stderr", "-c", "nginx.conf"]);
    let process = Process::start_in(pod.space(), "nginx", command, parent);
    Server::listening(process, pod, ports.http).await
}

fn config(ports: Ports) -> String {
    let Ports { http, h2, tls } = ports;
    format!(
        "daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{ }}
http {{
  access_log off;
  default_type text/plain;
  client_body_temp_path body;
  proxy_temp_path proxy;
  fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi;
  scgi_temp_path scgi;
  client_max_body_size 0;
  ssl_certificate app.pem;
  ssl_certificate_key app.key;
  ssl_protocols TLSv1.2 TLSv1.3;
  server {{
    listen [::]:{http} ipv6only=off;
    listen [::]:{h2} ipv6only=off http2;
    listen [::]:{tls} ipv6only=off ssl http2;
    location = /hello {{ return 200 \"hello $server_protocol $request_uri\\n\"; }}
    location = /who {{ return 200 \"$remote_addr\\n\"; }}
    location /files/ {{
      root .;
      dav_methods PUT DELETE;
      create_full_put_path on;
    }}
  }}
}}
"
    )
}
