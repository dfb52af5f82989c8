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
    "identity.source.workloadApi.socket", "path, `unix:///absolute/path` or `tcp://<IP>:<port>`", "`$SPIFFE_ENDPOINT_SOCKET`", "Where the SPIFFE Workload API listens.";
    "identity.source.files.certificate", "PEM file", "required", "Leaf first, then intermediates; the private key may be in it, before or after. Watched, as are the next two.";
    "identity.source.files.key", "PEM file, or `pkcs11:` URI of a key", "the one in `certificate`", "Private key, PKCS#8 or SEC 1.";
    "identity.source.files.bundle", "PEM or JSON file", "required", "Trust anchors of the own trust domain (PEM, in any order), or a SPIFFE bundle map.";
    "identity.source.vault.address", "`https://` URL", "required", "The server of OpenBao or Vault; `http://` only on loopback.";
    "identity.source.vault.ca", "PEM file", "authorities of the system", "Authorities of the server's own certificate.";
    "identity.source.vault.namespace", "path", "none", "Goes into `X-Vault-Namespace`.";
    "identity.source.vault.mount", "path", "`pki`", "Where the `pki` engine is mounted.";
    "identity.source.vault.role", "name", "required", "The role that signs. `expectedId` is required with it.";
    "identity.source.vault.ttl", "`10s` to `24h`", "`1h`", "Life to ask for. The role may give less.";
    "identity.source.vault.bundle", "PEM file", "the issuers of the mount", "The only authorities to trust.";
    "identity.source.vault.trustRefresh", "duration, at least `5s`", "`5m`", "How often authorities and revocation lists are fetched.";
    "identity.source.vault.login.kubernetes.mount", "path", "`kubernetes`", "Where the method is enabled, below `auth/`.";
    "identity.source.vault.login.kubernetes.role", "name", "required", "The role of the method.";
    "identity.source.vault.login.kubernetes.tokenFile", "file", "required", "Service account token for the role's audience, read again at every login.";
    "identity.source.vault.login.jwt.mount", "path", "`jwt`", "Where the method is enabled, below `auth/`.";
    "identity.source.vault.login.jwt.role", "name", "required", "The role of the method.";
    "identity.source.vault.login.jwt.tokenFile", "file", "required", "Token for the role's audience, read again at every login.";
    "identity.source.vault.login.appRole.mount", "path", "`approle`", "Where the method is enabled, below `auth/`.";
    "identity.source.vault.login.appRole.roleId", "text", "required, or `roleIdFile`", "The role id.";
    "identity.source.vault.login.appRole.roleIdFile", "file", "required, or `roleId`", "The role id, read again at every login.";
    "identity.source.vault.login.appRole.secretIdFile", "file", "required", "The secret id, read again at every login.";
    "identity.source.kubernetesCsr.server", "`https://` URL", "`$KUBERNETES_SERVICE_HOST` and port", "The API server. See [identity/kubernetes.md](identity/kubernetes.md).";
    "identity.source.kubernetesCsr.ca", "PEM file", "that of the pod's service account", "Authorities of the API server's certificate.";
    "identity.source.kubernetesCsr.tokenFile", "file", "that of the pod's service account", "Service account token for the API server, bound to the pod; read again for each call.";
    "identity.source.kubernetesCsr.signerName", "`DOMAIN/NAME`", "`countersign.dev/workload`", "Who is asked to sign.";
    "identity.source.kubernetesCsr.expirationSeconds", "600 to 86400", "`3600`", "The life to ask for; the signer may issue less.";
    "identity.source.kubernetesCsr.trust", "`{clusterTrustBundle: NAME}` or `{file: PATH}`", "required", "Where the trust anchors of the own trust domain are: an object of the API server, or a PEM file. Watched.";
    "identity.key.pkcs11.module", "shared library", "keys are made in memory", "PKCS#11 module through which keys are made and used: `p11-kit-client.so` keeps them in another process. See [identity/keys.md](identity/keys.md).";
    "identity.key.pkcs11.token", "label, or `pkcs11:` URI of a token", "required with `module`", "The token that holds the keys.";
    "identity.key.pkcs11.pinFile", "file", "no login", "The user PIN of the token. A PIN that was refused is not tried again until the file changes.";
    "identity.key.pkcs11.signTimeout", "`1ms` to `1s`", "`50ms`", "How long a handshake or a context token waits for a signature.";
    "identity.expectedId", "SPIFFE ID", "any of the mesh's trust domain", "The identity the source must hand out; any other is refused.";
    "namespace", "name", "required", "What selectors of policies compare.";
    "labels", "names and values", "none", "What selectors of policies compare.";
    "listeners.inbound[].address", "IP and port", "required", "Listens for other sidecars: mutual TLS.";
    "listeners.inbound[].mode", "`explicit`, `redirect`, `tproxy`", "`explicit`", "`explicit`: the listener's port is looked up in `app`. `redirect`: the kernel says which port was dialled. `tproxy`: the same, and the app sees the client's address. See [interception.md](interception.md).";
    "listeners.inbound[].trustDomains", "list of trust domains", "none but the mesh's own", "Other trust domains whose workloads may call here; each needs an entry in `MeshConfig.federation`. See [identity/federation.md](identity/federation.md).";
    "listeners.outbound[].address", "IP and port", "required", "Listens for the app beside us: plaintext, so keep it on loopback.";
    "listeners.outbound[].mode", "`explicit`, `redirect`", "`explicit`", "`explicit`: the destination is read from each request: absolute form, `:authority` or `Host`, compared with `Destination.hosts`. `redirect`: it is the address that the app dialled.";
    "listeners.outbound[].destination", "`namespace/name`, or `namespace/name:port`", "from each request", "Binds the listener to one Destination. Without a port: port 80, or the only one.";
    "listeners.gateway[].address", "IP and port", "required", "Listens for the public.";
    "listeners.gateway[].tls.certificate", "PEM file", "no TLS", "Certificate chain for HTTPS, read again when it changes.";
    "listeners.gateway[].tls.key", "PEM file", "required with `certificate`", "Its private key.";
    "listeners.gateway[].proxyProtocol.from", "address ranges", "nobody", "Load balancers whose connections must start with a PROXY protocol header.";
    "listeners.gateway[].redirectToHttps", "`true`", "off", "Answers every request with a redirect to the same place on HTTPS.";
    "gateway.routes[].host", "host name", "every host", "The host a route is for. A route that names the host wins.";
    "gateway.routes[].path.prefix", "path", "`/`", "Whole segments; the longest prefix wins. No route: 404.";
    "gateway.routes[].destination", "`namespace/name`, or `namespace/name:port`", "required", "Where requests go.";
    "gateway.routes[].corsPreflight", "`pass`, `authenticate`", "`authenticate`", "`pass`: CORS preflight requests, which carry no credentials, reach the app without user and context.";
    "app[].port", "port", "required", "The port callers see and policies compare.";
    "app[].address", "IP and port", "under a redirect: as dialled", "Where the app listens. An explicit listener needs it.";
    "app[].protocol", "`http`, `grpc`, `tcp`", "told from the first bytes; `tcp` for well-known ports", "What is spoken. `tcp` is never looked into.";
    "app[].tls", "`mesh`, `terminate`, `pass`", "`mesh`", "TLS of clients that are no sidecars. `terminate`: it ends here, with a mesh certificate of the client; else its bytes are carried as they are.";
    "app[].service", "`issuer`", "an app answers", "This process answers here itself, over HTTP: the token service. See [context/token-service.md](context/token-service.md).";
    "app[].upgrades", "list of `Upgrade` tokens", "none", "Protocols beside `websocket` that requests may upgrade to.";
    "app[].connect", "`true`, `false`", "`false`", "Whether CONNECT requests reach the app.";
    "app[].detectTimeout", "`1ms` to `1s`", "`1s`", "How long to wait for the first bytes of an undeclared port.";
    "interception.proxyUid", "user id", "`4747`", "The user this process runs as: its own connections are not captured.";
    "interception.skipInboundPorts", "list of ports", "none", "Ports of this pod that are not captured. The ports of `metrics` and `readiness` never are.";
    "interception.skipOutboundPorts", "list of ports", "none", "Ports that the app calls directly, without identity.";
    "interception.skipOutboundCidrs", "address ranges", "none", "Addresses that the app calls directly, without identity.";
    "interception.podIps", "addresses", "`$COUNTERSIGN_POD_IPS` and those of the interfaces", "Addresses of this pod: redirected connections to others are closed.";
    "interception.egressOther", "`allow`, `drop`", "`allow`", "What becomes of the app's traffic that is neither TCP nor DNS.";
    "tcp.afterPeerExpiry", "duration, or `0`", "`24h`", "How long an opaque connection may outlive the certificate it was opened with.";
    "documents.files", "files and folders", "required", "Policy documents. A folder stands for every `.yaml` and `.yml` file in it.";
    "admin.address", "IP and port, or `none`", "`127.0.0.1:15000`", "Read-only status; loopback only.";
    "metrics.address", "IP and port, or `none`", "`[::]:15020`", "`/metrics`, `/ready` and `/live`.";
    "readiness.address", "IP and port, or `none`", "`[::]:15021` under a redirect, else `none`", "`/ready`, answered by the data path itself.";
    "control.socket", "path", "none", "Unix socket for `countersign-proxy drain`, `reload` and `log`.";
    "workers", "1 to 256", "`$COUNTERSIGN_WORKERS`, else the CPU limit", "Data-path threads.";
    "audit.sink", "`stdout` or `{file: PATH}`", "`stdout`", "Where audit records go, one JSON line each.";
    "audit.personalData", "`pseudonyms`, `clear`", "`pseudonyms`", "How users, accounts, addresses and devices are written in records and on the admin pages.";
    "audit.pseudonymKeyFile", "file of at least 32 bytes", "a key drawn at each start", "Key of the pseudonyms. The same file in all proxies makes the same person recognisable across them.";
    "limits", "bounds by name", "none changed", "See the table of bounds below.";
    "local.addresses", "list of IP and port", "none", "Where the app puts work aside, takes it up again and begins jobs; loopback only. See [context/async.md](context/async.md).";
    "grants.keyFiles", "PEM files", "the key of the certificate in force", "Private keys of deferred grants, the same for all replicas of an issuer: the first signs, all are believed. Without one a grant ends with the certificate.";
    "grants.maxTtl", "`1s` to `24h`", "`24h`", "Longest life of a deferred grant.";
    "grants.maxRedemptions", "1 to 100", "`5`", "How often one deferred grant may be redeemed at this process, because queues deliver again.";
    "context.propagation", "list of `handle`, `traceparent`, `token`; or `none`", "`[handle, traceparent]`", "How onward calls of the app find their context. See [context/propagation.md](context/propagation.md).";
    "context.callerCertificate", "list of `x-forwarded-client-cert`, `client-cert`, `client-cert-chain`", "none", "Headers that tell the app the certificate of the workload that calls. See [context/reading-headers.md](context/reading-headers.md).";
    "issuer.keys", "`x5c`, `generated`, `{file: PATH}`", "`x5c`", "What an issuer signs context tokens with. `x5c`: the key of its certificate, named by the certificate. `generated`: keys made in this process, named in the published key set. `{file: PATH}`: a PKCS#8 key, PEM, the same in every replica. See [context/issuer-keys.md](context/issuer-keys.md).";
    "issuer.rotateAfter", "`1s` to `30d`", "`24h`", "With `keys: generated`: how long one key signs.";
    "issuer.algorithm", "`ES256`, `Ed25519`", "`ES256`", "With `keys: generated`: what kind of key.";
    "issuer.state", "file", "none", "Where public halves are noted, so that keys of before a restart stay published. Holds no secret.";
    "tls.groups", "list of `X25519MLKEM768`, `X25519`, `secp256r1`, `secp384r1`", "`[X25519MLKEM768, X25519, secp256r1]`", "TLS key exchange groups, in order of preference; nothing else is negotiated.";
}
