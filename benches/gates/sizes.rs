//! How large the futures of a connection and of a request are. What lasts as long as a connection
//! is memory of each one that is idle; what a request runs in is written and moved for each one.

use countersign_proxy::http::serve::Exchange;
use countersign_proxy::{gateway, inbound, outbound};

use crate::record::{Figure, Unit};

/// The size of each future whose name contains `filter`.
pub(crate) fn measure(filter: &str) -> Vec<Figure> {
    let all = [
        ("future/connection/inbound", of_connection(inbound::accept::connection)),
        ("future/connection/outbound", of_connection(outbound::accept::connection)),
        ("future/connection/gateway", of_connection(gateway::accept::connection)),
        ("future/request/inbound", of_request(inbound::accept::Connection::handle)),
        ("future/request/outbound", of_request(outbound::accept::Connection::handle)),
        ("future/request/gateway", of_request(gateway::accept::Connection::handle)),
    ];
    let wanted = all.into_iter().filter(|(name, _)| name.contains(filter));
    let figure = |(name, size): (&str, usize)| Figure {
        name: name.to_owned(),
        unit: Unit::Bytes,
        value: size as f64,
    };
    wanted.map(figure).collect()
}

fn of_request<A, B, F: Future>(_: impl Fn(A, B) -> F) -> usize {
    size_of::<F>()
}

fn of_connection<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}
