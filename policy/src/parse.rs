//! From YAML trees to typed documents.
use crate::{
    Documents, Problems, Source,
    yaml::{Findings, documents as nodes},
};

pub(crate) fn documents(sources: &[Source<'_>]) -> Result<Documents, Problems> {
    let mut findings = Findings::new(sources);
    let _ = nodes(&mut findings, 0);
    Err(Problems(findings.finish()?))
}
