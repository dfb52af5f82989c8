//! What came back.

use std::time::Duration;

use bytes::Bytes;
use http::{StatusCode, header, response::Parts};
use serde::de::DeserializeOwned;

use super::Url;

/// Characters of an answer that are shown to people.
const SHOWN_CHARS_MAX: usize = 300;

/// An answer, whatever its status.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// `Content-Type`, as sent.
    pub content_type: Option<String>,
    /// `Retry-After`, from now.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Bytes,
    /// Who answered, after redirects.
    pub url: Url,
    location: Option<String>,
}

impl Answer {
    pub(super) fn new(head: &Parts, body: Bytes, url: Url) -> Answer {
        let text = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        Answer {
            status: head.status,
            content_type: text(header::CONTENT_TYPE).map(str::to_owned),
            retry_after: text(header::RETRY_AFTER)
                .and_then(|after| retry_after(after, text(header::DATE))),
            body,
            url,
            location: text(header::LOCATION).map(str::to_owned),
        }
    }

    /// Where it redirects to.
    pub(super) fn redirect(&self) -> Option<&str> {
        let redirects = matches!(self.status.as_u16(), 301 | 302 | 303 | 307 | 308);
        self.location.as_deref().filter(|_| redirects)
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// What is wrong with it, with the beginning of what came.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, String> {
        serde_json::from_slice(&self.body).map_err(|error| {
            format!("the answer is not what was expected ({error}): {}", self.shown())
        })
    }

    /// `403 Forbidden: …`, with the beginning of the body in one line.
    pub fn summary(&self) -> String {
        let shown = self.shown();
        if shown.is_empty() { self.status.to_string() } else { format!("{}: {shown}", self.status) }
    }

    /// The beginning of the body in one line that cannot do anything to a terminal.
    pub fn shown(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        let words: Vec<&str> = text.split_whitespace().collect();
        let line = words.join(" ");
        let mut shown: String =
            line.chars().filter(|c| !c.is_control()).take(SHOWN_CHARS_MAX).collect();
        if line.chars().count() > SHOWN_CHARS_MAX {
            shown.push('…');
        }
        shown
    }
}

/// Seconds, or a date, which is read against the server's own clock.
fn retry_after(text: &str, date: Option<&str>) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let now = httpdate::parse_http_date(date?).ok()?;
    until.duration_since(now).ok()
}
