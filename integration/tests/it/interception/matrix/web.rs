//! What sidecars understand: HTTP in every form, gRPC, WebSocket, CONNECT.

use std::cell::Cell;
use std::io;
use std::process::Command;

use countersign_integration::components::{finish, run};
use countersign_integration::netns::{Family, Mode};
use countersign_integration::{process, wait};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::stage::{Stage, curl, ports};

pub(super) async fn http10(stage: &Stage, family: Family) {
    let url = stage.url(family, ports::HTTP, "/hello?a=b");
    let told = stage.curl(&["--http1.0", "-w", "%{http_code}", &url]).await;
    assert!(told.starts_with("hello HTTP/1.") && told.ends_with("/hello?a=b\n200"), "{told}");
}

pub(super) async fn http11_keep_alive(stage: &Stage, family: Family) {
    let url = stage.url(family, ports::HTTP, "/hello");
    let told = stage.curl(&["-w", "%{num_connects} ", &url, &url, &url]).await;
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(
        told,
        ["hello HTTP/1.1 /hello", "1 hello HTTP/1.1 /hello", "0 hello HTTP/1.1 /hello", "0 "]
    );
}

/// No client program pipelines any more; the bytes are what one would send.
pub(super) async fn http11_pipelining(stage: &Stage, family: Family) {
    let mut stream = stage.client.connect(stage.server.at(family, ports::HTTP)).await.unwrap();
    let request = |path: &str, last: &str| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{last}\r\n");
    let all = [
        request("/hello?1", ""),
        request("/hello?2", ""),
        request("/hello?3", "Connection: close\r\n"),
    ];
    stream.write_all(all.concat().as_bytes()).await.unwrap();
    let mut told = String::new();
    wait::ends("three answers", stream.read_to_string(&mut told)).await.unwrap();
    let order: Vec<_> = ["/hello?1\n", "/hello?2\n", "/hello?3\n"].map(|one| told.find(one)).into();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{told}");
}

pub(super) async fn http11_chunked(stage: &Stage, family: Family) {
    let file = stage.lab.folder().join("chunked.bin");
    let body: Vec<u8> = (0..3_000_000_u32).map(|at| at.to_le_bytes()[1]).collect();
    std::fs::write(&file, &body).unwrap();
    let url = stage.url(family, ports::HTTP, &format!("/files/{family:?}-chunked"));
    let upload = format!("Transfer-Encoding: chunked;-T;{};{url}", file.display());
    let mut arguments = vec!["-H"];
    arguments.extend(upload.split(';'));
    arguments.extend(["-w", "%{http_code}"]);
    assert_eq!(stage.curl(&arguments).await, "201");
    let back = finish(&stage.client, curl(&[&url])).await;
    assert!(back.stdout == body, "{} bytes came back", back.stdout.len());
}

pub(super) async fn http11_expect_continue(stage: &Stage, family: Family) {
    let file = stage.lab.folder().join("expected.bin");
    std::fs::write(&file, vec![b'x'; 100_000]).unwrap();
    let url = stage.url(family, ports::HTTP, &format!("/files/{family:?}-expected"));
    let path = file.display().to_string();
    let arguments = ["-v", "--http1.1", "-H", "Expect: 100-continue", "--expect100-timeout", "30"];
    let mut command = curl(&arguments);
    command.args(["-w", "%{http_code}", "-T", &path, &url]);
    let done = finish(&stage.client, command).await;
    let log = String::from_utf8_lossy(&done.stderr);
    assert_eq!(String::from_utf8_lossy(&done.stdout), "201", "{log}");
    assert!(log.contains("< HTTP/1.1 100"), "the client was told to go on: {log}");
}

pub(super) async fn http11_absolute_form(stage: &Stage, family: Family) {
    let url = stage.url(family, ports::HTTP, "/hello?absolute");
    let told = stage.curl(&["--request-target", &url, "-w", "%{http_code}", &url]).await;
    assert!(told.ends_with("/hello?absolute\n200"), "{told}");
}

pub(super) async fn http2(stage: &Stage, family: Family) {
    let url = stage.url(family, ports::H2, "/hello");
    let told = stage.curl(&["--http2-prior-knowledge", "-w", "%{http_version}", &url]).await;
    assert_eq!(told, "hello HTTP/2.0 /hello\n2");
    let mut many = Command::new("h2load");
    many.args(["-n", "300", "-c", "3", "-m", "20", "-H", ":authority: server.data", &url]);
    let told = run(&stage.client, many).await;
    assert!(told.contains("300 succeeded, 0 failed"), "{told}");
    assert!(told.contains("300 2xx"), "{told}");
}

pub(super) async fn grpc(stage: &Stage, family: Family) {
    let seen = stage.call("grpc-call", family, ports::GRPC, &[]).await;
    for what in ["unary", "collect", "split", "chat"] {
        assert_eq!(seen[what], true, "{what}: {seen}");
    }
    assert_eq!(seen["trailer"], "1024000", "{seen}");
    assert_eq!(seen["deadline"], "DEADLINE_EXCEEDED", "{seen}");
    assert_eq!(seen["denied"], "PERMISSION_DENIED", "{seen}");
}

pub(super) async fn websocket(stage: &Stage, family: Family) {
    let seen = stage.call("ws-call", family, ports::WEBSOCKET, &[]).await;
    for what in ["text", "binary", "ping"] {
        assert_eq!(seen[what], true, "{what}: {seen}");
    }
    assert_eq!(seen["close"], 4711, "{seen}");
}

pub(super) async fn connect(stage: &Stage, family: Family) {
    let proxy = stage.url(family, ports::CONNECT, "");
    let inner = format!("http://127.0.0.1:{}/hello?tunnel", ports::HTTP);
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "-g", "--noproxy", "", "-p", "-x", &proxy, "-w"]);
    command.args(["%{http_connect}", &inner]);
    let told = run(&stage.client, command).await;
    assert_eq!(told, "hello HTTP/1.1 /hello?tunnel\n200");
}

pub(super) async fn server_sent_events(stage: &Stage, family: Family) {
    let name = format!("events-{family:?}");
    let url = stage.url(family, ports::WEB, "/events");
    let events = stage.client.start(&name, curl(&["-N", &url]), stage.lab.folder());
    for number in 1..=3 {
        let event = format!("data: event {number}\n");
        // Each is out before the server is asked for the next.
        wait::until_true(&event, || events.stdout().contains(&event)).await;
        let next = format!("data: event {}\n", number + 1);
        assert!(!events.stdout().contains(&next), "{}", events.stdout());
        if number < 3 {
            stage.curl(&[&stage.url(family, ports::WEB, "/go")]).await;
        }
    }
    assert!(events.ended().await.success(), "{}", events.tail());
}

pub(super) async fn large_bodies(stage: &Stage, family: Family) {
    let file = stage.lab.folder().join("large.bin");
    let body: Vec<u8> =
        (0..8_000_000_u32).map(|at| at.to_le_bytes()[2] ^ at.to_le_bytes()[0]).collect();
    std::fs::write(&file, &body).unwrap();
    let path = file.display().to_string();
    for (port, version) in [(ports::HTTP, "--http1.1"), (ports::H2, "--http2-prior-knowledge")] {
        let url = stage.url(family, port, &format!("/files/{family:?}-{port}"));
        assert_eq!(stage.curl(&[version, "-T", &path, "-w", "%{http_code}", &url]).await, "201");
        let back = finish(&stage.client, curl(&[version, &url])).await;
        assert!(back.stdout == body, "{version}: {} bytes came back", back.stdout.len());
    }
}

/// More than all buffers on the way can hold.
const MORE_THAN_BUFFERS: usize = 24 << 20;

pub(super) async fn slow_download_holds_the_server_back(stage: &Stage, family: Family) {
    let at = stage.server.at(family, ports::WEB);
    let mut stream = stage.client.connect(at).await.unwrap();
    let request = format!("GET /bytes/{MORE_THAN_BUFFERS} HTTP/1.0\r\nHost: a\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let before = Cell::new(0);
    let stuck = wait::until("the server to be stuck", || async {
        let moved = stage.curl(&[&stage.url(family, ports::WEB, "/moved")]).await;
        let moved: usize = moved.parse().unwrap();
        let is_same = before.replace(moved) == moved && moved > 0;
        is_same.then_some(moved)
    })
    .await;
    assert!(stuck < MORE_THAN_BUFFERS, "nobody held the server back");
    let mut all = Vec::new();
    wait::ends("the download", stream.read_to_end(&mut all)).await.unwrap();
    let head = all.windows(4).position(|four| four == b"\r\n\r\n").unwrap() + 4;
    assert_eq!(all.len() - head, MORE_THAN_BUFFERS, "of {}", String::from_utf8_lossy(&all[..head]));
    assert!(all[head..].chunks(256).all(|piece| piece[17] == 17), "other bytes came");
}

pub(super) async fn slow_upload_holds_the_client_back(stage: &Stage, family: Family) {
    let at = stage.server.at(family, ports::WEB);
    let mut stream = stage.client.connect(at).await.unwrap();
    let head = format!(
        "POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: {MORE_THAN_BUFFERS}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let (body, mut sent) = (vec![7_u8; MORE_THAN_BUFFERS], 0);
    while let Ok(more) = push(&stream, &body[sent..]).await {
        sent += more;
    }
    assert!(sent < MORE_THAN_BUFFERS, "nobody held the client back");
    stage.curl(&[&stage.url(family, ports::WEB, "/go")]).await;
    stream.write_all(&body[sent..]).await.unwrap();
    let mut told = String::new();
    wait::ends("the answer", stream.read_to_string(&mut told)).await.unwrap();
    let file = stage.lab.folder().join("upload.bin");
    std::fs::write(&file, &body).unwrap();
    let sum = process::run(Command::new("sha256sum").arg(&file));
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    assert!(told.ends_with(&sum[..64]), "{told} instead of {sum}");
}

/// Writes what fits, once there is room; an error when there is none for a while.
async fn push(stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    if bytes.is_empty() {
        return Err(io::ErrorKind::WriteZero.into());
    }
    let patience = std::time::Duration::from_secs(1);
    loop {
        tokio::time::timeout(patience, stream.writable()).await.map_err(io::Error::other)??;
        match stream.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

pub(super) async fn whom_the_app_sees(stage: &Stage, family: Family) {
    let told = stage.curl(&[&stage.url(family, ports::HTTP, "/who")]).await;
    let seen: std::net::IpAddr = told.trim().trim_start_matches("::ffff:").parse().unwrap();
    let expected = match stage.mode {
        Mode::Redirect => &stage.server,
        Mode::Tproxy => &stage.client,
    };
    assert_eq!(seen, expected.ip(family), "{:?}", stage.mode);
}
