//! `countersign-proxy init`: installs all of it or nothing, by whichever way the kernel takes.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use countersign_integration::client::Call;
use countersign_integration::documents::anybody;
use countersign_integration::netns::{Family, Mode, Pod};
use countersign_integration::outcome::refused;
use countersign_integration::{App, Pair, programs};

use super::{HOST, only, take_out};

/// Runs `init` in a pod, with programs in `first` found before the system's.
fn init(pod: &Pod, first: Option<&Path>, arguments: &[&str]) -> Output {
    let mut command = Command::new(programs::proxy());
    command.arg("init").args(arguments);
    if let Some(first) = first {
        command.env("PATH", format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", first.display()));
    }
    pod.space().output(command)
}

fn told(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn succeeds(output: &Output) -> String {
    assert!(output.status.success(), "{}", told(output));
    told(output)
}

fn fails(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", told(output));
    told(output)
}

/// All rules of a pod; built-in chains of iptables that were left empty are nobody's.
fn rules(pod: &Pod) -> String {
    let listed = pod.run("nft", &["list", "ruleset"]);
    let text = String::from_utf8_lossy(&listed.stdout).into_owned();
    let ours = text.lines().filter(|line| line.to_ascii_lowercase().contains("countersign"));
    ours.map(|line| format!("{line}\n")).collect()
}

/// A folder with programs of this name that fail.
fn broken(folder: &Path, names: &[&str]) -> PathBuf {
    let path = folder.join(format!("broken-{}", names.join("-")));
    fs::create_dir_all(&path).unwrap();
    for name in names {
        let file = path.join(name);
        fs::write(&file, "#!/bin/sh\necho 'the kernel has no such thing' >&2\nexit 1\n").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    path
}

#[tokio::test]
async fn init_installs_verifies_and_removes() {
    let Some(pair) = Pair::new("init_installs_verifies_and_removes") else { return };
    let pod = &pair.orders;
    for mode in [Mode::Redirect, Mode::Tproxy] {
        let file = pair.sidecar(pod, anybody(), mode).write();
        let file = file.to_str().unwrap();
        assert!(fails(&init(pod, None, &["--config", file, "--verify"])).contains("not installed"));
        for backend in ["nft", "nft-split", "iptables"] {
            let install = ["--config", file, "--backend", backend];
            assert!(succeeds(&init(pod, None, &install)).contains("ipv4 and ipv6"));
            let once = rules(pod);
            succeeds(&init(pod, None, &install));
            assert_eq!(rules(pod).lines().count(), once.lines().count(), "{backend}: idempotent");
            let said = succeeds(&init(pod, None, &["--config", file, "--verify"]));
            assert!(said.contains(backend), "{said}");
        }
        succeeds(&init(pod, None, &["--remove"]));
        assert_eq!(rules(pod), "", "{mode:?}");
        let routes = pod.run("ip", &["rule"]);
        assert!(!String::from_utf8_lossy(&routes.stdout).contains("4747"), "{mode:?}");
        succeeds(&init(pod, None, &["--remove"]));
    }
}

#[tokio::test]
async fn dry_run_prints_what_would_be_loaded_and_loads_nothing() {
    let Some(pair) = Pair::new("dry_run_prints_what_would_be_loaded") else { return };
    let pod = &pair.orders;
    let file = pair.sidecar(pod, anybody(), Mode::Redirect).write();
    let file = file.to_str().unwrap();
    let text = succeeds(&init(pod, None, &["--config", file, "--dry-run"]));
    assert_eq!(rules(pod), "");
    pod.space().nft(&text);
    succeeds(&init(pod, None, &["--config", file, "--verify"]));
}

#[tokio::test]
async fn verify_names_what_differs() {
    let Some(pair) = Pair::new("verify_names_what_differs") else { return };
    let pod = &pair.orders;
    let file = pair.sidecar(pod, anybody(), Mode::Redirect).write();
    let file = file.to_str().unwrap();
    let verify = || fails(&init(pod, None, &["--config", file, "--verify"]));
    let install = || succeeds(&init(pod, None, &["--config", file]));
    install();
    take_out(pod, "outbound", "outbound/proxy");
    assert!(verify().contains("rule outbound/proxy is missing"), "{}", verify());
    install();
    pod.space().nft("insert rule inet countersign outbound tcp dport 443 return");
    assert!(verify().contains("not ours"), "{}", verify());
    install();
    pod.space().nft("add element inet countersign skip_out { 443 }");
    assert!(verify().contains("set skip_out holds [443]"), "{}", verify());
    install();
    succeeds(&init(pod, None, &["--config", file, "--verify"]));
}

#[tokio::test]
async fn init_fails_without_v6_rules() {
    let Some(pair) = Pair::new("init_fails_without_v6_rules") else { return };
    let pod = &pair.orders;
    let file = pair.sidecar(pod, anybody(), Mode::Redirect).write();
    let file = file.to_str().unwrap();
    // A kernel without nft tables and without IPv6 rules, in a pod with an IPv6 address.
    let without = broken(pair.lab.folder(), &["nft", "ip6tables-restore"]);
    let said = fails(&init(pod, Some(&without), &["--config", file]));
    assert!(said.contains("ip6tables-restore"), "{said}");
    assert_eq!(rules(pod), "", "the IPv4 half was undone");
    // Without the address IPv4 is all there is to capture.
    pod.space().sysctl("ipv6/conf/eth0/disable_ipv6", "1");
    let said = succeeds(&init(pod, Some(&without), &["--config", file]));
    assert!(said.contains("(iptables, ipv4)"), "{said}");
}

/// Where the newest way does not work, a second run does not open the pod on its way to the second.
#[tokio::test]
async fn a_run_that_fails_leaves_the_rules_in_force() {
    let Some(pair) = Pair::new("a_run_that_fails_leaves_the_rules_in_force") else { return };
    let pod = &pair.orders;
    let file = pair.sidecar(pod, anybody(), Mode::Redirect).write();
    let file = file.to_str().unwrap();
    let verify = || succeeds(&init(pod, None, &["--config", file, "--verify"]));
    let nothing = broken(pair.lab.folder(), &["nft", "iptables-restore", "ip6tables-restore"]);
    let no_v6 = broken(pair.lab.folder(), &["ip6tables-restore"]);
    let unread = broken(pair.lab.folder(), &["ip6tables-save"]);
    for backend in ["nft", "nft-split", "iptables"] {
        succeeds(&init(pod, None, &["--config", file, "--backend", backend]));
        let before = rules(pod);
        fails(&init(pod, Some(&nothing), &["--config", file]));
        assert_eq!(rules(pod), before, "{backend}: nothing could be loaded");
        // Half of another backend loads: that half goes, the rules in force stay.
        for half in [&no_v6, &unread] {
            fails(&init(pod, Some(half), &["--config", file, "--backend", "iptables"]));
            assert!(verify().contains(&format!("({backend})")), "{backend}: {}", verify());
            assert_eq!(rules(pod).lines().count(), before.lines().count(), "{backend}");
        }
        // What is in force is what is tried first.
        let said = succeeds(&init(pod, None, &["--config", file]));
        assert!(said.contains(&format!("({backend}, ")), "{said}");
    }
}

/// Rules that were replaced by ones that do not verify: those stay, and it is said.
#[tokio::test]
async fn a_run_that_does_not_verify_leaves_no_open_pod() {
    let Some(pair) = Pair::new("a_run_that_does_not_verify_leaves_no_open_pod") else { return };
    let pod = &pair.orders;
    let file = pair.sidecar(pod, anybody(), Mode::Redirect).write();
    let file = file.to_str().unwrap();
    // Rules load, and cannot be read back as they should be.
    let blind = blind(pair.lab.folder());
    fails(&init(pod, Some(&blind), &["--config", file]));
    assert_eq!(rules(pod), "", "what was put in is taken out");
    succeeds(&init(pod, None, &["--config", file]));
    let said = fails(&init(pod, Some(&blind), &["--config", file]));
    assert!(said.contains("the new ones stay"), "{said}");
    succeeds(&init(pod, None, &["--config", file, "--verify"]));
}

/// A folder with an `nft` that cannot show a table.
fn blind(folder: &Path) -> PathBuf {
    let path = broken(folder, &["nft"]);
    let script =
        "#!/bin/sh\ncase \"$*\" in *'list table '*) exit 1;; esac\nexec /usr/sbin/nft \"$@\"\n";
    fs::write(path.join("nft"), script).unwrap();
    path
}

/// A rule of another program in front of ours, or one of ours that is about others, is named.
#[tokio::test]
async fn verify_under_iptables_looks_at_conditions_and_at_the_place_of_the_jump() {
    let test = "verify_under_iptables_looks_at_conditions_and_at_the_place_of_the_jump";
    let Some(pair) = Pair::new(test) else { return };
    let pod = &pair.orders;
    let file = pair.sidecar(pod, anybody(), Mode::Redirect).write();
    let file = file.to_str().unwrap();
    let install = || succeeds(&init(pod, None, &["--config", file, "--backend", "iptables"]));
    let verify = || fails(&init(pod, None, &["--config", file, "--verify"]));
    install();
    pod.run("iptables", &["-t", "nat", "-I", "OUTPUT", "-p", "tcp", "-j", "ACCEPT"]);
    assert!(verify().contains("is before the jump from OUTPUT"), "{}", verify());
    // Loading again brings the jump to the front.
    install();
    succeeds(&init(pod, None, &["--config", file, "--verify"]));
    let skip = ["COUNTERSIGN_INBOUND", "2", "-p", "tcp", "--dport", "1:65535"];
    let name = ["-m", "comment", "--comment", "inbound/skip", "-j", "RETURN"];
    pod.run("iptables", &[&["-t", "nat", "-R"][..], &skip, &name].concat());
    assert!(verify().contains("--dport 1:65535"), "{}", verify());
    install();
    succeeds(&init(pod, None, &["--config", file, "--verify"]));
}

#[tokio::test]
async fn the_fallbacks_have_the_same_policy_result() {
    same_policy_result("the_fallbacks_have_the_same_policy_result", Mode::Redirect).await;
}

#[tokio::test]
async fn the_fallbacks_of_tproxy_have_the_same_policy_result() {
    same_policy_result("the_fallbacks_of_tproxy_have_the_same_policy_result", Mode::Tproxy).await;
}

/// What is let in, and as whom, is the same by whichever way the rules got in.
async fn same_policy_result(test: &str, mode: Mode) {
    let Some(pair) = Pair::new(test) else { return };
    let app = App::mirror_on(pair.billing.listen_all(Pair::PORT));
    let own = App::mirror_on(pair.orders.listen_all(Pair::PORT));
    let spec = |pod, account| pair.sidecar(pod, only(account), mode).without_rules();
    let (orders, billing) = (spec(&pair.orders, "billing"), spec(&pair.billing, "orders"));
    let files = [(&pair.orders, orders.write()), (&pair.billing, billing.write())];
    let without = broken(pair.lab.folder(), &["nft"]);
    let (orders, billing) = (orders.launch(), billing.launch());
    for (backend, first) in [("iptables", Some(without.as_path())), ("nft-split", None)] {
        for (pod, file) in &files {
            let file = file.to_str().unwrap();
            let mut arguments = vec!["--config", file];
            if first.is_none() {
                arguments.extend(["--backend", backend]);
            }
            let said = succeeds(&init(pod, first, &arguments));
            assert!(said.contains(&format!("({backend}, ipv4 and ipv6)")), "{said}");
        }
        orders.until_ready().await;
        billing.until_ready().await;
        for family in Family::BOTH {
            let before = app.seen().len();
            let mut conn = pair.orders.h1(pair.billing.at(family, Pair::PORT)).await.unwrap();
            let reply = conn.send(Call::get("billing.shop", "/")).await.unwrap();
            assert_eq!(reply.status, 200, "{backend} {family:?}: {}", reply.text());
            assert_eq!(app.seen().len(), before + 1);
            let mut conn = pair.orders.h1(pair.orders.at(family, Pair::PORT)).await.unwrap();
            let reply = conn.send(Call::get(HOST, "/")).await.unwrap();
            let record = refused(&orders, &reply, "policy_denied").await;
            assert_eq!(record["peer"]["id"], pair.lab.id("shop", "orders"), "{backend}");
        }
    }
    assert!(own.seen().is_empty());
}
