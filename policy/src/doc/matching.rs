//! What matchers mean, one at a time: allow compares narrowly, deny widely.
//!
//! Explanations, gateways and the reference evaluator use these; the compiled index gives the
//! same answers for all rules at once.

use std::sync::Arc;

use countersign_workload_id::TrustDomain;

use super::{CallerMatch, Effect, GrpcMatch, HttpMatch, PathPattern};
use crate::{
    input::Caller,
    path::{CanonicalPath, PathTemplate, Segment, percent_decoded},
};

impl PathPattern {
    /// Whether a path matches, byte for byte: how allow rules compare.
    pub fn matches_exactly(&self, path: &CanonicalPath) -> bool {
        match self {
            Self::Exact(exact) => exact == path.path(),
            Self::Prefix(prefix) => match path.path().strip_prefix(prefix.trim_end_matches('/')) {
                Some(rest) => rest.is_empty() || rest.starts_with('/'),
                None => false,
            },
            Self::Template(template) => template.matches(path),
        }
    }

    /// Whether a path matches as deny rules compare: escapes resolved, letter case and one
    /// trailing slash ignored. The compiled index does the same without allocating.
    pub fn matches_widely(&self, path: &CanonicalPath) -> bool {
        fn segments(path: &str) -> Vec<Vec<u8>> {
            let trimmed = path.strip_suffix('/').unwrap_or(path);
            trimmed.split('/').skip(1).map(folded).collect()
        }
        fn folded(segment: &str) -> Vec<u8> {
            percent_decoded(segment).map(|byte| byte.to_ascii_lowercase()).collect()
        }
        if !path.path().starts_with('/') {
            return false;
        }
        let given = segments(path.path());
        let (wanted, open): (Vec<Option<Vec<u8>>>, bool) = match self {
            Self::Exact(exact) => (segments(exact).into_iter().map(Some).collect(), false),
            Self::Prefix(prefix) => (segments(prefix).into_iter().map(Some).collect(), true),
            Self::Template(template) => {
                let mut wanted: Vec<Option<Vec<u8>>> = template
                    .segments()
                    .iter()
                    .map(|segment| match segment {
                        Segment::Literal(text) => Some(folded(text)),
                        Segment::Param(_) => None,
                    })
                    .collect();
                if wanted.last().is_some_and(|last| last.as_ref().is_some_and(Vec::is_empty)) {
                    wanted.pop();
                }
                (wanted, template.is_open())
            }
        };
        let long_enough =
            if open { given.len() >= wanted.len() } else { given.len() == wanted.len() };
        long_enough
            && wanted.iter().zip(&given).all(|(wanted, given)| match wanted {
                Some(literal) => literal == given,
                None => !given.is_empty(),
            })
    }

    /// For people, metrics and `http.route`.
    pub fn route(&self) -> Arc<str> {
        match self {
            Self::Exact(exact) => exact.as_str().into(),
            Self::Prefix(prefix) => format!("{}/**", prefix.trim_end_matches('/')).into(),
            Self::Template(template) => template.text(),
        }
    }
}

impl HttpMatch {
    /// Whether method, host and path match, byte for byte. Headers are not looked at.
    pub fn matches_exactly(&self, method: &str, host: &str, path: &CanonicalPath) -> bool {
        (self.methods.is_empty() || self.methods.iter().any(|own| own == method))
            && (self.hosts.is_empty() || self.hosts.iter().any(|own| own == host))
            && (self.paths.is_empty() || self.paths.iter().any(|own| own.matches_exactly(path)))
    }
}

impl CallerMatch {
    /// Whether a caller is one of these.
    pub fn admits(&self, caller: Caller<'_>, own_domain: &TrustDomain) -> bool {
        match (self, caller) {
            (Self::AnyOf(ids), Caller::Mesh(id)) => ids.contains(id),
            (Self::AnyInMesh, Caller::Mesh(id)) => id.trust_domain() == own_domain,
            (Self::Unauthenticated, Caller::Unauthenticated(_)) => true,
            (Self::AnyOf(_) | Self::AnyInMesh, Caller::Unauthenticated(_))
            | (Self::Unauthenticated, Caller::Mesh(_)) => false,
        }
    }
}

impl GrpcMatch {
    /// Whether a path calls one of these methods, compared as the effect demands.
    pub fn covers(&self, path: &CanonicalPath, effect: Effect) -> bool {
        let pattern = |method: &str| format!("/{}/{method}", self.service);
        let matches = |pattern: PathPattern| match effect {
            Effect::Allow => pattern.matches_exactly(path),
            Effect::Deny => pattern.matches_widely(path),
        };
        if !self.methods.is_empty() {
            return self.methods.iter().any(|m| matches(PathPattern::Exact(pattern(m))));
        }
        match effect {
            Effect::Deny => matches(PathPattern::Prefix(format!("/{}", self.service))),
            Effect::Allow => PathTemplate::parse(&pattern("{method}"))
                .is_ok_and(|template| matches(PathPattern::Template(template))),
        }
    }
}
