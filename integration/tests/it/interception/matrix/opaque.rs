//! What sidecars carry without looking: the app's own TLS and protocols of their own, some of
//! which begin with the server.

use countersign_integration::components::{finish, mariadb, postgres, redis, run};
use countersign_integration::netns::Family;
use countersign_integration::wait;
use tokio::io::AsyncReadExt as _;

use super::stage::{APP_HOST, Stage, curl, ports};

/// TLS 1.2 inside what is TLS 1.3 outside; the client checks the app's certificate.
pub(super) async fn tls_of_the_app(stage: &Stage, family: Family) {
    let resolve = format!("{APP_HOST}:{}:[{}]", ports::TLS, stage.host(family));
    let resolve = match family {
        Family::V4 => resolve.replace(['[', ']'], ""),
        Family::V6 => resolve,
    };
    let authority = stage.lab.folder().join("bundle.pem").display().to_string();
    let url = format!("https://{APP_HOST}:{}/hello", ports::TLS);
    for (most, version) in [("1.2", "TLSv1.2"), ("1.3", "TLSv1.3")] {
        let mut command = curl(&["-v", "--cacert", &authority, "--tls-max", most]);
        command.args(["--resolve", &resolve, &url]);
        let done = finish(&stage.client, command).await;
        let log = String::from_utf8_lossy(&done.stderr);
        assert_eq!(String::from_utf8_lossy(&done.stdout), "hello HTTP/2.0 /hello\n", "{log}");
        assert!(log.contains(&format!("SSL connection using {version}")), "{log}");
    }
}

pub(super) async fn postgresql(stage: &Stage, family: Family) {
    let host = stage.host(family);
    let psql =
        |mode, text: &str| run(&stage.client, postgres::psql(host, ports::POSTGRESQL, mode, text));
    let table = format!("orders_{family:?}");
    let fill = format!(
        "create table {table} as select i, repeat('x', 100) as note from generate_series(1, 20000) i"
    );
    psql("disable", &fill).await;
    let sum = psql("disable", &format!("select sum(i), sum(length(note)) from {table}")).await;
    assert_eq!(sum.trim(), "200010000|2000000");
    let own = "select ssl, version from pg_stat_ssl where pid = pg_backend_pid()";
    let tls = psql("require", own).await;
    assert_eq!(tls.trim(), "t|TLSv1.3", "the client's own TLS passes too");
}

pub(super) async fn mariadb(stage: &Stage, family: Family) {
    let text = format!(
        "create table orders_{family:?} select seq as i, repeat('x', 100) as note from seq_1_to_20000; \
         select sum(i), sum(length(note)) from orders_{family:?}"
    );
    let told = run(&stage.client, mariadb::client(stage.host(family), ports::MARIADB, &text)).await;
    assert_eq!(told.trim(), "200010000\t2000000");
}

pub(super) async fn redis(stage: &Stage, family: Family) {
    let client =
        |words: &[&str]| run(&stage.client, redis::client(stage.host(family), ports::REDIS, words));
    let (key, long) = (format!("key:{family:?}"), "x".repeat(50_000));
    assert_eq!(client(&["set", &key, &long]).await.trim(), "OK");
    assert_eq!(client(&["get", &key]).await.trim(), long);
    assert_eq!(
        client(&["eval", "return redis.call('strlen', KEYS[1])", "1", &key]).await.trim(),
        "50000"
    );
}

pub(super) async fn smtp(stage: &Stage, family: Family) {
    let subject = format!("order over {family:?}");
    let seen = stage.call("smtp-call", family, ports::SMTP, &[&subject]).await;
    assert_eq!((&seen["ehlo"], &seen["refused"]), (&250.into(), &0.into()), "{seen}");
    assert_eq!(seen["server"], "mail.shop", "{seen}");
    let last = format!("line 499 of {subject}\n");
    wait::until_true("the mail", || stage.smtp.mail().contains(&last)).await;
}

pub(super) async fn nats(stage: &Stage, family: Family) {
    let seen = stage.call("nats-call", family, ports::NATS, &[]).await;
    assert_eq!(seen["published"], true, "{seen}");
    assert_eq!(seen["request"], "desserts", "{seen}");
}

pub(super) async fn a_port_without_a_rule_is_closed(stage: &Stage, family: Family) {
    let (_listener, at) =
        (stage.server.listen_all(ports::CLOSED), stage.server.at(family, ports::CLOSED));
    let mut stream = stage.client.connect(at).await.unwrap();
    let mut byte = [0];
    let end = wait::ends("the refusal", stream.read(&mut byte)).await;
    assert!(matches!(end, Ok(0) | Err(_)), "somebody answered");
}
