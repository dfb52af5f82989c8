//! What the proxies say of themselves: audit records, explanations, metrics.
//!
//! Invariant: everything the table shows under "decided by" was read here; nothing is guessed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http::StatusCode;
use serde_json::Value;

use super::ask;
use super::ports::{self, Ports};

/// Time until an audit record that belongs to an answer is in its file.
const RECORD_MAX: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// One running proxy.
#[derive(Debug)]
pub(super) struct Proxy {
    /// Its name.
    pub(super) name: &'static str,
    /// Its admin pages.
    pub(super) admin: SocketAddr,
    metrics: SocketAddr,
    audit: PathBuf,
}

impl Proxy {
    /// The three proxies, in the order requests pass them.
    pub(super) const NAMES: [&'static str; 3] = ["gateway", "side-orders", "side-billing"];

    /// All proxies of a mesh.
    pub(super) fn all(ports: &Ports, dir: &Path) -> [Proxy; 3] {
        let [gateway, orders, billing] = Proxy::NAMES;
        let proxy = |name: &'static str, admin: u16| Proxy {
            name,
            admin: ports.at(admin),
            metrics: ports.at(admin + 1),
            audit: dir.join(format!("{name}.out")),
        };
        [
            proxy(gateway, ports::GATEWAY_ADMIN),
            proxy(orders, ports::ORDERS + 3),
            proxy(billing, ports::BILLING + 3),
        ]
    }

    /// Whether it says that it is ready.
    pub(super) async fn is_ready(&self) -> bool {
        let answer = ask::get(self.metrics, "/ready", &[]).await;
        answer.is_ok_and(|answer| answer.status == StatusCode::OK)
    }

    /// The sum of all series of a counter whose labels contain `label`.
    pub(super) async fn counter(&self, name: &str, label: &str) -> anyhow::Result<u64> {
        let page = ask::get(self.metrics, "/metrics", &[]).await?;
        Ok(counter(&String::from_utf8_lossy(&page.body), name, label))
    }

    /// Its explanation of one of its decisions, as text.
    pub(super) async fn why(&self, id: &str) -> anyhow::Result<String> {
        let answer = ask::get(self.admin, &format!("/api/v1/why/{id}?format=text"), &[]).await?;
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        anyhow::ensure!(
            answer.status == StatusCode::OK,
            "{} does not explain {id}: {text}",
            self.name
        );
        Ok(text)
    }

    fn records(&self) -> anyhow::Result<Vec<Value>> {
        let text = std::fs::read_to_string(&self.audit)
            .with_context(|| format!("could not read {}", self.audit.display()))?;
        // The last line may still be in the making.
        Ok(text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect())
    }
}

/// The audit record of a decision, and the proxy that wrote it.
pub(super) async fn record<'p>(
    proxies: &'p [Proxy],
    id: &str,
) -> anyhow::Result<(&'p Proxy, Value)> {
    let found = find(proxies, |record| record["id"] == id).await?;
    found.with_context(|| format!("no proxy has written an audit record of {id}"))
}

/// The audit record of the inbound decision of one proxy in a transaction.
pub(super) async fn of_transaction(proxy: &Proxy, txn: &str) -> anyhow::Result<Value> {
    let proxies = std::slice::from_ref(proxy);
    let wanted = |record: &Value| record["txn"] == txn && record["dir"] == "inbound";
    match find(proxies, wanted).await? {
        Some((_, record)) => Ok(record),
        None => bail!("{} has written no audit record of {txn}", proxy.name),
    }
}

async fn find(
    proxies: &[Proxy],
    wanted: impl Fn(&Value) -> bool,
) -> anyhow::Result<Option<(&Proxy, Value)>> {
    let deadline = Instant::now() + RECORD_MAX;
    loop {
        // The last proxy on the way that has a record is the one that decided.
        for proxy in proxies.iter().rev() {
            if let Some(record) = proxy.records()?.into_iter().find(&wanted) {
                return Ok(Some((proxy, record)));
            }
        }
        if Instant::now() > deadline {
            return Ok(None);
        }
        tokio::time::sleep(POLL).await;
    }
}

fn counter(page: &str, name: &str, label: &str) -> u64 {
    let series = page.lines().filter(|line| !line.starts_with('#'));
    let values = series.filter_map(|line| {
        let (labels, value) = line.strip_prefix(name)?.rsplit_once(' ')?;
        let whole = labels.is_empty() || labels.starts_with('{');
        (whole && labels.contains(label)).then(|| value.parse::<f64>().ok())?
    });
    // A count is far below 2^53, so the conversion is exact.
    values.sum::<f64>() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_the_series_of_one_counter() {
        let page = "# TYPE a counter\na_total{result=\"ok\"} 3\na_total{result=\"bad\"} 1\n\
                    a_total_other 9\nb_total 7\n";
        assert_eq!(counter(page, "a_total", ""), 4);
        assert_eq!(counter(page, "a_total", "result=\"ok\""), 3);
        assert_eq!(counter(page, "b_total", ""), 7);
    }
}
