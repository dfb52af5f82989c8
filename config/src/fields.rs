//! Every field of a `ProxyConfig`, for the reference; a test holds it against the examples.

/// One field, as the reference shows it.
#[derive(Debug)]
pub(crate) struct Field {
    /// Below `spec`; `[]` stands for each entry of a list.
    pub(crate) path: &'static str,
    /// What may be written.
    pub(crate) value: &'static str,
    /// What holds without it.
    pub(crate) default: &'static str,
    /// What it does.
    pub(crate) meaning: &'static str,
}

macro_rules! fields {
    ($($path:literal, $value:literal, $default:literal, $meaning:literal;)+) => {
        /// In the order of the reference.
        pub(crate) const FIELDS: &[Field] = &[$(Field {
            path: $path, value: $value, default: $default, meaning: $meaning,
        }),+];
    };
}

fields! {
    "identity.source.workloadApi.socket", "path or `unix://` URL", "`$SPIFFE_ENDPOINT_SOCKET`", "Socket of the SPIFFE Workload API.";
    "identity.source.files.certificate", "PEM file", "required", "Leaf first, then intermediates. Watched, as are the next two.";
    "identity.source.files.key", "PEM file", "required", "Private key, PKCS#8.";
    "identity.source.files.bundle", "PEM file", "required", "Trust anchors of the own trust domain.";
    "identity.expectedId", "SPIFFE ID", "any of the mesh's trust domain", "The identity the source must hand out; any other is refused.";
    "namespace", "name", "required", "What selectors of policies compare.";
    "labels", "names and values", "none", "What selectors of policies compare.";
    "listeners.inbound[].address", "IP and port", "required", "Listens for other sidecars: mutual TLS.";
    "listeners.inbound[].mode", "`explicit`", "`explicit`", "The listener's port is looked up in `app`.";
    "listeners.outbound[].address", "IP and port", "required", "Listens for the app beside us: plaintext, so keep it on loopback.";
    "listeners.outbound[].mode", "`explicit`", "`explicit`", "The destination is read from each request: absolute form, `:authority` or `Host`, compared with `Destination.hosts`.";
    "listeners.outbound[].destination", "`namespace/name`", "from each request", "Binds the listener to one Destination.";
    "listeners.gateway[].address", "IP and port", "required", "Listens for the public.";
    "listeners.gateway[].tls.certificate", "PEM file", "no TLS", "Certificate chain for HTTPS, read again when it changes.";
    "listeners.gateway[].tls.key", "PEM file", "required with `certificate`", "Its private key.";
    "listeners.gateway[].proxyProtocol.from", "address ranges", "nobody", "Load balancers whose connections must start with a PROXY protocol header.";
    "listeners.gateway[].redirectToHttps", "`true`", "off", "Answers every request with a redirect to the same place on HTTPS.";
    "gateway.routes[].host", "host name", "every host", "The host a route is for. A route that names the host wins.";
    "gateway.routes[].path.prefix", "path", "`/`", "Whole segments; the longest prefix wins. No route: 404.";
    "gateway.routes[].destination", "`namespace/name`", "required", "Where requests go.";
    "gateway.routes[].corsPreflight", "`pass`, `authenticate`", "`authenticate`", "`pass`: CORS preflight requests, which carry no credentials, reach the app without user and context.";
    "app[].port", "port", "required", "The port callers see and policies compare.";
    "app[].address", "IP and port", "required", "Where the app listens.";
    "documents.files", "files and folders", "required", "Policy documents. A folder stands for every `.yaml` and `.yml` file in it.";
    "admin.address", "IP and port, or `none`", "`127.0.0.1:15000`", "Read-only status; loopback only.";
    "metrics.address", "IP and port, or `none`", "`[::]:15020`", "`/metrics`, `/ready` and `/live`.";
    "workers", "1 to 256", "`$COUNTERSIGN_WORKERS`, else the CPU limit", "Data-path threads.";
    "audit.sink", "`stdout` or `{file: PATH}`", "`stdout`", "Where audit records go, one JSON line each.";
    "audit.personalData", "`pseudonyms`, `clear`", "`pseudonyms`", "How users, accounts, addresses and devices are written in records and on the admin pages.";
    "audit.pseudonymKeyFile", "file of at least 32 bytes", "a key drawn at each start", "Key of the pseudonyms. The same file in all proxies makes the same person recognisable across them.";
    "limits", "bounds by name", "none changed", "See the table of bounds below.";
    "context.propagation", "list of `handle`, `traceparent`; or `none`", "`[handle, traceparent]`", "How onward calls of the app find their context, in this order.";
    "tls.groups", "list of `X25519MLKEM768`, `X25519`, `secp256r1`, `secp384r1`", "`[X25519MLKEM768, X25519, secp256r1]`", "TLS key exchange groups, in order of preference; nothing else is negotiated.";
}
