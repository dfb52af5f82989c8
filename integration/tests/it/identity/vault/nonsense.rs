//! Whatever comes back, the good identity stays, and nothing that was sent is shown.

use std::fs;

use countersign_integration::{Authority, process, programs, wait};
use serde_json::json;

use super::between::{Between, Fault};
use super::{DOMAIN, Stage, says};

/// Nonsense, and what is said about it. `nameless` is a request without a name.
fn cases(nameless: String) -> Vec<(Fault, Vec<&'static str>)> {
    let sign = |status, body: &'static str| Fault::Answer("/sign/", status, body.into());
    let signed = |certificate: &str| {
        let body = json!({"data": {"certificate": certificate}}).to_string();
        Fault::Answer("/sign/", 200, body.into())
    };
    let other = Authority::new(DOMAIN).leaf("shop", "orders");
    vec![
        (sign(200, "<html>welcome</html>"), vec!["sign of", "not JSON", "is this the API of"]),
        (sign(200, "{}"), vec!["the answer holds no `data`"]),
        (sign(200, "{\"data\": {\"certificate\": 7}}"), vec!["JSON of another form"]),
        (sign(204, ""), vec!["status 204"]),
        (sign(307, ""), vec!["status 307", "a standby that does not forward"]),
        (sign(429, "{\"errors\": [\"rate limit\"]}"), vec!["status 429", "rate limit quota"]),
        (sign(500, "boom\u{1b}[31m\nboom"), vec!["status 500: boom [31m boom", "own log"]),
        (signed("no PEM"), vec!["`certificate` holds no certificate"]),
        (signed(&other.chain_pem), vec!["no authority of its trust domain vouches"]),
        (Fault::Swap(nameless), vec!["0 URI names", "dropped the name", "use_csr_sans=true"]),
        (
            Fault::Answer("/sign/", 200, vec![b'x'; 300 * 1024].into()),
            vec!["the answer is larger than 262144 bytes"],
        ),
        (
            Fault::Answer("/issuers", 200, "{\"data\": {\"keys\": [\"../../x\"]}}".into()),
            vec!["list the issuers", "is not the id of an issuer"],
        ),
        (
            Fault::Answer("/json", 200, "{\"data\": {\"certificate\": \"x\"}}".into()),
            vec!["fetch an issuer", "holds no certificate"],
        ),
        (
            Fault::Answer("/crl/pem", 200, "garbage".into()),
            vec!["fetch a revocation list", "not a revocation list"],
        ),
        (
            Fault::Answer("/login", 200, "{\"auth\": {\"client_token\": \"\"}}".into()),
            vec!["log in of", "no usable `client_token`"],
        ),
        (Fault::Echo("/login"), vec!["log in of", "status 400", "(withheld)"]),
        (Fault::Echo("/sign/"), vec!["sign of", "status 400", "(withheld)"]),
    ]
}

#[tokio::test]
async fn nonsense_never_replaces_a_good_identity() {
    let test = "nonsense_never_replaces_a_good_identity";
    let Some(openssl) = programs::system(test, "openssl") else { return };
    let Some(stage) = Stage::new(test, "shop").await else { return };
    stage.follow("approle-method", "", &[]).await;
    let login = stage.approle("orders").await;
    let between = Between::new(&stage.bao);
    let mut identity = stage.identity("orders", login);
    identity["source"]["vault"]["address"] = json!(between.url());
    let held = stage.proxy("held", &identity);
    held.until_ready().await;

    let mut request = std::process::Command::new(openssl);
    request.args(["req", "-new", "-nodes", "-newkey", "ec", "-pkeyopt"]);
    request.args(["ec_paramgen_curve:P-256", "-keyout", "/dev/null", "-subj", "/"]);
    let nameless = String::from_utf8(process::run(&mut request).stdout).unwrap();
    let secret = fs::read_to_string(stage.bao.folder().join("orders.secret-id")).unwrap();
    let before = held.metric("countersign_identity_expires_timestamp_seconds", &[]).await;
    for (number, (fault, said)) in cases(nameless).into_iter().enumerate() {
        let shown = format!("{fault:.60?}");
        between.set(fault);
        let fresh = stage.proxy(&format!("fresh{number}"), &identity);
        says(&fresh, &[said, vec!["identity source failed"]].concat()).await;
        assert_eq!(fresh.ready().await.unwrap().0, 503, "{shown}");
        let log = fresh.log();
        let sent = between.tokens().into_iter().chain([secret.trim().to_owned()]);
        for secret in sent {
            assert!(!log.contains(&secret), "{shown}: {log}");
        }
    }
    // All that time somebody had an identity, and has it still.
    assert_eq!(held.ready().await.unwrap().0, 200);
    // A mount that was made anew vouches for nobody who has a certificate: it takes no trust away.
    let other = Authority::new(DOMAIN);
    let body = json!({"data": {"certificate": other.pem()}}).to_string();
    // Only the first failure of a row is a warning, and some of the above may have been met.
    between.set(Fault::None);
    let told = |what: &str| held.log().matches(what).count();
    wait::until_true("authorities in order", || {
        told("authorities refreshed again") == told("authorities not refreshed")
    })
    .await;
    between.set(Fault::Answer("/json", 200, body.into()));
    says(&held, &["do not vouch for our certificate", "keep the old issuer in `pki`"]).await;
    assert_eq!(held.ready().await.unwrap().0, 200);
    // Revocation lists that cannot be had stay as they were, and end nobody's identity.
    between.set(Fault::Answer("/crl/pem", 200, "garbage".into()));
    let mark = held.metric("countersign_identity_expires_timestamp_seconds", &[]).await;
    says(&held, &["revocation lists not refreshed; those in force stay"]).await;
    wait::until("a certificate without fresh lists", async || {
        let now = held.metric("countersign_identity_expires_timestamp_seconds", &[]).await;
        (now > mark).then_some(())
    })
    .await;
    between.set(Fault::None);
    wait::until("the next certificate", async || {
        let now = held.metric("countersign_identity_expires_timestamp_seconds", &[]).await;
        (now > before).then_some(())
    })
    .await;
}
