//! The subject of a token. Unique in a trust domain by construction: each form has its own
//! prefix, and inside a user name the separator cannot occur unescaped.

use std::fmt;

use countersign_workload_id::{TrustDomain, WorkloadId};

/// Longest subject, in bytes.
pub(crate) const SUBJECT_BYTES_MAX: usize = 256;

/// On whose behalf a request is made.
///
/// ```
/// use countersign_ctxtoken::{Subject, UserName};
///
/// let alice = Subject::User(UserName::new(Some("corp"), "team/alice").unwrap());
/// assert_eq!(alice.to_string(), "user:corp/team%2Falice");
/// assert_eq!(Subject::parse("user:corp/team%2Falice"), Some(alice));
/// assert_eq!(Subject::parse("user:a/b/c"), None);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// Nobody in particular: `anon`.
    Anonymous,
    /// Somebody another trust domain vouched for: `foreign:<trust domain>|<sub>`.
    Foreign {
        /// The domain that vouched.
        trust_domain: TrustDomain,
        /// The subject as that domain wrote it.
        subject: String,
    },
    /// A workload on its own behalf: `svc:<SPIFFE ID>`.
    Service(WorkloadId),
    /// An end user: `user:<id>` or `user:<provider>/<id>`.
    User(UserName),
}

impl Subject {
    /// Reads a `sub` claim; `None` if it is none of the forms.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > SUBJECT_BYTES_MAX || text.chars().any(char::is_control) {
            return None;
        }
        if text == "anon" {
            return Some(Self::Anonymous);
        }
        match text.split_once(':')? {
            ("user", name) => UserName::parse(name).map(Self::User),
            ("svc", id) => WorkloadId::parse(id).ok().map(Self::Service),
            ("foreign", rest) => {
                let (trust_domain, subject) = rest.split_once('|')?;
                let trust_domain = TrustDomain::parse(trust_domain).ok()?;
                (!subject.is_empty())
                    .then(|| Self::Foreign { trust_domain, subject: subject.to_owned() })
            }
            _ => None,
        }
    }

    /// The user, for subjects that are one.
    pub fn user(&self) -> Option<&UserName> {
        match self {
            Self::User(name) => Some(name),
            Self::Anonymous | Self::Foreign { .. } | Self::Service(_) => None,
        }
    }

    /// The workload, for subjects that are one.
    pub fn service(&self) -> Option<&WorkloadId> {
        match self {
            Self::Service(id) => Some(id),
            Self::Anonymous | Self::Foreign { .. } | Self::User(_) => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anonymous => f.write_str("anon"),
            Self::Foreign { trust_domain, subject } => {
                write!(f, "foreign:{trust_domain}|{subject}")
            }
            Self::Service(id) => write!(f, "svc:{id}"),
            Self::User(name) => write!(f, "user:{name}"),
        }
    }
}

/// A user's name as tokens carry it: `<id>` or `<provider>/<id>`, with `/`, `%` and control
/// characters inside either part percent-encoded.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserName {
    text: String,
}

impl UserName {
    /// Encodes an ID as an identity provider gave it. `provider` is the prefix configured for
    /// that provider; only one provider may go without. `None` if a part is empty or the name
    /// would be too long.
    pub fn new(provider: Option<&str>, id: &str) -> Option<Self> {
        let mut text = String::with_capacity(id.len() + 16);
        if let Some(provider) = provider {
            encode(provider, &mut text);
            text.push('/');
        }
        encode(id, &mut text);
        Self::parse(&text)
    }

    /// Takes a name that is already encoded.
    fn parse(text: &str) -> Option<Self> {
        let (provider, id) = match text.split_once('/') {
            Some((provider, id)) => (Some(provider), id),
            None => (None, text),
        };
        let sound = text.len() + "user:".len() <= SUBJECT_BYTES_MAX
            && provider.is_none_or(is_encoded)
            && is_encoded(id);
        sound.then(|| Self { text: text.to_owned() })
    }

    /// The whole name, without `user:`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The prefix of the identity provider, if it has one.
    pub fn provider(&self) -> Option<&str> {
        self.text.split_once('/').map(|(provider, _)| provider)
    }

    /// The part after the provider's prefix, still encoded.
    pub fn id(&self) -> &str {
        self.text.split_once('/').map_or(&self.text, |(_, id)| id)
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn encode(part: &str, out: &mut String) {
    for c in part.chars() {
        if matches!(c, '/' | '%') || c.is_control() {
            let mut bytes = [0; 4];
            for byte in c.encode_utf8(&mut bytes).bytes() {
                out.push_str(&format!("%{byte:02X}"));
            }
        } else {
            out.push(c);
        }
    }
}

/// Whether a part has no bare separator or control character and every `%` starts an escape.
fn is_encoded(part: &str) -> bool {
    let escapes_are_whole = part
        .split('%')
        .skip(1)
        .all(|after| after.len() >= 2 && after.bytes().take(2).all(|b| b.is_ascii_hexdigit()));
    !part.is_empty() && escapes_are_whole && !part.chars().any(|c| c == '/' || c.is_control())
}
