use std::net::{IpAddr, SocketAddr};

use super::{captured, config};
use crate::intercept::guard::{Closed, OwnAddresses, Passed, Side, check};

fn judge(side: Side, original: &str) -> Result<Passed, Closed> {
    let config = config(&captured("redirect"));
    let pod: [IpAddr; 2] = ["10.0.0.7".parse().unwrap(), "fd00::7".parse().unwrap()];
    let original: SocketAddr = original.parse().unwrap();
    let listener = match side {
        Side::Inbound => "[::]:15006".parse().unwrap(),
        Side::Outbound => SocketAddr::new(
            if original.is_ipv4() { [127, 0, 0, 1].into() } else { IpAddr::V6(1.into()) },
            15001,
        ),
    };
    check(side, original, listener, &config, |ip| pod.contains(&ip))
}

#[test]
fn every_line_of_the_loop_guard() {
    use Side::{Inbound, Outbound};
    for (side, original, expected) in [
        (Inbound, "10.0.0.7:8080", Ok(Passed::Serve)),
        (Inbound, "[fd00::7]:5432", Ok(Passed::Serve)),
        (Inbound, "10.0.0.7:15022", Ok(Passed::Ready)),
        (Inbound, "[fd00::7]:15022", Ok(Passed::Ready)),
        (Inbound, "10.0.0.7:15006", Err(Closed::OwnPort)),
        (Inbound, "10.0.0.7:15001", Err(Closed::OwnPort)),
        (Inbound, "[fd00::7]:15000", Err(Closed::OwnPort)),
        (Inbound, "10.0.0.7:15020", Err(Closed::OwnPort)),
        (Inbound, "127.0.0.1:15006", Err(Closed::OwnPort)),
        (Inbound, "127.0.0.1:8080", Err(Closed::ForeignDst)),
        (Inbound, "[::1]:8080", Err(Closed::ForeignDst)),
        (Inbound, "10.0.0.8:8080", Err(Closed::ForeignDst)),
        (Inbound, "10.0.0.8:15022", Err(Closed::ForeignDst)),
        (Inbound, "10.0.0.8:15006", Err(Closed::ForeignDst)),
        (Inbound, "0.0.0.0:8080", Err(Closed::ForeignDst)),
        (Outbound, "10.0.0.8:8080", Ok(Passed::Serve)),
        (Outbound, "10.0.0.7:8080", Ok(Passed::Serve)),
        (Outbound, "10.0.0.8:15006", Ok(Passed::Serve)),
        (Outbound, "10.0.0.7:15022", Ok(Passed::Serve)),
        (Outbound, "10.0.0.7:15006", Err(Closed::OwnPort)),
        (Outbound, "[fd00::7]:15021", Err(Closed::OwnPort)),
        (Outbound, "127.0.0.1:15001", Err(Closed::NotRedirected)),
        (Outbound, "[::1]:15001", Err(Closed::NotRedirected)),
    ] {
        assert_eq!(judge(side, original), expected, "{side:?} {original}");
    }
}

#[test]
fn addresses_of_interfaces_and_of_the_configuration_are_ours() {
    let config =
        config(&format!("{}  interception: {{podIps: [10.0.0.7]}}\n", captured("redirect")));
    let own = OwnAddresses::default();
    for (ip, expected) in
        [("10.0.0.7", true), ("127.0.0.1", true), ("192.0.2.1", false), ("2001:db8::1", false)]
    {
        assert_eq!(own.contains(ip.parse().unwrap(), &config), expected, "{ip}");
    }
}
