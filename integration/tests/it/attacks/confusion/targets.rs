//! Which resource of which host is meant, by which method, and which fields count.

use super::{DOORS, House};

const PATH: &str = "/v1/users/alice/orders";

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n^Connection: close\r\n\r\n")
}

#[tokio::test]
async fn attack_hides_separator_in_path() {
    let house = House::start().await;
    // The outbound sidecar hands paths on as they are; whoever decides about them refuses.
    for target in [
        "/v1%2Fusers/alice/orders",
        "/v1/users/alice%2f..%2fbob/orders",
        "/v1/users/alice%5Corders",
        "/v1\\users\\alice",
        "/v1//users/alice/orders",
        "/v1/users/bob/../alice/orders",
        "/v1/users/./alice/orders",
        "/v1/users/bob/%2e%2e/alice/orders",
        "/v1/users/alice;a=b/orders",
        "/v1/users/alice/..;/bob/orders",
        "/v1/users/alice%252Forders",
        "/v1/users/alice%00/orders",
        "/v1/users/%zz/orders",
        "/v1/users/%c0%ae/orders",
        "/v1/users/alice/orders#/../admin",
    ] {
        house.refuses(get(target)).await;
    }
    house.still_serves().await;
}

#[tokio::test]
async fn attack_writes_an_odd_request_line() {
    let house = House::start().await;
    for line in [
        format!("GET  {PATH} HTTP/1.1"),
        format!("GET {PATH}  HTTP/1.1"),
        format!("GET {PATH} HTTP/1.1 "),
        format!(" GET {PATH} HTTP/1.1"),
        format!("GET\t{PATH} HTTP/1.1"),
        format!("GET {PATH} HTTP/1.2"),
        format!("GET {PATH} HTTP/2.0"),
        format!("GET {PATH} http/1.1"),
        format!("GET {PATH}"),
        format!("GET {PATH} HTTP/1.1 HTTP/1.1"),
        format!("G(T {PATH} HTTP/1.1"),
        "GET ftp://orders.shop/ HTTP/1.1".to_owned(),
        "GET orders.shop HTTP/1.1".to_owned(),
        "GET * HTTP/1.1".to_owned(),
    ] {
        house.refuses(format!("{line}\r\n^Connection: close\r\n\r\n")).await;
    }
    house.still_serves().await;
}

#[tokio::test]
async fn attack_uses_absolute_form_with_other_host() {
    let house = House::start().await;
    for authority in ["admin.shop", "admin.shop:80", "user@orders.shop", "orders.shop.evil"] {
        let line = format!("GET http://{authority}{PATH} HTTP/1.1");
        house.refuses(format!("{line}\r\n^Connection: close\r\n\r\n")).await;
    }
    house.still_serves().await;
}

#[tokio::test]
async fn attack_sends_two_hosts_or_none() {
    let house = House::start().await;
    for fields in [
        "Host: admin.shop\r\n^",
        "^Host: admin.shop\r\n",
        "^Host: orders.shop\r\n",
        "Host: \r\n",
        "Host: a b\r\n",
        "Host: a/b\r\n",
        "Host: orders.shop:99999\r\n",
        "Host: orders.shop:\r\n",
        "Host : orders.shop\r\n",
        "",
    ] {
        house.refuses(format!("GET {PATH} HTTP/1.1\r\n{fields}Connection: close\r\n\r\n")).await;
    }
    house.still_serves().await;
}

/// Decided on as a GET, meant as something else: what servers obey beside the method is taken out,
/// and a misspelled method is no other method.
#[tokio::test]
async fn attack_overrides_the_method_by_header() {
    let house = House::start().await;
    for door in DOORS {
        let text = format!(
            "GET {PATH} HTTP/1.1\r\n^X-HTTP-Method-Override: DELETE\r\nX-HTTP-Method: DELETE\r\n\
             X-Method-Override: DELETE\r\nX_HTTP_Method_Override: DELETE\r\nX-Original-URL: /admin\r\n\
             X-Rewrite-URL: /admin\r\nConnection: close\r\n\r\n"
        );
        let answer = house.send(door, text.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{door:?} {answer}");
        let seen = house.app.last();
        assert_eq!(seen.method, "GET");
        for (name, value) in &seen.headers {
            assert!(!value.as_bytes().starts_with(b"DELETE"), "{door:?} {name}");
            assert!(!value.as_bytes().starts_with(b"/admin"), "{door:?} {name}");
        }
    }
    let house = House::start().await;
    for method in ["get", "Get", "dELETE"] {
        house.refuses(format!("{method} {PATH} HTTP/1.1\r\n^Connection: close\r\n\r\n")).await;
    }
}

/// A field that would be removed for the asking must not be one that says who, what or how long.
#[tokio::test]
async fn attack_nominates_fields_that_matter() {
    let house = House::start().await;
    for name in [
        "Countersign-User",
        "countersign_caller",
        "Txn-Token",
        "Countersign-Context",
        "Host",
        "Content-Length",
        "Transfer-Encoding",
        "Authorization",
        "Cookie",
        "Content-Type",
        "X-Forwarded-For",
        "a b",
    ] {
        house.refuses(format!("GET {PATH} HTTP/1.1\r\n^Connection: close, {name}\r\n\r\n")).await;
    }
    house.still_serves().await;
}

#[tokio::test]
async fn attack_breaks_a_field_line() {
    let house = House::start().await;
    for field in [
        "no colon",
        ": no name",
        "two words: x",
        "X(y): z",
        "X\u{e9}: z",
        "X: a\u{0}b",
        "X: a\rb",
        "X: \u{7f}",
    ] {
        house.refuses(format!("GET {PATH} HTTP/1.1\r\n^{field}\r\n\r\n")).await;
    }
    let many = "A: b\r\n".repeat(101);
    house.refuses(format!("GET {PATH} HTTP/1.1\r\n^{many}\r\n")).await;
    house.still_serves().await;
}

/// No rule reads the query and nothing here rewrites it: whoever binds a parameter later sees both
/// values, in their order, and so does the app.
#[tokio::test]
async fn attack_repeats_query_key_to_dodge_binding() {
    let house = House::start().await;
    let target = format!("{PATH}?user=alice&user=bob&USER=eve&user%5B%5D=x&&a;b");
    for door in DOORS {
        let answer = house.send(door, get(&target).as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{door:?} {answer}");
        assert_eq!(house.app.last().target, target, "{door:?}");
    }
}

/// A second request behind a refused one is not looked at, whatever it is.
#[tokio::test]
async fn attack_hides_a_good_head_behind_a_bad_one() {
    let house = House::start().await;
    house.refuses(format!("GET {PATH} HTTP/1.1\r\n^Bad Name: x\r\n\r\n{}", get(PATH))).await;
    // And a bad one behind a good one is refused in its turn.
    for door in DOORS {
        let good = format!("GET {PATH} HTTP/1.1\r\n^\r\n");
        let bad = format!("GET {PATH}/second HTTP/1.1\r\n^X : y\r\n\r\n{}", get(PATH));
        let answer = house.send(door, format!("{good}{bad}").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{door:?} {answer}");
        assert_eq!(answer.matches("HTTP/1.1 200").count(), 1, "{door:?} {answer}");
        assert!(!house.app.last().target.contains("second"), "{door:?}");
    }
    assert_eq!(house.app.seen().len(), 3);
}
