use serde_json::json;

use super::*;

const NOW: u64 = 1_800_000_000;

fn now() -> Now {
    Now::from_micros(NOW * 1_000_000)
}

fn certificate() -> DeviceSource {
    DeviceSource::ClientCertificate {
        trust_bundle: "devices".to_owned(),
        id: CertificateName::CommonName,
        tier: Some("2".to_owned()),
        managed: Some(true),
    }
}

fn header() -> DeviceSource {
    let name = |text: &str| Some(text.to_owned());
    DeviceSource::Header {
        proxy: "iap".to_owned(),
        id: "x-device-id".to_owned(),
        tier: name("x-device-tier"),
        managed: name("x-device-managed"),
        at: name("x-device-at"),
    }
}

fn rules(sources: Vec<DeviceSource>) -> DeviceRules {
    DeviceRules { sources, validate: None }
}

fn iap() -> VouchingProxy {
    VouchingProxy {
        name: "iap".to_owned(),
        trust_bundle: "proxies".to_owned(),
        dns: vec!["iap.test".to_owned()],
        groups: None,
    }
}

fn names() -> ClientNames {
    ClientNames {
        common_name: Some("d-1".to_owned()),
        dns: vec!["a.test".to_owned(), "b.test".to_owned()],
        uris: Vec::new(),
        not_before: NOW - 3600,
    }
}

/// The device that fields of the proxy, or of somebody else, establish.
fn by_fields(fields: &[(&'static str, &'static str)], vouches: bool) -> Option<Device> {
    let (taken, iap) = (taken(fields), iap());
    let proxies = if vouches { vec![&iap] } else { Vec::new() };
    let seen = Seen { vouching: &[], names: None, proxies: &proxies, taken: &taken, user: None };
    find(&rules(vec![header()]), &seen, now())
}

fn taken(fields: &[(&'static str, &'static str)]) -> Taken {
    let mut headers = http::HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, http::HeaderValue::from_static(value));
    }
    let policy = crate::gateway::vouched::policy_for_tests(vec![header()], vec![iap()]);
    crate::gateway::vouched::take(&policy, &mut headers)
}

#[test]
fn a_certificate_counts_only_where_its_authority_vouches() {
    let (names, taken) = (names(), taken(&[]));
    let by = |vouching: &[Arc<str>]| {
        let seen = Seen { vouching, names: Some(&names), proxies: &[], taken: &taken, user: None };
        find(&rules(vec![certificate()]), &seen, now())
    };
    let device = by(&["devices".into()]).unwrap();
    assert_eq!((device.id.as_str(), device.src), ("d-1", Source::Mtls));
    assert_eq!(device.at, Some(UnixTime(NOW - 3600)));
    assert!(by(&["proxies".into()]).is_none());
    assert!(by(&[]).is_none());
}

#[test]
fn a_name_that_stands_there_twice_is_none() {
    let (names, taken) = (names(), taken(&[]));
    let vouching: Vec<Arc<str>> = vec!["devices".into()];
    for (which, expected) in [
        (CertificateName::CommonName, Some("d-1")),
        (CertificateName::Dns, None),
        (CertificateName::Uri, None),
    ] {
        let source = DeviceSource::ClientCertificate {
            trust_bundle: "devices".to_owned(),
            id: which,
            tier: None,
            managed: None,
        };
        let seen = Seen {
            vouching: &vouching,
            names: Some(&names),
            proxies: &[],
            taken: &taken,
            user: None,
        };
        let device = find(&rules(vec![source, header()]), &seen, now());
        assert_eq!(device.map(|device| device.id).as_deref(), expected, "{which:?}");
    }
}

#[test]
fn attack_sends_device_fields_without_being_the_proxy() {
    let fields = [("x-device-id", "d-1"), ("x-device-managed", "true")];
    assert!(by_fields(&fields, false).is_none());
    let device = by_fields(&fields, true).unwrap();
    assert_eq!(device.src, Source::Header("iap".to_owned()));
    assert_eq!((device.managed, device.tier, device.at), (Some(true), None, None));
}

#[test]
fn fields_that_are_not_understood_establish_nothing() {
    let sound = ("x-device-id", "d-1");
    for odd in [
        ("x-device-managed", "yes"),
        ("x-device-managed", ""),
        ("x-device-at", "soon"),
        ("x-device-at", "1800000061"),
        ("x-device-at", "-1"),
        ("x_device_id", "d-2"),
    ] {
        assert!(by_fields(&[sound, odd], true).is_none(), "{odd:?}");
    }
    assert!(by_fields(&[("x-device-id", "d-1"), ("x-device-id", "d-2")], true).is_none());
    assert!(by_fields(&[("x-device-managed", "true")], true).is_none());
    let full = [sound, ("x-device-tier", "1"), ("x-device-at", "1799999000")];
    let device = by_fields(&full, true).unwrap();
    assert_eq!((device.tier.as_deref(), device.at), (Some("1"), Some(UnixTime(1_799_999_000))));
}

#[test]
fn a_validator_replaces_what_its_source_said() {
    let device = by_fields(&[("x-device-id", "d-1"), ("x-device-managed", "true")], true).unwrap();
    let facts = json!({"managed": false, "tier": "3"});
    let told = validated(device.clone(), facts.as_object().unwrap(), NOW).unwrap();
    assert_eq!((told.managed, told.tier.as_deref()), (Some(false), Some("3")));
    assert_eq!(told.at, Some(UnixTime(NOW)));
    for (at, counts) in [(json!(NOW), true), (json!(NOW * 1_000), false), (json!(-1), false)] {
        let facts = json!({"at": at});
        let told = validated(device.clone(), facts.as_object().unwrap(), NOW);
        assert_eq!(told.is_some(), counts, "{at}");
    }
    let silent = unvalidated(device);
    assert_eq!((silent.id.as_str(), silent.managed, silent.at), ("d-1", None, None));
}
