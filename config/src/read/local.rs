//! `local` and `grants`: the API of the app beside us, and what an issuer makes deferred grants by.

use countersign_policy::yaml::{Fields, Node, read};

use super::Reader;
use crate::grants::Grants;
use crate::limits::{GRANT_REDEMPTIONS_MAX, GRANT_TTL_S_MAX};

impl Reader<'_, '_> {
    /// `local: {addresses: […]}`: loopback only, for whoever gets through speaks for the app.
    pub(super) fn local(&mut self, node: Option<&Node>) -> Vec<std::net::SocketAddr> {
        let Some(node) = node else { return Vec::new() };
        let Some(mut fields) = Fields::of(node, "`local`", self.findings) else {
            return Vec::new();
        };
        let written = fields.required("addresses", self.findings);
        self.finish(fields);
        let mut addresses = Vec::new();
        for item in read::filled_list(written, self.findings) {
            let Some(address) = self.address(item) else { continue };
            if !address.ip().is_loopback() {
                let message = format!(
                    "{address} is not a loopback address; whoever reaches the local API speaks for \
                     this workload"
                );
                self.error(item.span, message, format!("write `127.0.0.1:{}`", address.port()));
            }
            self.places.listeners.push(("local", address, item.span));
            addresses.push(address);
        }
        addresses
    }

    /// `grants`.
    pub(super) fn grants(&mut self, node: Option<&Node>) -> Grants {
        let mut grants = Grants::default();
        let Some(node) = node else { return grants };
        let Some(mut fields) = Fields::of(node, "`grants`", self.findings) else { return grants };
        grants.key_files = fields
            .optional("keyFiles")
            .map(|node| read::filled_list(Some(node), self.findings))
            .unwrap_or_default()
            .iter()
            .filter_map(|node| self.path(node))
            .collect();
        if let Some(node) = fields.optional("maxTtl")
            && let Some(ms) = read::duration_ms(node, self.findings)
        {
            grants.max_ttl_s = ms / 1000;
            if !(1..=GRANT_TTL_S_MAX).contains(&grants.max_ttl_s) {
                let message = "a deferred grant lives from `1s` to `24h`";
                self.error(node.span, message, "without the field it is `24h`");
            }
        }
        if let Some(node) = fields.optional("maxRedemptions") {
            let most = u64::from(GRANT_REDEMPTIONS_MAX);
            let count = read::integer(node, 1, most, self.findings);
            grants.max_redemptions =
                count.and_then(|count| u32::try_from(count).ok()).unwrap_or(grants.max_redemptions);
        }
        self.finish(fields);
        grants
    }
}
