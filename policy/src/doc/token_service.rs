//! `tokenService` of a `ContextPolicy`: which workloads may exchange what for a context token.

use countersign_workload_id::IdPattern;

use super::RctxKey;

/// What a token service grants, and to whom.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenService {
    /// `providers`: identity providers whose tokens are taken as subjects, by name.
    pub providers: Vec<String>,
    /// `replacements`: how often the token of one transaction may be replaced.
    pub replacements: usize,
    /// Who may ask; nobody else may.
    pub requesters: Vec<Requester>,
}

/// One entry of `requesters`.
#[derive(Clone, Debug, PartialEq)]
pub struct Requester {
    /// The workloads it is about.
    pub peer: IdPattern,
    /// `subjectTokens`: what they may bring.
    pub subject_tokens: Vec<SubjectToken>,
    /// `subjects`: whom they may name where nothing proves it (`unsigned_json`).
    pub subjects: Vec<String>,
    /// `origins` of the tokens they may get.
    pub origins: Vec<String>,
    /// `scopes` they may get; a final `*` matches any rest.
    pub scopes: Vec<String>,
    /// `emit`: which facts of a verified user their tokens carry.
    pub emit: Vec<RctxKey>,
    /// `assert`: facts they may state.
    pub assert: Vec<AssertKey>,
    /// `impersonate`: subjects a job of theirs may act for, given a checked justification.
    pub impersonate: Vec<String>,
    /// `rate`: tokens a second, of one workload at one replica.
    pub rate: u32,
}

closed_names! {
    /// Kinds of subject token.
    SubjectToken {
        /// An access token of a configured provider.
        AccessToken = "access_token",
        /// An ID token of a configured provider.
        IdToken = "id_token",
        /// Any JWT of a configured provider.
        Jwt = "jwt",
        /// A context token, to be replaced.
        TxnToken = "txn_token",
        /// A statement the requester signed with its workload key.
        SelfSigned = "self_signed",
        /// A statement nobody signed.
        UnsignedJson = "unsigned_json",
        /// A deferred grant.
        Deferred = "deferred",
    }
}

closed_names! {
    /// Facts a requester may be allowed to state.
    AssertKey {
        /// Client address. It has no source: only policies that ask for none believe it.
        ReqIp = "req_ip",
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
        /// Extra claims.
        Claims = "claims",
        /// A justification; never a checked one.
        Just = "just",
        /// Method.
        Method = "m",
        /// Authority.
        Authority = "h",
        /// Path template.
        Path = "p",
        /// Parameters.
        Params = "params",
    }
}
