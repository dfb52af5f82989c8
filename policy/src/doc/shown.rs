//! Which claims of a context an app may read in `Countersign-Claims`.

closed_names! {
    /// Members of `rctx` that a rule may show.
    ShownRctx {
        /// Client address, with its source `ip_src`.
        ReqIp = "req_ip",
        /// Name of the identity provider.
        Idp = "idp",
        /// OAuth client.
        ClientId = "client_id",
        /// Authentication context class.
        Acr = "acr",
        /// When the user logged in.
        AuthTime = "auth_time",
        /// How the user was authenticated.
        Authn = "authn",
        /// Authentication methods.
        Amr = "amr",
        /// Account id.
        Acct = "acct",
        /// Groups.
        Groups = "groups",
        /// Declared extra claims.
        Claims = "claims",
        /// The device.
        Dev = "dev",
        /// The ingress TLS connection.
        Tls = "tls",
        /// What the user's credential was bound by.
        Sc = "sc",
        /// Justification.
        Just = "just",
        /// Approvals.
        Appr = "appr",
        /// Break-glass.
        Bg = "bg",
        /// The ingress workload.
        Wl = "wl",
        /// The trust domain a foreign request came from.
        SrcTd = "src_td",
        /// Its transaction there.
        SrcTxn = "src_txn",
    }
}

closed_names! {
    /// Members of `tctx` that a rule may show.
    ShownTctx {
        /// Method.
        Method = "m",
        /// Authority.
        Authority = "h",
        /// Path template.
        Path = "p",
        /// Signed parameters.
        Params = "params",
        /// Deadline.
        Deadline = "deadline",
        /// Hash of the replaced token.
        Parent = "parent",
        /// Transaction it belongs to.
        ParentTxn = "parent_txn",
        /// Earlier requesters.
        ReqChain = "req_chain",
    }
}

/// `claims` of a rule: what its permit shows of `rctx` and `tctx`. Subject, transaction, scope, end
/// and how the transaction began are always shown.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClaimFilter {
    /// Members of `rctx`.
    pub rctx: Vec<ShownRctx>,
    /// Members of `tctx`.
    pub tctx: Vec<ShownTctx>,
}

impl ClaimFilter {
    /// Whether it shows a member of `rctx`.
    pub fn shows_rctx(&self, name: &str) -> bool {
        self.rctx.iter().any(|shown| shown.as_str() == name)
    }

    /// Whether it shows a member of `tctx`.
    pub fn shows_tctx(&self, name: &str) -> bool {
        self.tctx.iter().any(|shown| shown.as_str() == name)
    }
}
