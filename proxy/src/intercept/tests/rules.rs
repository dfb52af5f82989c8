use expect_test::expect;

use super::{captured, config};
use crate::intercept::iptables;
use crate::intercept::nft::{self, Kind, Listing};
use crate::intercept::rules::{Family, NothingCaptured, Plan};

const SKIPS: &str = "  interception: {skipInboundPorts: [9100], skipOutboundPorts: [5353, 25], \
                     skipOutboundCidrs: [169.254.169.254/32, 10.8.0.0/16, 10.9.0.0/16, 'fd00:1::/32'], \
                     egressOther: drop}\n";

fn plan(mode: &str, more: &str) -> Plan {
    Plan::of(&config(&format!("{}{more}", captured(mode)))).expect("a plan")
}

#[test]
fn the_rules_of_a_plain_pod() {
    expect![[r#"
        add table inet countersign
        delete table inet countersign
        table inet countersign {
          set skip_in { type inet_service; flags interval; elements = { 15020, 15021 }; }
          set skip_out { type inet_service; flags interval; }
          set skip_out4 { type ipv4_addr; flags interval; }
          set skip_out6 { type ipv6_addr; flags interval; }
          chain invalid {
            type filter hook prerouting priority -150; policy accept;
            iifname != "lo" meta l4proto tcp ct state invalid counter drop comment "invalid/drop"
          }
          chain inbound {
            type nat hook prerouting priority -100; policy accept;
            iifname "lo" return comment "inbound/loopback"
            tcp dport @skip_in return comment "inbound/skip"
            meta l4proto tcp fib daddr type local counter redirect to :15006 comment "inbound/redirect"
          }
          chain outbound {
            type nat hook output priority -100; policy accept;
            meta l4proto != tcp counter return comment "outbound/not-tcp"
            ip daddr 127.0.0.0/8 return comment "outbound/loopback4"
            ip6 daddr ::1 return comment "outbound/loopback6"
            ip daddr 192.0.2.1 tcp dport 4747 goto capture comment "outbound/self-test4"
            ip6 daddr 2001:db8::4747 tcp dport 4747 goto capture comment "outbound/self-test6"
            fib daddr type local tcp dport @skip_in return comment "outbound/skip-own"
            meta skuid 4747 goto own comment "outbound/proxy"
            fib daddr type local goto capture comment "outbound/self-call"
            tcp dport @skip_out return comment "outbound/skip-ports"
            ip daddr @skip_out4 return comment "outbound/skip4"
            ip6 daddr @skip_out6 return comment "outbound/skip6"
            goto capture comment "outbound/capture"
          }
          chain own {
            meta priority 0:5 counter return comment "own/to-app"
            meta l4proto tcp fib daddr type local counter redirect to :15006 comment "own/self-call"
          }
          chain capture {
            meta l4proto tcp counter redirect to :15001 comment "capture/redirect"
          }
        }
    "#]].assert_eq(&nft::load(&plan("redirect", ""), &[Kind::Inet]));
}

#[test]
fn every_exemption_in_the_table_of_ipv4() {
    expect![[r#"
        add table ip countersign
        delete table ip countersign
        table ip countersign {
          set skip_in { type inet_service; flags interval; elements = { 9100, 15020, 15021 }; }
          set skip_out { type inet_service; flags interval; elements = { 25, 5353 }; }
          set skip_out4 { type ipv4_addr; flags interval; elements = { 10.8.0.0/15, 169.254.169.254/32 }; }
          chain invalid {
            type filter hook prerouting priority -150; policy accept;
            iifname != "lo" meta l4proto tcp ct state invalid counter drop comment "invalid/drop"
          }
          chain inbound {
            type nat hook prerouting priority -100; policy accept;
            iifname "lo" return comment "inbound/loopback"
            tcp dport @skip_in return comment "inbound/skip"
            meta l4proto tcp fib daddr type local counter redirect to :15006 comment "inbound/redirect"
          }
          chain outbound {
            type nat hook output priority -100; policy accept;
            meta l4proto != tcp counter return comment "outbound/not-tcp"
            ip daddr 127.0.0.0/8 return comment "outbound/loopback4"
            ip daddr 192.0.2.1 tcp dport 4747 goto capture comment "outbound/self-test4"
            fib daddr type local tcp dport @skip_in return comment "outbound/skip-own"
            meta skuid 4747 goto own comment "outbound/proxy"
            fib daddr type local goto capture comment "outbound/self-call"
            tcp dport @skip_out return comment "outbound/skip-ports"
            ip daddr @skip_out4 return comment "outbound/skip4"
            goto capture comment "outbound/capture"
          }
          chain own {
            meta priority 0:5 counter return comment "own/to-app"
            meta l4proto tcp fib daddr type local counter redirect to :15006 comment "own/self-call"
          }
          chain capture {
            meta l4proto tcp counter redirect to :15001 comment "capture/redirect"
          }
          chain egress {
            type filter hook output priority 0; policy accept;
            oifname "lo" return comment "egress/loopback"
            meta l4proto tcp return comment "egress/tcp"
            udp dport 53 return comment "egress/dns"
            meta skuid != 4747 counter drop comment "egress/drop"
          }
        }
    "#]].assert_eq(&nft::load(&plan("redirect", SKIPS), &[Kind::Ip]));
}

#[test]
fn every_exemption_in_the_table_of_ipv6() {
    expect![[r#"
        add table ip6 countersign
        delete table ip6 countersign
        table ip6 countersign {
          set skip_in { type inet_service; flags interval; elements = { 9100, 15020, 15021 }; }
          set skip_out { type inet_service; flags interval; elements = { 25, 5353 }; }
          set skip_out6 { type ipv6_addr; flags interval; elements = { fd00:1::/32 }; }
          chain invalid {
            type filter hook prerouting priority -150; policy accept;
            iifname != "lo" meta l4proto tcp ct state invalid counter drop comment "invalid/drop"
          }
          chain inbound {
            type nat hook prerouting priority -100; policy accept;
            iifname "lo" return comment "inbound/loopback"
            tcp dport @skip_in return comment "inbound/skip"
            meta l4proto tcp fib daddr type local counter redirect to :15006 comment "inbound/redirect"
          }
          chain outbound {
            type nat hook output priority -100; policy accept;
            meta l4proto != tcp counter return comment "outbound/not-tcp"
            ip6 daddr ::1 return comment "outbound/loopback6"
            ip6 daddr 2001:db8::4747 tcp dport 4747 goto capture comment "outbound/self-test6"
            fib daddr type local tcp dport @skip_in return comment "outbound/skip-own"
            meta skuid 4747 goto own comment "outbound/proxy"
            fib daddr type local goto capture comment "outbound/self-call"
            tcp dport @skip_out return comment "outbound/skip-ports"
            ip6 daddr @skip_out6 return comment "outbound/skip6"
            goto capture comment "outbound/capture"
          }
          chain own {
            meta priority 0:5 counter return comment "own/to-app"
            meta l4proto tcp fib daddr type local counter redirect to :15006 comment "own/self-call"
          }
          chain capture {
            meta l4proto tcp counter redirect to :15001 comment "capture/redirect"
          }
          chain egress {
            type filter hook output priority 0; policy accept;
            oifname "lo" return comment "egress/loopback"
            meta l4proto tcp return comment "egress/tcp"
            udp dport 53 return comment "egress/dns"
            meta skuid != 4747 counter drop comment "egress/drop"
          }
        }
    "#]].assert_eq(&nft::load(&plan("redirect", SKIPS), &[Kind::Ip6]));
}

#[test]
fn the_rules_of_tproxy() {
    expect![[r#"
        add table inet countersign
        delete table inet countersign
        table inet countersign {
          set skip_in { type inet_service; flags interval; elements = { 15020, 15021 }; }
          set skip_out { type inet_service; flags interval; }
          set skip_out4 { type ipv4_addr; flags interval; }
          set skip_out6 { type ipv6_addr; flags interval; }
          chain tproxy_in {
            type filter hook prerouting priority -150; policy accept;
            iifname != "lo" meta l4proto tcp ct state invalid counter drop comment "tproxy_in/invalid"
            meta l4proto tcp ct mark 0x4747 meta mark set 0x4747 return comment "tproxy_in/answers"
            iifname "lo" return comment "tproxy_in/loopback"
            meta l4proto tcp ct direction reply return comment "tproxy_in/replies"
            tcp dport @skip_in return comment "tproxy_in/skip"
            meta l4proto tcp socket transparent 1 meta mark set 0x4747 accept comment "tproxy_in/known"
            meta l4proto tcp fib daddr type local tproxy to :15006 meta mark set 0x4747 counter accept comment "tproxy_in/capture"
          }
          chain tproxy_out {
            type route hook output priority -150; policy accept;
            meta skuid 4747 meta priority 0:5 ct mark set 0x4747 return comment "tproxy_out/to-app"
            ct mark 0x4747 ct direction reply meta mark set 0x4747 comment "tproxy_out/answers"
          }
          chain outbound {
            type nat hook output priority -100; policy accept;
            meta l4proto != tcp counter return comment "outbound/not-tcp"
            ip daddr 127.0.0.0/8 return comment "outbound/loopback4"
            ip6 daddr ::1 return comment "outbound/loopback6"
            ip daddr 192.0.2.1 tcp dport 4747 goto capture comment "outbound/self-test4"
            ip6 daddr 2001:db8::4747 tcp dport 4747 goto capture comment "outbound/self-test6"
            fib daddr type local tcp dport @skip_in return comment "outbound/skip-own"
            meta skuid 4747 goto own comment "outbound/proxy"
            fib daddr type local goto capture comment "outbound/self-call"
            tcp dport @skip_out return comment "outbound/skip-ports"
            ip daddr @skip_out4 return comment "outbound/skip4"
            ip6 daddr @skip_out6 return comment "outbound/skip6"
            goto capture comment "outbound/capture"
          }
          chain own {
            meta priority 0:5 counter return comment "own/to-app"
            meta l4proto tcp fib daddr type local counter redirect to :15006 comment "own/self-call"
          }
          chain capture {
            meta l4proto tcp counter redirect to :15001 comment "capture/redirect"
          }
        }
    "#]].assert_eq(&nft::load(&plan("tproxy", ""), &[Kind::Inet]));
}

#[test]
fn what_is_compared_with_has_the_same_rules_and_no_hook() {
    let plan = plan("tproxy", SKIPS);
    let (load, expected) = (nft::load(&plan, &[Kind::Inet]), nft::expected(&plan, Kind::Inet));
    assert!(!expected.contains("hook"));
    let rules = |text: &str| {
        let lines = text.lines().filter(|line| line.contains("comment"));
        lines.map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(rules(&load), rules(&expected));
}

#[test]
fn the_rules_for_iptables() {
    let plan = plan("redirect", SKIPS);
    expect![[r#"
        *mangle
        :COUNTERSIGN_INVALID - [0:0]
        -A COUNTERSIGN_INVALID ! -i lo -p tcp -m conntrack --ctstate INVALID -m comment --comment invalid/drop -j DROP
        -I PREROUTING 1 -j COUNTERSIGN_INVALID
        COMMIT
        *nat
        :COUNTERSIGN_OWN - [0:0]
        :COUNTERSIGN_CAPTURE - [0:0]
        :COUNTERSIGN_INBOUND - [0:0]
        :COUNTERSIGN_OUTBOUND - [0:0]
        -A COUNTERSIGN_OWN -m dscp --dscp 0x2b -m comment --comment own/to-app -j RETURN
        -A COUNTERSIGN_OWN -p tcp -m addrtype --dst-type LOCAL -m comment --comment own/self-call -j REDIRECT --to-ports 15006
        -A COUNTERSIGN_CAPTURE -p tcp -m comment --comment capture/redirect -j REDIRECT --to-ports 15001
        -A COUNTERSIGN_INBOUND -i lo -m comment --comment inbound/loopback -j RETURN
        -A COUNTERSIGN_INBOUND -p tcp --dport 9100 -m comment --comment inbound/skip -j RETURN
        -A COUNTERSIGN_INBOUND -p tcp --dport 15020 -m comment --comment inbound/skip -j RETURN
        -A COUNTERSIGN_INBOUND -p tcp --dport 15021 -m comment --comment inbound/skip -j RETURN
        -A COUNTERSIGN_INBOUND -p tcp -m addrtype --dst-type LOCAL -m comment --comment inbound/redirect -j REDIRECT --to-ports 15006
        -A COUNTERSIGN_OUTBOUND ! -p tcp -m comment --comment outbound/not-tcp -j RETURN
        -A COUNTERSIGN_OUTBOUND -d 127.0.0.0/8 -m comment --comment outbound/loopback4 -j RETURN
        -A COUNTERSIGN_OUTBOUND -d 192.0.2.1/32 -p tcp --dport 4747 -m comment --comment outbound/self-test4 -g COUNTERSIGN_CAPTURE
        -A COUNTERSIGN_OUTBOUND -m addrtype --dst-type LOCAL -p tcp --dport 9100 -m comment --comment outbound/skip-own -j RETURN
        -A COUNTERSIGN_OUTBOUND -m addrtype --dst-type LOCAL -p tcp --dport 15020 -m comment --comment outbound/skip-own -j RETURN
        -A COUNTERSIGN_OUTBOUND -m addrtype --dst-type LOCAL -p tcp --dport 15021 -m comment --comment outbound/skip-own -j RETURN
        -A COUNTERSIGN_OUTBOUND -m owner --uid-owner 4747 -m comment --comment outbound/proxy -g COUNTERSIGN_OWN
        -A COUNTERSIGN_OUTBOUND -m addrtype --dst-type LOCAL -m comment --comment outbound/self-call -g COUNTERSIGN_CAPTURE
        -A COUNTERSIGN_OUTBOUND -p tcp --dport 25 -m comment --comment outbound/skip-ports -j RETURN
        -A COUNTERSIGN_OUTBOUND -p tcp --dport 5353 -m comment --comment outbound/skip-ports -j RETURN
        -A COUNTERSIGN_OUTBOUND -d 10.8.0.0/15 -m comment --comment outbound/skip4 -j RETURN
        -A COUNTERSIGN_OUTBOUND -d 169.254.169.254/32 -m comment --comment outbound/skip4 -j RETURN
        -A COUNTERSIGN_OUTBOUND -m comment --comment outbound/capture -g COUNTERSIGN_CAPTURE
        -I PREROUTING 1 -j COUNTERSIGN_INBOUND
        -I OUTPUT 1 -j COUNTERSIGN_OUTBOUND
        COMMIT
        *filter
        :COUNTERSIGN_EGRESS - [0:0]
        -A COUNTERSIGN_EGRESS -o lo -m comment --comment egress/loopback -j RETURN
        -A COUNTERSIGN_EGRESS -p tcp -m comment --comment egress/tcp -j RETURN
        -A COUNTERSIGN_EGRESS -p udp --dport 53 -m comment --comment egress/dns -j RETURN
        -A COUNTERSIGN_EGRESS -m owner --uid-owner 0-4746 -m comment --comment egress/drop -j DROP
        -A COUNTERSIGN_EGRESS -m owner --uid-owner 4748-4294967294 -m comment --comment egress/drop -j DROP
        -I OUTPUT 1 -j COUNTERSIGN_EGRESS
        COMMIT
    "#]].assert_eq(&iptables::load(&plan, Family::V4, ""));
    let v6 = iptables::load(&plan, Family::V6, "");
    let other: Vec<_> = v6.lines().filter(|line| line.contains("-d ")).collect();
    expect![[r#"
        -A COUNTERSIGN_OUTBOUND -d ::1/128 -m comment --comment outbound/loopback6 -j RETURN
        -A COUNTERSIGN_OUTBOUND -d 2001:db8::4747/128 -p tcp --dport 4747 -m comment --comment outbound/self-test6 -g COUNTERSIGN_CAPTURE
        -A COUNTERSIGN_OUTBOUND -d fd00:1::/32 -m comment --comment outbound/skip6 -j RETURN"#]].assert_eq(&other.join("\n"));
}

#[test]
fn the_rules_of_tproxy_for_iptables() {
    expect![[r#"
        *mangle
        :COUNTERSIGN_TPROXY_IN - [0:0]
        :COUNTERSIGN_TPROXY_OUT - [0:0]
        -A COUNTERSIGN_TPROXY_IN ! -i lo -p tcp -m conntrack --ctstate INVALID -m comment --comment tproxy_in/invalid -j DROP
        -A COUNTERSIGN_TPROXY_IN -p tcp -m connmark --mark 0x4747 -m comment --comment tproxy_in/answers -j MARK --set-xmark 0x4747/0xffffffff
        -A COUNTERSIGN_TPROXY_IN -p tcp -m connmark --mark 0x4747 -m comment --comment tproxy_in/answers -j RETURN
        -A COUNTERSIGN_TPROXY_IN -i lo -m comment --comment tproxy_in/loopback -j RETURN
        -A COUNTERSIGN_TPROXY_IN -p tcp -m conntrack --ctdir REPLY -m comment --comment tproxy_in/replies -j RETURN
        -A COUNTERSIGN_TPROXY_IN -p tcp --dport 15020 -m comment --comment tproxy_in/skip -j RETURN
        -A COUNTERSIGN_TPROXY_IN -p tcp --dport 15021 -m comment --comment tproxy_in/skip -j RETURN
        -A COUNTERSIGN_TPROXY_IN -p tcp -m socket --transparent -m comment --comment tproxy_in/known -j MARK --set-xmark 0x4747/0xffffffff
        -A COUNTERSIGN_TPROXY_IN -p tcp -m socket --transparent -m comment --comment tproxy_in/known -j ACCEPT
        -A COUNTERSIGN_TPROXY_IN -p tcp -m addrtype --dst-type LOCAL -m comment --comment tproxy_in/capture -j TPROXY --on-port 15006 --tproxy-mark 0x4747/0xffffffff
        -A COUNTERSIGN_TPROXY_OUT -m owner --uid-owner 4747 -m dscp --dscp 0x2b -m comment --comment tproxy_out/to-app -j CONNMARK --set-xmark 0x4747/0xffffffff
        -A COUNTERSIGN_TPROXY_OUT -m owner --uid-owner 4747 -m dscp --dscp 0x2b -m comment --comment tproxy_out/to-app -j RETURN
        -A COUNTERSIGN_TPROXY_OUT -m connmark --mark 0x4747 -m conntrack --ctdir REPLY -m comment --comment tproxy_out/answers -j MARK --set-xmark 0x4747/0xffffffff
        -I PREROUTING 1 -j COUNTERSIGN_TPROXY_IN
        -I OUTPUT 1 -j COUNTERSIGN_TPROXY_OUT
        COMMIT
        *nat
        :COUNTERSIGN_OWN - [0:0]
        :COUNTERSIGN_CAPTURE - [0:0]
        :COUNTERSIGN_OUTBOUND - [0:0]
        -A COUNTERSIGN_OWN -m dscp --dscp 0x2b -m comment --comment own/to-app -j RETURN
        -A COUNTERSIGN_OWN -p tcp -m addrtype --dst-type LOCAL -m comment --comment own/self-call -j REDIRECT --to-ports 15006
        -A COUNTERSIGN_CAPTURE -p tcp -m comment --comment capture/redirect -j REDIRECT --to-ports 15001
        -A COUNTERSIGN_OUTBOUND ! -p tcp -m comment --comment outbound/not-tcp -j RETURN
        -A COUNTERSIGN_OUTBOUND -d ::1/128 -m comment --comment outbound/loopback6 -j RETURN
        -A COUNTERSIGN_OUTBOUND -d 2001:db8::4747/128 -p tcp --dport 4747 -m comment --comment outbound/self-test6 -g COUNTERSIGN_CAPTURE
        -A COUNTERSIGN_OUTBOUND -m addrtype --dst-type LOCAL -p tcp --dport 15020 -m comment --comment outbound/skip-own -j RETURN
        -A COUNTERSIGN_OUTBOUND -m addrtype --dst-type LOCAL -p tcp --dport 15021 -m comment --comment outbound/skip-own -j RETURN
        -A COUNTERSIGN_OUTBOUND -m owner --uid-owner 4747 -m comment --comment outbound/proxy -g COUNTERSIGN_OWN
        -A COUNTERSIGN_OUTBOUND -m addrtype --dst-type LOCAL -m comment --comment outbound/self-call -g COUNTERSIGN_CAPTURE
        -A COUNTERSIGN_OUTBOUND -m comment --comment outbound/capture -g COUNTERSIGN_CAPTURE
        -I OUTPUT 1 -j COUNTERSIGN_OUTBOUND
        COMMIT
    "#]].assert_eq(&iptables::load(&plan("tproxy", ""), Family::V6, ""));
}

#[test]
fn a_process_without_captured_listeners_has_no_rules() {
    let explicit = "  listeners: {outbound: [{address: \"127.0.0.1:15001\"}]}\n";
    assert_eq!(Plan::of(&config(explicit)), Err(NothingCaptured));
}

#[test]
fn iptables_rules_that_are_there_are_not_doubled_and_all_are_taken_out() {
    let (plan, other) = (plan("redirect", ""), plan("tproxy", ""));
    let first = iptables::load(&plan, Family::V4, "");
    assert!(iptables::differences(&saved(&first), &plan, Family::V4).is_empty());
    let again = iptables::load(&plan, Family::V4, &saved(&first));
    for (inserted, deleted) in [(&first, 0), (&again, 3)] {
        assert_eq!(inserted.matches("-I ").count(), 3);
        assert_eq!(inserted.matches("-D ").count(), deleted, "each jump moves to the front");
    }
    let removal = iptables::remove(&saved(&first));
    expect![[r#"
        *mangle
        -D PREROUTING -j COUNTERSIGN_INVALID
        -F COUNTERSIGN_INVALID
        -X COUNTERSIGN_INVALID
        COMMIT
        *nat
        -D PREROUTING -j COUNTERSIGN_INBOUND
        -D OUTPUT -j COUNTERSIGN_OUTBOUND
        -F COUNTERSIGN_OWN
        -F COUNTERSIGN_CAPTURE
        -F COUNTERSIGN_INBOUND
        -F COUNTERSIGN_OUTBOUND
        -X COUNTERSIGN_OWN
        -X COUNTERSIGN_CAPTURE
        -X COUNTERSIGN_INBOUND
        -X COUNTERSIGN_OUTBOUND
        COMMIT
    "#]]
    .assert_eq(&removal);
    let tproxy = iptables::load(&other, Family::V4, &saved(&first));
    for line in ["-D PREROUTING -j COUNTERSIGN_INBOUND", "-F COUNTERSIGN_INBOUND"] {
        assert!(tproxy.contains(&format!("{line}\n")), "{line}");
    }
    assert_eq!(iptables::remove("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n"), "");
    let gone = saved(&first).replace("-A OUTPUT -j COUNTERSIGN_OUTBOUND\n", "");
    let gone = gone.lines().filter(|line| !line.contains("own/to-app")).collect::<Vec<_>>();
    expect![[r#"
        ipv4: rule own/to-app is missing from table nat
        ipv4: the jump from OUTPUT to COUNTERSIGN_OUTBOUND is missing from table nat"#]]
    .assert_eq(&iptables::differences(&gone.join("\n"), &plan, Family::V4).join("\n"));
}

#[test]
fn iptables_rules_are_compared_by_whom_they_are_about() {
    let plan = plan("redirect", SKIPS);
    let shown = saved(&iptables::load(&plan, Family::V4, ""));
    assert_eq!(iptables::differences(&shown, &plan, Family::V4), Vec::<String>::new());
    for (is, tampered) in [
        ("-d 10.8.0.0/15", "-d 10.0.0.0/8"),
        ("-d 10.8.0.0/15 ", ""),
        ("-d 10.8.0.0/15", "! -d 10.8.0.0/15"),
        ("--dport 5353", "--dport 1:65535"),
        ("--to-ports 15001", "--to-ports 15002"),
        ("--uid-owner 4747", "--uid-owner 1000"),
        ("--uid-owner 0-4746", "--uid-owner 0-1"),
        ("-A COUNTERSIGN_CAPTURE -p tcp", "-A COUNTERSIGN_CAPTURE -s 10.0.0.1/32 -p tcp"),
        ("-A OUTPUT -j COUNTERSIGN_OUTBOUND", "-A OUTPUT -d 10.0.0.1/32 -j COUNTERSIGN_OUTBOUND"),
    ] {
        assert!(shown.contains(is), "{is}");
        let found = iptables::differences(&shown.replace(is, tampered), &plan, Family::V4);
        assert!(!found.is_empty(), "{is} became {tampered}");
    }
    let jump = "-A OUTPUT -j COUNTERSIGN_OUTBOUND";
    let before = shown.replace(jump, &format!("-A OUTPUT -p tcp -j ACCEPT\n{jump}"));
    expect!["ipv4: a rule of table nat is before the jump from OUTPUT to COUNTERSIGN_OUTBOUND"]
        .assert_eq(&iptables::differences(&before, &plan, Family::V4).join("\n"));
}

#[test]
fn iptables_rules_that_were_replaced_come_back() {
    let old = saved(&iptables::load(&plan("redirect", SKIPS), Family::V4, ""));
    let new = saved(&iptables::load(&plan("tproxy", ""), Family::V4, ""));
    let text = iptables::put_back(&old, &new);
    for rule in old.lines().filter(|line| line.starts_with("-A COUNTERSIGN_")) {
        assert!(text.contains(rule), "{rule} is not in\n{text}");
    }
    for line in ["-D OUTPUT -j COUNTERSIGN_TPROXY_OUT", "-X COUNTERSIGN_TPROXY_IN"] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    assert!(text.contains("-I OUTPUT 1 -j COUNTERSIGN_OUTBOUND"), "{text}");
    assert_eq!(iptables::put_back("", &new), iptables::remove(&new), "where nothing was");
}

/// What `iptables-save` shows after a text was loaded.
fn saved(loaded: &str) -> String {
    let lines = loaded.lines().map(|line| match line.strip_prefix("-I ") {
        Some(rest) => format!("-A {}", rest.replacen(" 1 ", " ", 1)),
        None => line.to_owned(),
    });
    lines.map(|line| format!("{line}\n")).collect()
}

const LISTED: &str = r#"{"nftables": [
  {"metainfo": {"version": "1.0.6"}},
  {"table": {"family": "inet", "name": "countersign", "handle": 3}},
  {"set": {"name": "skip_in", "type": "inet_service", "elem": [15021, 15020]}},
  {"set": {"name": "skip_out", "type": "inet_service"}},
  {"chain": {"name": "own", "handle": 3}},
  {"chain": {"name": "capture", "handle": 4}},
  {"chain": {"name": "invalid", "type": "filter", "hook": "prerouting", "prio": -150, "policy": "accept"}},
  {"rule": {"chain": "capture", "handle": 16, "comment": "capture/redirect", "expr": [{"counter": {"packets": 8, "bytes": 560}}, {"redirect": {"port": 15001}}]}},
  {"rule": {"chain": "own", "comment": "own/to-app", "expr": [{"return": null}]}},
  {"rule": {"chain": "own", "comment": "own/self-call", "expr": [{"redirect": {"port": 15006}}]}}
]}"#;

#[test]
fn a_listing_is_compared_rule_by_rule() {
    let plan = plan("redirect", "");
    let expected = Listing::read(&LISTED.replace("560", "1")).expect("JSON");
    let differences = |listed: &str| {
        let found = Listing::read(listed).expect("JSON").differences(&expected, &plan);
        let about = |line: &&String| {
            line.contains("own") || line.contains("capture") || line.contains("skip")
        };
        found.iter().filter(about).cloned().collect::<Vec<_>>().join("\n")
    };
    assert_eq!(differences(LISTED), "", "counts and the order of elements are not differences");
    let tampered =
        LISTED.replace("own/to-app", "other").replace("15001", "1").replace("15021", "22");
    expect![[r#"
        rule own/to-app is missing
        chain own has a rule that is not ours, other: `[{"return":null}]`
        rule capture/redirect is `[{"counter":null},{"redirect":{"port":1}}]` instead of `[{"counter":null},{"redirect":{"port":15001}}]`
        set skip_in holds [15020, 22] instead of [15020, 15021]"#]].assert_eq(&differences(&tampered));
    let (head, rules) = LISTED.split_once("  {\"rule\": {\"chain\": \"own\"").unwrap();
    let (first, second) = rules.split_once(",\n  {\"rule\": {\"chain\": \"own\"").unwrap();
    let second = second.trim_end().trim_end_matches("]}").trim_end();
    let own = "  {\"rule\": {\"chain\": \"own\"";
    let swapped = format!("{head}{own}{second},\n{own}{first}\n]}}");
    expect!["chain own has its rules in another order or twice"].assert_eq(&differences(&swapped));
    expect!["chain capture is missing"]
        .assert_eq(&differences(&LISTED.replace("\"name\": \"capture\"", "\"name\": \"mine\"")));
}
