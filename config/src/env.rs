//! Every environment variable any of our programs reads, each once, with what it does.
//! Nothing else in the workspace reads the environment: clippy refuses `std::env::var` elsewhere,
//! and `docs/environment.md` is made from [`ALL`]. Secrets are never read from here.

/// One environment variable.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Its name.
    pub name: &'static str,
    /// Which programs read it.
    pub read_by: &'static str,
    /// What holds when it is not set.
    pub default: &'static str,
    /// What it does.
    pub summary: &'static str,
}

impl Variable {
    /// The value, if set, not empty and UTF-8.
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    pub fn get(&self) -> Option<String> {
        std::env::var(self.name).ok().filter(|value| !value.is_empty())
    }

    /// Whether the variable is set to anything but the empty string.
    pub fn is_set(&self) -> bool {
        self.get().is_some()
    }
}

/// Where the SPIFFE Workload API listens.
pub const SPIFFE_ENDPOINT_SOCKET: Variable = Variable {
    name: "SPIFFE_ENDPOINT_SOCKET",
    read_by: "countersign-proxy",
    default: "none: `identity.source.workloadApi.socket` must be written",
    summary: "Address of the SPIFFE Workload API (`unix:///absolute/path` or `tcp://<IP>:<port>`), \
              used when a `ProxyConfig` says `workloadApi: {}` without a socket.",
};

/// What is logged.
pub const COUNTERSIGN_LOG: Variable = Variable {
    name: "COUNTERSIGN_LOG",
    read_by: "countersign-proxy, countersign",
    default: "info",
    summary: "What is logged: a level (`error`, `warn`, `info`, `debug`, `trace`) or directives such \
              as `info,countersign_proxy::inbound=debug`.",
};

/// How log lines look.
pub const COUNTERSIGN_LOG_FORMAT: Variable = Variable {
    name: "COUNTERSIGN_LOG_FORMAT",
    read_by: "countersign-proxy",
    default: "text on a terminal, else json",
    summary: "Form of the log lines on standard error: `json` or `text`.",
};

/// How many data-path threads run.
pub const COUNTERSIGN_WORKERS: Variable = Variable {
    name: "COUNTERSIGN_WORKERS",
    read_by: "countersign-proxy",
    default: "the CPU limit of the cgroup, else the number of cores",
    summary: "Number of data-path threads, used when the `ProxyConfig` does not set `workers`.",
};

/// The pod's own addresses.
pub const COUNTERSIGN_POD_IPS: Variable = Variable {
    name: "COUNTERSIGN_POD_IPS",
    read_by: "countersign-proxy",
    default: "the addresses of the pod's interfaces",
    summary: "The pod's addresses with commas between them (Kubernetes: `status.podIPs`): redirected \
              connections to any other address are closed.",
};

/// Where testbed programs are kept.
pub const COUNTERSIGN_CACHE: Variable = Variable {
    name: "COUNTERSIGN_CACHE",
    read_by: "cargo xtask testbed, integration tests, benches",
    default: "`$XDG_CACHE_HOME/countersign`, else `~/.cache/countersign`",
    summary: "Folder that holds the pinned third-party programs of the test-bed.",
};

/// The user's cache folder, by the XDG rules.
pub const XDG_CACHE_HOME: Variable = Variable {
    name: "XDG_CACHE_HOME",
    read_by: "cargo xtask testbed, integration tests, benches",
    default: "`~/.cache`",
    summary: "Base folder of caches; the test-bed is in `countersign` below it.",
};

/// The user's home folder.
pub const HOME: Variable = Variable {
    name: "HOME",
    read_by: "cargo xtask testbed, integration tests, benches",
    default: "none",
    summary: "Home folder, for the default of `XDG_CACHE_HOME`.",
};

/// Cargo's home folder.
pub const CARGO_HOME: Variable = Variable {
    name: "CARGO_HOME",
    read_by: "cargo xtask",
    default: "`~/.cargo`",
    summary: "Cargo's own variable; an advisory database below it is used when it is there.",
};

/// What a missing testbed program means.
pub const COUNTERSIGN_TESTBED: Variable = Variable {
    name: "COUNTERSIGN_TESTBED",
    read_by: "cargo xtask, integration tests",
    default: "a missing program skips its tests and is named",
    summary: "`require` makes every missing test-bed program a failure; CI sets it.",
};

/// Where the programs under test are.
pub const COUNTERSIGN_BIN_DIR: Variable = Variable {
    name: "COUNTERSIGN_BIN_DIR",
    read_by: "countersign demo, integration tests, benches",
    default: "the folder of the running program, then `target/e2e`",
    summary: "Folder with the binaries `countersign` and `countersign-proxy` that are started.",
};

/// Another Envoy.
pub const COUNTERSIGN_ENVOY: Variable = Variable {
    name: "COUNTERSIGN_ENVOY",
    read_by: "countersign-bench",
    default: "the one of the test-bed",
    summary: "Envoy executable the side-by-side bench measures against.",
};

/// A short bench.
pub const QUICK: Variable = Variable {
    name: "QUICK",
    read_by: "countersign-bench, make bench",
    default: "the full plan",
    summary: "Set to anything but `0`: fewer and shorter rounds.",
};

/// Whether we run in a cluster.
pub const KUBERNETES_SERVICE_HOST: Variable = Variable {
    name: "KUBERNETES_SERVICE_HOST",
    read_by: "countersign-proxy, countersign signer, countersign dev authority, countersign dev issuer",
    default: "not in a cluster",
    summary: "Set by Kubernetes in every pod: host of the API server, used where a configuration names \
              no `server`; the development authority and issuer refuse to run there.",
};

/// The port of the API server.
pub const KUBERNETES_SERVICE_PORT: Variable = Variable {
    name: "KUBERNETES_SERVICE_PORT",
    read_by: "countersign-proxy, countersign signer",
    default: "443",
    summary: "Set by Kubernetes in every pod: port of the API server at `KUBERNETES_SERVICE_HOST`.",
};

/// Switches colour off.
pub const NO_COLOR: Variable = Variable {
    name: "NO_COLOR",
    read_by: "countersign",
    default: "colour on a terminal",
    summary: "Set to anything: output is never coloured.",
};

/// Every variable, in the order of the reference.
pub const ALL: &[Variable] = &[
    SPIFFE_ENDPOINT_SOCKET,
    COUNTERSIGN_LOG,
    COUNTERSIGN_LOG_FORMAT,
    COUNTERSIGN_WORKERS,
    COUNTERSIGN_POD_IPS,
    NO_COLOR,
    KUBERNETES_SERVICE_HOST,
    KUBERNETES_SERVICE_PORT,
    COUNTERSIGN_BIN_DIR,
    QUICK,
    COUNTERSIGN_ENVOY,
    COUNTERSIGN_CACHE,
    XDG_CACHE_HOME,
    HOME,
    CARGO_HOME,
    COUNTERSIGN_TESTBED,
];
