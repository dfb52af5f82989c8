//! The fields of `spec` about the pod: the app's ports, and what the redirect captures.

use std::net::IpAddr;

use countersign_policy::doc::PortProtocol;
use countersign_policy::http1;
use countersign_policy::yaml::{Fields, Node, Value, read};
use ipnet::IpNet;

use super::Reader;
use crate::limits::DETECT_MS_MAX;
use crate::proxy::{AppPort, AppService, AppTls, EgressOther, Interception, TcpSettings};

/// Entries of one list of exceptions: they become elements of a kernel set.
const SKIPS_MAX: usize = 1024;

impl Reader<'_, '_> {
    /// `app`: what the app's ports speak, by the port callers see.
    pub(super) fn app(&mut self, node: Option<&Node>) -> Vec<AppPort> {
        let mut ports: Vec<AppPort> = Vec::new();
        for item in read::filled_list(node, self.findings) {
            let Some(entry) = self.app_port(item) else { continue };
            if ports.iter().any(|other| other.port == entry.port) {
                let message = format!("port {} has two `app` entries", entry.port);
                self.findings.error("E019", item.span, message).hint("keep one of them");
            }
            ports.push(entry);
            self.places.app.push(item.span);
        }
        ports
    }

    fn app_port(&mut self, node: &Node) -> Option<AppPort> {
        let mut fields = Fields::of(node, "an `app` entry", self.findings)?;
        let port = fields.required("port", self.findings);
        let port = port.and_then(|node| read::port(node, self.findings));
        let address = fields.optional("address").and_then(|node| self.address(node));
        let protocol = fields
            .optional("protocol")
            .and_then(|node| read::one_of(node, PortProtocol::WORDS, self.findings));
        let modes =
            [("mesh", AppTls::Mesh), ("terminate", AppTls::Terminate), ("pass", AppTls::Pass)];
        let tls = fields.optional("tls").and_then(|node| read::one_of(node, &modes, self.findings));
        let service = fields.optional("service");
        let answers = service
            .and_then(|node| read::one_of(node, &[("issuer", AppService::Issuer)], self.findings));
        let upgrades = fields.optional("upgrades");
        let connect = fields.optional("connect");
        let detect = fields.optional("detectTimeout");
        let detect_ms = detect.and_then(|node| self.detect_ms(node));
        if let Some(node) = service {
            let app = ["address", "protocol", "upgrades", "connect", "detectTimeout"];
            if app.into_iter().any(|name| fields.optional(name).is_some()) {
                let hint = "leave out everything about an app: the service speaks HTTP";
                self.error(node.span, "`service` answers itself, so there is no app here", hint);
            }
        }
        self.finish(fields);
        let written = [("upgrades", upgrades), ("connect", connect)];
        if let Some(protocol) = protocol {
            http1::only_for_http(protocol, &written, self.findings);
            if let Some(node) = detect {
                let message = "nothing is waited for on a port whose `protocol` is declared";
                self.findings.error("E004", node.span, message).hint("remove `detectTimeout`");
            }
        }
        Some(AppPort {
            port: port?,
            address,
            protocol: protocol.or(answers.map(|_| PortProtocol::Http)),
            service: answers,
            tls: tls.unwrap_or_default(),
            upgrades: upgrades.map(|n| http1::upgrades(n, self.findings)).unwrap_or_default(),
            connect: self.flag(connect),
            detect_ms,
        })
    }

    fn flag(&mut self, node: Option<&Node>) -> bool {
        node.and_then(|node| read::boolean(node, self.findings)).unwrap_or(false)
    }

    fn detect_ms(&mut self, node: &Node) -> Option<u64> {
        let ms = read::duration_ms(node, self.findings)?;
        if (1..=DETECT_MS_MAX).contains(&ms) {
            return Some(ms);
        }
        let message = format!("telling a protocol takes from 1ms to {DETECT_MS_MAX}ms, not {ms}ms");
        self.error(node.span, message, "declare the port's `protocol`, then nothing is waited for");
        None
    }

    /// `interception`, and the pod's addresses from the environment.
    pub(super) fn interception(&mut self, node: Option<&Node>) -> Interception {
        let mut out = Interception { pod_ips: self.pod_ips(), ..Interception::default() };
        let Some(mut fields) = self.fields(node, "`interception`") else { return out };
        self.places.interception = Some(fields.span());
        if let Some(node) = fields.optional("proxyUid") {
            let most = u64::from(u32::MAX - 1);
            let uid = read::integer(node, 1, most, self.findings);
            out.proxy_uid = uid.and_then(|uid| uid.try_into().ok()).unwrap_or(out.proxy_uid);
        }
        out.skip_inbound_ports = self.ports(fields.optional("skipInboundPorts"));
        out.skip_outbound_ports = self.ports(fields.optional("skipOutboundPorts"));
        out.skip_outbound_cidrs = self.networks(fields.optional("skipOutboundCidrs"));
        let pod_ips = fields.optional("podIps");
        let words = [("allow", EgressOther::Allow), ("drop", EgressOther::Drop)];
        let other = fields
            .optional("egressOther")
            .and_then(|node| read::one_of(node, &words, self.findings));
        out.egress_other = other.unwrap_or(out.egress_other);
        self.finish(fields);
        for item in read::filled_list(pod_ips, self.findings) {
            let text = read::short_string(item, 64, self.findings);
            match text.map(|text| text.parse::<IpAddr>()) {
                Some(Ok(ip)) => out.pod_ips.push(ip.to_canonical()),
                Some(Err(_)) => {
                    let message = format!("{} is not an IP address", item.describe());
                    self.error(item.span, message, "write the pod's own address, without a prefix");
                }
                None => {}
            }
        }
        out.pod_ips.sort();
        out.pod_ips.dedup();
        out
    }

    /// `COUNTERSIGN_POD_IPS`: addresses, with commas between them, as the downward API has them.
    fn pod_ips(&mut self) -> Vec<IpAddr> {
        let Some(text) = self.pod_ips else { return Vec::new() };
        let mut out = Vec::new();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            match (part.parse::<IpAddr>(), self.places.spec) {
                (Ok(ip), _) => out.push(ip.to_canonical()),
                (Err(_), Some(span)) => {
                    let message = format!("COUNTERSIGN_POD_IPS: `{part}` is not an IP address");
                    self.error(span, message, "write addresses with commas between them");
                }
                (Err(_), None) => {}
            }
        }
        out
    }

    fn ports(&mut self, node: Option<&Node>) -> Vec<u16> {
        let mut out: Vec<u16> = Vec::new();
        for item in self.bounded_list(node) {
            let Some(port) = read::port(item, self.findings) else { continue };
            if out.contains(&port) {
                let message = format!("port {port} stands in the list twice");
                self.findings.error("E019", item.span, message);
            } else {
                out.push(port);
            }
        }
        out
    }

    /// Kernel sets refuse ranges that overlap.
    fn networks(&mut self, node: Option<&Node>) -> Vec<IpNet> {
        let mut out: Vec<IpNet> = Vec::new();
        for item in self.bounded_list(node) {
            let Some(net) = self.network(item) else { continue };
            let clash = out.iter().find(|own| own.contains(&net) || net.contains(*own));
            if let Some(other) = clash {
                let message = format!("`{net}` and `{other}` overlap");
                self.findings.error("E019", item.span, message).hint("keep the wider one");
            } else {
                out.push(net);
            }
        }
        out
    }

    fn bounded_list<'n>(&mut self, node: Option<&'n Node>) -> &'n [Node] {
        let items = read::filled_list(node, self.findings);
        if let (Some(Node { value: Value::List(_), span }), true) = (node, items.len() > SKIPS_MAX)
        {
            self.findings.error("E017", *span, format!("more than {SKIPS_MAX} entries"));
            return &[];
        }
        items
    }

    /// `tcp`.
    pub(super) fn tcp(&mut self, node: Option<&Node>) -> TcpSettings {
        let mut out = TcpSettings::default();
        let Some(mut fields) = self.fields(node, "`tcp`") else { return out };
        if let Some(node) = fields.optional("afterPeerExpiry") {
            let ms = match node.text() {
                Some("0") => Some(0),
                _ => read::duration_ms(node, self.findings),
            };
            out.after_peer_expiry_s = ms.map_or(out.after_peer_expiry_s, |ms| ms / 1000);
        }
        self.finish(fields);
        out
    }
}
