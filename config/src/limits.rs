//! Every bound of the data path, in one file: value, unit, reason.
//! Names end in unit and direction (`_BYTES_MAX`, `_MS_MIN`); sizes are bytes, per worker unless
//! the text says "process". Modules that need a bound import it from here and define none of their
//! own. [`Limits`] holds the few a `ProxyConfig` may change; [`BOUNDS`] is what
//! `docs/config.md` is made from. Token, policy and audit formats have their own fixed limits beside
//! their code.

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Whether a `ProxyConfig` may change a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A constant.
    Fixed,
    /// May be set to anything from 1 up to the default.
    Lower,
    /// May be lowered, and raised up to a ceiling.
    Any,
}

/// One bound, for the reference and for checking what a `ProxyConfig` sets.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// The constant's name, which is also the key under `limits:`.
    pub name: &'static str,
    /// The value in force when nobody changes it.
    pub default: u64,
    /// The largest value a `ProxyConfig` may set.
    pub ceiling: u64,
    /// What may be changed.
    pub change: Change,
    /// Why the bound exists.
    pub reason: &'static str,
}

/// Declares constants and lists them in [`BOUNDS`]; the doc comment is the reason shown to users.
macro_rules! bounds {
    ($($(#[doc = $doc:literal])+ $name:ident: $kind:ty = $value:expr;)+) => {
        $($(#[doc = $doc])+ pub const $name: $kind = $value;)+

        /// Every bound, in the order of this file.
        pub const BOUNDS: &[Bound] = &[$(Bound {
            name: stringify!($name),
            default: $name as u64,
            ceiling: changeable(stringify!($name), $name as u64).1,
            change: changeable(stringify!($name), $name as u64).0,
            reason: concat!($($doc),+),
        }),+];
    };
}

bounds! {
    /// Connections of the whole process. The value in force is the smallest of this, memory limit / 64 KiB and (NOFILE - 256) / 2, unless a `ProxyConfig` sets it. Beside other listeners, a quarter is kept for outbound ones.
    CONNS_MAX: usize = 10_000;
    /// Connections from one client address, or one IPv6 /64, at the gateways (process), counted after PROXY protocol; trusted proxies are exempt, behind them the requests in flight of each client are counted.
    CONNS_PER_SOURCE_MAX: usize = 256;
    /// Connections the kernel may hold before `accept`.
    LISTEN_BACKLOG_MAX: usize = 4_096;
    /// First pause after `accept` fails for want of descriptors.
    ACCEPT_BACKOFF_MS_MIN: u64 = 5;
    /// Longest pause after `accept` fails for want of descriptors.
    ACCEPT_BACKOFF_MS_MAX: u64 = 100;
    /// Idle time before the first TCP keep-alive probe.
    TCP_KEEPALIVE_IDLE_S: u64 = 30;
    /// Time between TCP keep-alive probes.
    TCP_KEEPALIVE_INTERVAL_S: u64 = 10;
    /// Unanswered TCP keep-alive probes before the connection counts as dead.
    TCP_KEEPALIVE_PROBES_MAX: u32 = 3;
    /// Unacknowledged sent data older than this ends a connection.
    TCP_USER_TIMEOUT_MS: u64 = 30_000;
    /// Time for a peer to send enough bytes to tell the protocol.
    DETECT_MS_MAX: u64 = 1_000;
    /// Bytes read at first to tell the protocol.
    DETECT_BYTES_MIN: usize = 4 * KIB;
    /// Bytes read at most to tell the protocol.
    DETECT_BYTES_MAX: usize = 16 * KIB;
    /// Shortest life of a generated key that signs context tokens.
    ISSUER_KEY_ROTATE_S_MIN: u64 = 1;
    /// Longest life of a generated key that signs context tokens.
    ISSUER_KEY_ROTATE_S_MAX: u64 = 30 * 86_400;
    /// Least time between two fetches of an issuer's keys because tokens name a key that is not among them.
    ISSUER_KEYS_COOLDOWN_S: u64 = 30;
    /// Places one issuer's keys are fetched from.
    ISSUER_KEY_PLACES_MAX: usize = 32;
    /// One call to an authority or API server, from name resolution to the last byte.
    CONTROL_CALL_MS_MAX: u64 = 10_000;
    /// Bytes of one answer of an authority or API server, and of a file with authorities.
    CONTROL_ANSWER_BYTES_MAX: usize = 256 * KIB;
    /// Certificate revocation lists, of one delivery and in force.
    CRLS_MAX: usize = 64;
    /// Clients whose failed handshakes one worker logs in a minute, each reason once; the rest are counted.
    HANDSHAKE_LOG_CLIENTS_MAX: usize = 1_000;
    /// Time for a TLS handshake, from accept to finished.
    HANDSHAKE_MS_MAX: u64 = 5_000;
    /// TLS handshakes a worker computes in one turn of its loop; waiting for a client takes no slot.
    HANDSHAKES_MAX: usize = 64;
    /// One ClientHello; hybrid key shares and long ALPN lists stay far below.
    CLIENT_HELLO_BYTES_MAX: usize = 16 * KIB;
    /// Certificates in a peer's chain.
    PEER_CHAIN_CERTS_MAX: usize = 6;
    /// All certificates of a peer's chain together.
    PEER_CHAIN_BYTES_MAX: usize = 32 * KIB;
    /// Authorities of client certificates that one public listener names.
    CLIENT_ROOTS_MAX: usize = 16;
    /// Bytes of one file of such authorities.
    CLIENT_ROOTS_BYTES_MAX: usize = MIB;
    /// Questions to one attribute provider that wait for its answer (process).
    ATTRIBUTE_CALLS_MAX: usize = 32;
    /// Questions on their way to the control thread (process).
    ATTRIBUTE_QUEUE_MAX: usize = 256;
    /// Bytes of an answer of a decision point.
    ATTRIBUTE_ANSWER_BYTES_MAX: usize = 16 * KIB;
    /// Bytes of one message of a directory.
    LDAP_MESSAGE_BYTES_MAX: usize = 64 * KIB;
    /// Bytes of everything a directory says about one user.
    LDAP_ANSWER_BYTES_MAX: usize = MIB;
    /// Groups that a directory may name for one user, those that are not kept included.
    LDAP_ENTRIES_MAX: usize = 4_096;
    /// Bytes of one certificate revocation list; larger ones are discarded.
    CRL_BYTES_MAX: usize = MIB;
    /// Longest life that a certificate of ours is asked for.
    IDENTITY_LIFE_S_MAX: u64 = 86_400;
    /// Shortest life that a certificate is asked for at Vault.
    VAULT_LIFE_S_MIN: u64 = 10;
    /// Shortest time between two looks at the authorities of a Vault mount: every workload asks.
    VAULT_TRUST_REFRESH_S_MIN: u64 = 5;
    /// Issuers of a Vault mount; a mount that holds more is refused.
    VAULT_ISSUERS_MAX: usize = 16;
    /// Trust domains with a bundle (process).
    TRUST_DOMAINS_MAX: usize = 64;
    /// One JWT bundle, a JWK set (Workload API, federation).
    JWT_BUNDLE_BYTES_MAX: usize = 256 * KIB;
    /// Keys in one JWT bundle.
    JWT_BUNDLE_KEYS_MAX: usize = 64;
    /// Time between two fetches of a federated bundle where its endpoint asks for less.
    BUNDLE_REFRESH_S_MIN: u64 = 30;
    /// Time between two fetches of a federated bundle where its endpoint asks for more.
    BUNDLE_REFRESH_S_MAX: u64 = 3_600;
    /// An HTTP/1 request head: request line and all fields.
    H1_HEAD_BYTES_MAX: usize = 64 * KIB;
    /// Fields in an HTTP/1 head; also hyper's own default.
    H1_HEADERS_MAX: usize = 100;
    /// Time for an HTTP/1 head, from its first byte; slow-header attacks end here.
    H1_HEAD_MS_MAX: u64 = 10_000;
    /// Idle time of a kept-alive HTTP/1 server connection.
    H1_IDLE_MS_MAX: u64 = 600_000;
    /// Time that an idle HTTP/1 server connection keeps its buffers.
    H1_AWAKE_MS_MIN: u64 = 1_000;
    /// A request target.
    URI_BYTES_MAX: usize = 16 * KIB;
    /// Concurrent HTTP/2 streams of one connection.
    H2_STREAMS_MAX: u32 = 128;
    /// Multiplexed connections to one endpoint; a second is opened when streams run short.
    H2_CONNS_PER_KEY_MAX: usize = 8;
    /// A decoded HTTP/2 header list.
    H2_HEADER_LIST_BYTES_MAX: u32 = 65_536;
    /// Remotely reset HTTP/2 streams not yet handled (rapid reset).
    H2_RESET_PENDING_MAX: usize = 20;
    /// HTTP/2 streams we reset because of peer errors before the connection ends.
    H2_LOCAL_RESET_MAX: usize = 1_024;
    /// HTTP/2 receive window of a stream. Unread bodies hold at most this much per request in flight: 256 MiB for a worker full of stalled requests.
    H2_STREAM_WINDOW_BYTES: u32 = 65_536;
    /// HTTP/2 receive window of a connection: the windows of all its streams together, so that streams nobody reads never block the others; follows `H2_STREAMS_MAX`.
    H2_CONN_WINDOW_BYTES: u32 = H2_STREAMS_MAX * H2_STREAM_WINDOW_BYTES;
    /// An HTTP/2 frame we accept.
    H2_FRAME_BYTES_MAX: u32 = 16_384;
    /// Bytes buffered for sending on one HTTP/2 stream.
    H2_SEND_BUF_BYTES_MAX: usize = 256 * KIB;
    /// Room an HTTP/2 connection takes when it begins to write, freed when everything is written.
    GATHERED_BYTES_MIN: usize = 16 * KIB;
    /// Bytes an HTTP/2 connection holds to write them together; whoever has more waits for the socket.
    GATHERED_BYTES_MAX: usize = 64 * KIB;
    /// Time between HTTP/2 keep-alive pings.
    H2_PING_MS: u64 = 30_000;
    /// Time for the answer to an HTTP/2 ping.
    H2_PING_TIMEOUT_MS: u64 = 20_000;
    /// HPACK dynamic table.
    H2_HPACK_BYTES_MAX: usize = 4 * KIB;
    /// All trailer fields of one message.
    TRAILER_BYTES_MAX: usize = 16 * KIB;
    /// One header value.
    HEADER_VALUE_BYTES_MAX: usize = 16 * KIB;
    /// A request body at a gateway; inbound has no bound unless a `ProxyConfig` sets this one, which then counts for both.
    BODY_BYTES_MAX: usize = 100 * MIB;
    /// A body that makes no progress for this long ends.
    BODY_IDLE_MS_MAX: u64 = 300_000;
    /// Time until the response head, from the complete request head.
    REQUEST_MS_MAX: u64 = 60_000;
    /// Age of one stream. The default, 0, is no bound of its own: the connection's deadline counts.
    STREAM_AGE_S_MAX: u64 = 0;
    /// Body bytes kept for a retry. The default, 0, retries requests without body only; a route may raise it to 64 KiB.
    RETRY_BODY_BYTES_MAX: usize = 0;
    /// Retries of a worker, in percent of its requests of the window.
    RETRY_BUDGET_PCT: u64 = 20;
    /// The window of the retry budget.
    RETRY_BUDGET_WINDOW_MS: u64 = 10_000;
    /// Retries a window always allows, so that a worker with few requests can retry at all.
    RETRY_BUDGET_MIN: u64 = 10;
    /// Time to connect to another sidecar.
    CONNECT_MESH_MS_MAX: u64 = 1_000;
    /// Time to connect to the app beside us.
    CONNECT_APP_MS_MAX: u64 = 300;
    /// Time a request waits for an app that refuses connections (start-up, restart).
    APP_WAIT_MS_MAX: u64 = 5_000;
    /// Idle time of a pooled connection to another sidecar.
    POOL_IDLE_MESH_MS: u64 = 90_000;
    /// Idle time of a pooled connection to the app; short, because apps close theirs.
    POOL_IDLE_APP_MS: u64 = 3_000;
    /// Time between two looks at the idle connections to another sidecar, or to a service outside: those that have ended are forgotten by then.
    POOL_LOOK_MESH_MS: u64 = 10_000;
    /// The same for connections to the app.
    POOL_LOOK_APP_MS: u64 = 500;
    /// Time an HTTP/1.1 connection that was just given back gets to become ready again.
    POOL_READY_MS_MAX: u64 = 5;
    /// Idle pooled connections of one key (endpoint, identity, protocol): as many as come back at once under load, or each burst opens them anew.
    POOL_IDLE_PER_KEY_MAX: usize = 512;
    /// Idle pooled connections of a worker.
    POOL_IDLE_TOTAL_MAX: usize = 2_048;
    /// Requests in flight to one endpoint.
    ENDPOINT_INFLIGHT_MAX: usize = 1_024;
    /// Requests waiting for a connection to one endpoint: all that may be in flight, since a burst meets no connection at all.
    ENDPOINT_PENDING_MAX: usize = 1_024;
    /// Requests in flight of a worker.
    INFLIGHT_MAX: usize = 4_096;
    /// Endpoints of one destination.
    ENDPOINTS_PER_SERVICE_MAX: usize = 4_096;
    /// Endpoints a worker keeps an idle, unblemished record of.
    ENDPOINTS_KNOWN_MAX: usize = 8_192;
    /// Time between two looks at the record of an endpoint.
    ENDPOINT_LOOK_MS: u64 = 10_000;
    /// Idle connections or records looked at in one turn of the event loop.
    SWEEP_BATCH_MAX: usize = 256;
    /// Destinations known (process).
    SERVICES_MAX: usize = 16_384;
    /// Consecutive failures that open an endpoint's breaker.
    BREAKER_FAILURES: u32 = 5;
    /// First time an open breaker stays open.
    BREAKER_OPEN_MS_MIN: u64 = 1_000;
    /// Longest time an open breaker stays open.
    BREAKER_OPEN_MS_MAX: u64 = 60_000;
    /// Share of a destination's endpoints that may be open at once.
    BREAKER_OPEN_PCT_MAX: u64 = 50;
    /// Relay buffer of a quiet connection.
    RELAY_BUF_SMALL_BYTES: usize = KIB;
    /// Relay buffer of an ordinary connection: one TLS record.
    RELAY_BUF_MID_BYTES: usize = 16_320;
    /// Relay buffer of a bulk transfer.
    RELAY_BUF_LARGE_BYTES: usize = 256 * KIB;
    /// Bytes moved without a pause after which a relay takes the ordinary buffer.
    RELAY_GROW_MID_BYTES: u64 = 4 * 1024;
    /// Bytes moved without a pause after which a relay takes the bulk buffer.
    RELAY_GROW_LARGE_BYTES: u64 = 512 * 1024;
    /// Silence after which a relay begins with the smallest buffer again.
    RELAY_PAUSE_MS: u64 = 5_000;
    /// Relay buffers of a worker: kept for reuse, and lent in larger sizes than the smallest.
    RELAY_POOL_BYTES_MAX: usize = 8 * MIB;
    /// Read from a TLS connection's socket in one call.
    AHEAD_BYTES: usize = 64 * KIB;
    /// Bytes lent to TLS connections of a thread that have read more than they could take; above, they read in small pieces.
    AHEAD_POOL_BYTES_MAX: usize = 4 * MIB;
    /// Such buffers a thread keeps for reuse.
    AHEAD_KEPT_MAX: usize = 4;
    /// Idle time of a TCP or upgraded connection.
    TCP_IDLE_MS_MAX: u64 = 3_600_000;
    /// Idle time of a TCP or upgraded connection that one side has closed already.
    TCP_HALF_CLOSED_MS_MAX: u64 = 300_000;
    /// Age of an HTTP connection, varied by 10 % so that they do not all end together.
    CONN_AGE_S_MAX: u64 = 3_600;
    /// Time streams get to finish after a connection's deadline.
    DEADLINE_GRACE_MS_MAX: u64 = 30_000;
    /// A context token that is verified.
    TOKEN_BYTES_MAX: usize = 4 * KIB;
    /// The hop list beside a token: 8 records, with long identities.
    HOPS_BYTES_MAX: usize = 6 * KIB;
    /// Records in a hop list.
    HOPS_MAX: usize = 8;
    /// Certificates of earlier signers, sent once per connection.
    HOP_CERTS_BYTES_MAX: usize = 16 * KIB;
    /// Hop records remembered as verified.
    HOPS_VERIFIED_MAX: usize = 4_096;
    /// Certificates of earlier signers remembered.
    HOP_SIGNERS_MAX: usize = 2_048;
    /// Size of all certificates of earlier signers remembered.
    HOP_SIGNERS_BYTES_MAX: usize = 4 * MIB;
    /// Certificates of earlier signers that the other end of a connection is known to have.
    HOP_CERTS_SHOWN_MAX: usize = 2_048;
    /// Verified tokens remembered.
    TOKEN_CACHE_ENTRIES_MAX: usize = 1_024;
    /// Size of all verified tokens remembered.
    TOKEN_CACHE_BYTES_MAX: usize = 4 * MIB;
    /// Tokens remembered because a rule takes each only once (process).
    ONCE_TOKENS_MAX: usize = 65_536;
    /// Bad tokens one peer may present within a second before it is refused unverified.
    TOKEN_FAILURES_PER_S_MAX: u32 = 20;
    /// Form body of a request to the token service.
    TOKEN_FORM_BYTES_MAX: usize = 16 * KIB;
    /// A workload gets a token within milliseconds of its request; its form has this long to arrive.
    TOKEN_FORM_MS_MAX: u64 = 5_000;
    /// All verified headers an app gets, names and values.
    VERIFIED_HEADERS_BYTES_MAX: usize = 2 * KIB;
    /// The caller's certificates in headers of the app, where it is given them.
    CALLER_CERTIFICATE_BYTES_MAX: usize = 8 * KIB;
    /// Open inbound requests whose context onward calls can find (process).
    CONTEXT_INDEX_ENTRIES_MAX: usize = 16_384;
    /// Contexts in it that no inbound request brought: of messages and jobs (process).
    CONTEXT_INDEX_BEGUN_MAX: usize = 4_096;
    /// Open requests of one trace that the index follows.
    CONTEXT_INDEX_TRACE_MAX: usize = 16;
    /// Open requests with one token that the app may name by it.
    CONTEXT_INDEX_TOKEN_MAX: usize = 256;
    /// How long a context stays usable for onward calls after its response ended.
    CONTEXT_GRACE_MS_MAX: u64 = 5_000;
    /// A request to the local API.
    LOCAL_BODY_BYTES_MAX: usize = 16 * KIB;
    /// Time for a request to the local API to arrive, and for the answer of the token service.
    LOCAL_CALL_MS_MAX: u64 = 10_000;
    /// An answer of the token service.
    TOKEN_ANSWER_BYTES_MAX: usize = 16 * KIB;
    /// Longest life of a deferred grant.
    GRANT_TTL_S_MAX: u64 = 86_400;
    /// Life of a deferred grant when nobody says how long.
    GRANT_TTL_S: u64 = 3_600;
    /// Redemptions of one deferred grant that a `ProxyConfig` may allow.
    GRANT_REDEMPTIONS_MAX: u32 = 100;
    /// Deferred grants whose redemptions are counted (process); a new one beyond it is refused until others end.
    GRANTS_COUNTED_MAX: usize = 65_536;
    /// All policy documents together (process): 10,000 rules and as many destinations need some 6 MB.
    POLICY_BYTES_MAX: usize = 8 * MIB;
    /// A fetched key set.
    JWKS_BYTES_MAX: usize = 256 * KIB;
    /// Keys in a key set.
    JWKS_KEYS_MAX: usize = 64;
    /// Bytes of a DPoP proof: an RSA key with 4,096 bits and its signature fit.
    DPOP_PROOF_BYTES_MAX: usize = 4 * KIB;
    /// DPoP proofs remembered as used (process); about 12 MiB when full, and then such requests are refused.
    DPOP_PROOFS_MAX: usize = 262_144;
    /// DPoP proofs of one key remembered as used (process), so that one client cannot take all places.
    DPOP_PROOFS_PER_KEY_MAX: usize = 32_768;
    /// Time a handshake or a context token waits for a signature of a PKCS#11 token, unless `identity.key.pkcs11.signTimeout` says otherwise: it keeps a data-path thread waiting.
    PKCS11_SIGN_MS_MAX: u64 = 50;
    /// Largest `signTimeout`.
    PKCS11_SIGN_MS_CEILING: u64 = 1_000;
    /// Sessions with a PKCS#11 token, each on a thread of its own.
    PKCS11_SESSIONS_MAX: usize = 4;
    /// Calls that wait for one of these sessions.
    PKCS11_QUEUE_MAX: usize = 64;
    /// Callers outside the mesh whose tokens are remembered.
    CALLER_CACHE_ENTRIES_MAX: usize = 1_024;
    /// How long an answer of the API server about a caller's token counts: a pod that is gone is known to be gone by then.
    CALLER_REVIEW_AGE_MS_MAX: u64 = 10_000;
    /// How long a request waits for the API server's answer about its token.
    CALLER_REVIEW_MS_MAX: u64 = 3_000;
    /// Questions about callers' tokens that the API server has at a time (process).
    CALLER_REVIEWS_MAX: usize = 32;
    /// Questions that wait for their turn (process).
    CALLER_REVIEW_QUEUE_MAX: usize = 256;
    /// Audit records waiting to be written (process).
    AUDIT_QUEUE_RECORDS_MAX: usize = 8_192;
    /// Time a record under `audit: full` may take to reach stable storage.
    AUDIT_SYNC_MS_MAX: u64 = 5_000;
    /// One audit record.
    AUDIT_RECORD_BYTES_MAX: usize = 16 * KIB;
    /// Warnings of one kind about the documents that a proxy logs when it takes them over; the others are counted, and `countersign check` prints all.
    WARNINGS_LOGGED_MAX: usize = 5;
    /// Log lines waiting to be written (process); beyond it lines are lost and counted.
    LOG_QUEUE_LINES_MAX: usize = 8_192;
    /// Series of one metric; more are counted under the label value `overflow`.
    SERIES_PER_METRIC_MAX: usize = 1_000;
    /// Connections to admin and metrics together (process).
    ADMIN_CONNS_MAX: usize = 32;
    /// Time for an admin or metrics request head.
    ADMIN_HEAD_MS_MAX: u64 = 2_000;
    /// An admin or metrics request head.
    ADMIN_HEAD_BYTES_MAX: usize = 8 * KIB;
    /// Connections to the control socket (process).
    CONTROL_CONNS_MAX: usize = 8;
    /// One command on the control socket.
    CONTROL_LINE_BYTES_MAX: usize = 256;
    /// Time between self-tests of the redirect, once one has passed.
    SELF_TEST_MS: u64 = 30_000;
    /// Time between self-tests until one has passed, and after one that failed.
    SELF_TEST_RETRY_MS: u64 = 1_000;
    /// Time for one probe of a self-test.
    SELF_TEST_PROBE_MS_MAX: u64 = 1_000;
    /// Failed self-tests in a row after which a proxy that was ready says it is bypassed.
    SELF_TEST_FAILURES_MAX: u32 = 3;
    /// Time between the announcement of a drain and the first good-bye, so that callers and load balancers learn of it: at `countersign-proxy drain`, and at a gateway's SIGTERM. A sidecar, which ends after its app, does not wait at SIGTERM.
    DRAIN_DELAY_MS: u64 = 5_000;
    /// Time a connection without a request gets to bring its first one when the process stops.
    DRAIN_FIRST_REQUEST_MS_MAX: u64 = 1_000;
    /// Time open requests get to finish when the process stops; a second signal ends it.
    DRAIN_MS_MAX: u64 = 120_000;
    /// Body bytes of a refused request read and dropped; a longer one closes the connection.
    REFUSED_BODY_DRAIN_BYTES_MAX: usize = 64 * KIB;
    /// Time for the body of a refused request to arrive and be dropped.
    REFUSED_BODY_DRAIN_MS_MAX: u64 = 1_000;
    /// Live connections re-evaluated in one turn of the event loop; in a pass of many turns up to
    /// 16 times as many in later ones.
    REEVALUATE_BATCH_MAX: usize = 256;
    /// The same of those whose token or certificate is verified again, which takes some 60 us each.
    REEVALUATE_VERIFIED_MAX: usize = 16;
}

/// Declares the bounds a `ProxyConfig` may change and the struct that carries them.
macro_rules! limits {
    ($($(#[doc = $doc:literal])+ $field:ident: $kind:ty = $name:ident, $change:ident, $ceiling:expr;)+) => {
        /// The bounds a `ProxyConfig` may change, filled with the defaults where it does not.
        #[derive(Clone, Debug, PartialEq, Eq)]
        pub struct Limits {
            /// `CONNS_MAX`, if set; see [`Limits::conns_max_in_force`].
            pub conns_max: Option<usize>,
            /// `BODY_BYTES_MAX`, if set: then for inbound and gateway alike.
            pub body_bytes_max: Option<u64>,
            $($(#[doc = $doc])+ pub $field: $kind,)+
        }

        impl Default for Limits {
            fn default() -> Limits {
                Limits { conns_max: None, body_bytes_max: None, $($field: $name,)+ }
            }
        }

        impl Limits {
            /// Sets one bound by the name of its constant, unchecked; other names change nothing.
            pub fn set(&mut self, name: &str, value: u64) {
                match name {
                    "CONNS_MAX" => self.conns_max = Some(usize::try_from(value).unwrap_or(usize::MAX)),
                    "BODY_BYTES_MAX" => self.body_bytes_max = Some(value),
                    $(stringify!($name) => self.$field = <$kind>::try_from(value).unwrap_or(<$kind>::MAX),)+
                    _ => {}
                }
            }
        }

        const CHANGEABLE: &[(&str, Change, u64)] = &[
            ("CONNS_MAX", Change::Any, 1_000_000),
            ("BODY_BYTES_MAX", Change::Any, 1 << 40),
            $((stringify!($name), Change::$change, $ceiling),)+
        ];
    };
}

limits! {
    /// `CONNS_PER_SOURCE_MAX`
    conns_per_source_max: usize = CONNS_PER_SOURCE_MAX, Any, 1_000_000;
    /// `H1_HEAD_BYTES_MAX`
    h1_head_bytes_max: usize = H1_HEAD_BYTES_MAX, Any, 1_048_576;
    /// `H1_HEAD_MS_MAX`
    h1_head_ms_max: u64 = H1_HEAD_MS_MAX, Lower, H1_HEAD_MS_MAX;
    /// `BODY_IDLE_MS_MAX`
    body_idle_ms_max: u64 = BODY_IDLE_MS_MAX, Any, 86_400_000;
    /// `STREAM_AGE_S_MAX`; 0 is no bound.
    stream_age_s_max: u64 = STREAM_AGE_S_MAX, Any, 86_400;
    /// `ENDPOINT_INFLIGHT_MAX`
    endpoint_inflight_max: usize = ENDPOINT_INFLIGHT_MAX, Any, 65_536;
    /// `H2_STREAMS_MAX`
    h2_streams_max: u32 = H2_STREAMS_MAX, Any, 1_024;
    /// `H2_HEADER_LIST_BYTES_MAX`
    h2_header_list_bytes_max: u32 = H2_HEADER_LIST_BYTES_MAX, Any, 1_048_576;
    /// `REQUEST_MS_MAX`
    request_ms_max: u64 = REQUEST_MS_MAX, Any, 3_600_000;
    /// `INFLIGHT_MAX`
    inflight_max: usize = INFLIGHT_MAX, Any, 65_536;
    /// `CONN_AGE_S_MAX`
    conn_age_s_max: u64 = CONN_AGE_S_MAX, Any, 86_400;
    /// `TCP_IDLE_MS_MAX`
    tcp_idle_ms_max: u64 = TCP_IDLE_MS_MAX, Any, 604_800_000;
    /// `SELF_TEST_MS`
    self_test_ms: u64 = SELF_TEST_MS, Lower, SELF_TEST_MS;
    /// `BUNDLE_REFRESH_S_MIN`
    bundle_refresh_s_min: u64 = BUNDLE_REFRESH_S_MIN, Lower, BUNDLE_REFRESH_S_MIN;
    /// `BUNDLE_REFRESH_S_MAX`
    bundle_refresh_s_max: u64 = BUNDLE_REFRESH_S_MAX, Lower, BUNDLE_REFRESH_S_MAX;
    /// `CONTEXT_GRACE_MS_MAX`
    context_grace_ms_max: u64 = CONTEXT_GRACE_MS_MAX, Any, 60_000;
    /// `CONTEXT_INDEX_ENTRIES_MAX`
    context_index_entries_max: usize = CONTEXT_INDEX_ENTRIES_MAX, Any, 262_144;
    /// `DRAIN_DELAY_MS`
    drain_delay_ms: u64 = DRAIN_DELAY_MS, Lower, DRAIN_DELAY_MS;
    /// `DRAIN_MS_MAX`
    drain_ms_max: u64 = DRAIN_MS_MAX, Lower, DRAIN_MS_MAX;
}

impl Limits {
    /// The connections this process may hold: what was set, else derived from what the process
    /// was given, so that neither memory nor descriptors run out first.
    pub fn conns_max_in_force(&self, memory_bytes: Option<u64>, nofile: u64) -> usize {
        if let Some(set) = self.conns_max {
            return set;
        }
        let by_memory = memory_bytes.map_or(u64::MAX, |bytes| bytes / (64 * 1024));
        let by_files = nofile.saturating_sub(256) / 2;
        usize::try_from(by_memory.min(by_files)).unwrap_or(usize::MAX).clamp(1, CONNS_MAX)
    }

    /// The HTTP/2 window of a connection: never less than its streams' windows together.
    pub fn h2_conn_window_bytes(&self) -> u32 {
        self.h2_streams_max.saturating_mul(H2_STREAM_WINDOW_BYTES).max(H2_CONN_WINDOW_BYTES)
    }

    /// The largest request body at a gateway.
    pub fn gateway_body_bytes_max(&self) -> u64 {
        self.body_bytes_max.unwrap_or(BODY_BYTES_MAX as u64)
    }
}

/// Looks a bound up among those that may be changed; evaluated while the constants are compiled.
const fn changeable(name: &str, default: u64) -> (Change, u64) {
    let mut i = 0;
    while i < CHANGEABLE.len() {
        if same(CHANGEABLE[i].0, name) {
            return (CHANGEABLE[i].1, CHANGEABLE[i].2);
        }
        i += 1;
    }
    (Change::Fixed, default)
}

const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut i = 0;
    while i < a.len() {
        if a[i] != b[i] {
            return false;
        }
        i += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_follow_memory_and_descriptors() {
        let limits = Limits::default();
        assert_eq!(limits.conns_max_in_force(None, 1_048_576), CONNS_MAX);
        assert_eq!(limits.conns_max_in_force(Some(64 * 1024 * 500), 1_048_576), 500);
        assert_eq!(limits.conns_max_in_force(None, 1_024), 384);
        assert_eq!(limits.conns_max_in_force(Some(0), 0), 1);
        let set = Limits { conns_max: Some(7), ..Limits::default() };
        assert_eq!(set.conns_max_in_force(None, 1_024), 7);
    }

    #[test]
    fn every_changeable_bound_exists_and_can_be_set() {
        for (name, change, ceiling) in CHANGEABLE {
            let bound = BOUNDS.iter().find(|b| b.name == *name).expect("listed in BOUNDS");
            assert_eq!((bound.change, bound.ceiling), (*change, *ceiling), "{name}");
            assert!(bound.ceiling >= bound.default, "{name}");
            let mut limits = Limits::default();
            limits.set(name, bound.default + 1);
            assert_ne!(limits, Limits::default(), "{name} is not carried by Limits");
        }
    }

    #[test]
    fn a_connection_window_holds_all_its_streams() {
        const { assert!(H2_CONN_WINDOW_BYTES >= H2_STREAMS_MAX * H2_STREAM_WINDOW_BYTES) };
        for streams in [1, H2_STREAMS_MAX, 1_024] {
            let limits = Limits { h2_streams_max: streams, ..Limits::default() };
            let window = limits.h2_conn_window_bytes();
            assert!(window >= streams * H2_STREAM_WINDOW_BYTES);
            assert!(window < 1 << 31, "RFC 9113 §6.9.1");
        }
    }
}
