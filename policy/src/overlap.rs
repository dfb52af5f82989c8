//! Whether one request could match two matchers: mint rules must never overlap (E020).

use crate::{
    doc::{HttpMatch, PathPattern},
    path::Segment,
};

/// Whether some request matches both. Headers are not looked at.
pub(crate) fn requests(a: &HttpMatch, b: &HttpMatch) -> bool {
    words(&a.methods, &b.methods) && words(&a.hosts, &b.hosts) && any_path(&a.paths, &b.paths)
}

/// An empty list stands for every word.
fn words(a: &[String], b: &[String]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|word| b.contains(word))
}

fn any_path(a: &[PathPattern], b: &[PathPattern]) -> bool {
    a.is_empty() || b.is_empty() || a.iter().any(|a| b.iter().any(|b| paths(a, b)))
}

/// A pattern as segments (`None`: any non-empty one), and whether more may follow.
fn shape(pattern: &PathPattern) -> (Vec<Option<&str>>, bool) {
    fn literal(path: &str) -> Vec<Option<&str>> {
        path.split('/').skip(1).map(Some).collect()
    }
    match pattern {
        PathPattern::Exact(path) => (literal(path), false),
        PathPattern::Prefix(path) => (literal(path.trim_end_matches('/')), true),
        PathPattern::Template(template) => {
            let segments = template.segments().iter().map(|segment| match segment {
                Segment::Literal(text) => Some(&**text),
                Segment::Param(_) => None,
            });
            (segments.collect(), template.is_open())
        }
    }
}

fn paths(a: &PathPattern, b: &PathPattern) -> bool {
    let ((a, a_open), (b, b_open)) = (shape(a), shape(b));
    let lengths = match (a_open, b_open) {
        (false, false) => a.len() == b.len(),
        (true, false) => a.len() <= b.len(),
        (false, true) => b.len() <= a.len(),
        (true, true) => true,
    };
    lengths
        && a.iter().zip(&b).all(|pair| match pair {
            (Some(a), Some(b)) => a == b,
            (Some(literal), None) | (None, Some(literal)) => !literal.is_empty(),
            (None, None) => true,
        })
}
