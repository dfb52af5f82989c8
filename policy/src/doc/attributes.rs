//! `AttributeProvider`: who is asked about what a request states, and what the answers may say.

use std::collections::BTreeMap;

use super::FileRef;

/// An external source of facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttributeProvider {
    /// Whom to ask, and how.
    pub source: AttributeSource,
    /// How long an answer may take, milliseconds.
    pub timeout_ms: u64,
    /// How long answers count.
    pub cache: AttributeCache,
    /// What happens when there is no answer.
    pub on_unavailable: OnUnavailable,
}

/// Whom to ask, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AttributeSource {
    /// A decision point that speaks the AuthZEN Authorization API 1.0.
    AuthZen(AuthZen),
    /// A directory that knows the groups of users.
    Ldap(LdapSearch),
}

/// How long answers count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttributeCache {
    /// A yes, seconds; 0: it is asked every time.
    pub positive_s: u64,
    /// A no, seconds.
    pub negative_s: u64,
    /// Answers that are kept.
    pub max_entries: usize,
}

/// `onUnavailable`. There is no word for "yes".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnUnavailable {
    /// What was asked about is minted as not checked.
    Unknown,
    /// The request is refused.
    Refuse,
    /// An answer of at most this age counts, seconds; without one the request is refused.
    UseStale(u64),
}

/// A question of the AuthZEN Authorization API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthZen {
    /// The access evaluation endpoint.
    pub endpoint: String,
    /// How we prove who asks.
    pub auth: AskAs,
    /// Authorities of the decision point; `None`: those of the operating system.
    pub roots: Option<FileRef>,
    /// `subject`.
    pub subject: Asked,
    /// `action.name`.
    pub action: String,
    /// `resource`.
    pub resource: Asked,
    /// Members of the answer's `context` that are kept, by name.
    pub facts: BTreeMap<String, FactType>,
}

/// How we prove who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AskAs {
    /// Not at all.
    Nobody,
    /// With the token in this file, read for every question.
    Bearer(FileRef),
}

/// An entity of a question: its type is written, its id is of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `type`.
    pub kind: String,
    /// Whose value `id` is.
    pub id: AskedId,
}

closed_names! {
    /// Values of a request that may be asked about.
    AskedId {
        /// The user's id at the provider.
        UserId = "user.id",
        /// The user's account.
        UserAccount = "user.accountId",
        /// The device.
        DeviceId = "device.id",
        /// The reference of the justification.
        JustificationRef = "justification.ref",
    }
}

/// Types of facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FactType {
    /// A JSON string.
    String,
    /// An integer.
    Int,
    /// A boolean.
    Bool,
}

/// A search for the groups of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapSearch {
    /// Host name or address of the directory.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub security: LdapSecurity,
    /// Authorities of the directory; `None`: those of the operating system.
    pub roots: Option<FileRef>,
    /// Who searches; `None`: anonymously.
    pub bind: Option<LdapBind>,
    /// Where the search begins.
    pub base: String,
    /// Which entries.
    pub filter: LdapFilter,
    /// The attribute whose values are group names.
    pub attribute: String,
    /// Groups that count; the others are forgotten.
    pub keep: Vec<String>,
}

/// How a connection to a directory is protected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LdapSecurity {
    /// TLS from the first byte.
    Ldaps,
    /// TLS begins with the StartTLS operation.
    StartTls,
    /// Not at all, which is possible on this machine only.
    Plain,
}

/// Who searches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LdapBind {
    /// Its distinguished name.
    pub dn: String,
    /// The file with its password, read for every connection.
    pub password: FileRef,
}

/// A search filter (RFC 4511 §4.5.1.7) with places for values of the request. Values are put into
/// the tree, never into text that is parsed afterwards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LdapFilter {
    /// `(&…)`.
    And(Vec<LdapFilter>),
    /// `(|…)`.
    Or(Vec<LdapFilter>),
    /// `(!…)`.
    Not(Box<LdapFilter>),
    /// `(attribute=*)`.
    Present(String),
    /// `(attribute=value)`.
    Equal(String, Vec<ValuePart>),
    /// `(attribute:rule:=value)`.
    Matching {
        /// The attribute.
        attribute: String,
        /// The matching rule.
        rule: String,
        /// The value.
        value: Vec<ValuePart>,
    },
}

/// A piece of a value in a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePart {
    /// As written.
    Literal(Vec<u8>),
    /// A value of the request: `{user.id}`.
    Of(AskedId),
    /// The same inside a distinguished name: `{dn:user.id}`, escaped as RFC 4514 says.
    InDn(AskedId),
}
