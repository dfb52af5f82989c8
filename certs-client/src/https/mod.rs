//! The HTTPS client of the control plane: asks authorities, API servers and bundle endpoints.
//!
//! Invariants: one deadline over everything from name resolution to the last byte; an answer has
//! a largest size; plain `http` goes to loopback only unless somebody decided otherwise; a redirect
//! is followed only where the caller said which; whatever goes wrong says who was asked what and
//! what came. Never used on the data path.

mod answer;
mod connect;
mod error;
mod request;
mod trust;
mod url;

use std::{future::Future, sync::Arc, time::Duration};

use countersign_config::limits::{CONTROL_ANSWER_BYTES_MAX, CONTROL_CALL_MS_MAX};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

pub use self::{
    answer::Answer,
    error::{HttpsError, Problem},
    request::Request,
    trust::Trust,
    url::Url,
};

/// Redirects that are followed, where any are.
const REDIRECTS_MAX: usize = 3;

/// Decides whether a redirect from one URL to another is followed.
///
/// The error is what is wrong with it, for people.
pub type FollowRedirect = Arc<dyn Fn(&Url, &Url) -> Result<(), String> + Send + Sync>;

/// A client with one way of knowing servers. Clones share what was read of it.
#[derive(Clone)]
pub struct Client {
    roots: trust::Roots,
    allow_plain: bool,
    follow: Option<FollowRedirect>,
    bytes_max: usize,
}

impl Client {
    /// A client that recognises servers by `trust`.
    pub fn new(trust: Trust) -> Client {
        Client {
            roots: trust::Roots::new(trust),
            allow_plain: false,
            follow: None,
            bytes_max: CONTROL_ANSWER_BYTES_MAX,
        }
    }

    /// The same, refusing everything below TLS 1.3.
    #[must_use]
    pub fn tls13_only(mut self) -> Client {
        self.roots = self.roots.tls13_only();
        self
    }

    /// The same, also asking `http://` URLs of other machines: nobody then knows who answers.
    #[must_use]
    pub fn allow_plain_http(mut self) -> Client {
        self.allow_plain = true;
        self
    }

    /// The same, following up to three redirects of a GET that `follow` agrees to.
    #[must_use]
    pub fn follow_redirects(mut self, follow: FollowRedirect) -> Client {
        self.follow = Some(follow);
        self
    }

    /// The same with another largest answer.
    #[must_use]
    pub fn answer_bytes_max(mut self, bytes: usize) -> Client {
        self.bytes_max = bytes;
        self
    }

    /// Asks once. Every status is an answer; only what is no HTTP answer at all is an error.
    ///
    /// # Errors
    /// [`HttpsError`], whose text names the call and what came back.
    pub async fn send(&self, request: Request) -> Result<Answer, HttpsError> {
        let failed = |url: &Url, problem| HttpsError::new(request.method(), url, problem);
        let mut url = request.url().clone();
        let whole = self.follow_to_the_end(&request, &mut url);
        match within_the_deadline(whole).await {
            Some(Ok(answer)) => Ok(answer),
            Some(Err(problem)) => Err(failed(&url, problem)),
            None => Err(failed(&url, Problem::TimedOut { after_ms: CONTROL_CALL_MS_MAX })),
        }
    }

    async fn follow_to_the_end(&self, request: &Request, url: &mut Url) -> Result<Answer, Problem> {
        for _ in 0..=REDIRECTS_MAX {
            let answer = self.once(request, url).await?;
            let Some(follow) = self.follow.as_ref().filter(|_| request.is_get()) else {
                return Ok(answer);
            };
            let Some(location) = answer.redirect() else { return Ok(answer) };
            let next = url.join(location).map_err(|problem| Problem::Redirect {
                to: location.to_owned(),
                problem: problem.to_owned(),
            })?;
            follow(url, &next)
                .map_err(|problem| Problem::Redirect { to: next.to_string(), problem })?;
            *url = next;
        }
        let problem = format!("more than {REDIRECTS_MAX} redirects");
        Err(Problem::Redirect { to: url.to_string(), problem })
    }

    async fn once(&self, request: &Request, url: &Url) -> Result<Answer, Problem> {
        let stream = connect::tcp(url, self.allow_plain).await?;
        if !url.is_https() {
            return self.exchange(stream, request, url).await;
        }
        let stream = connect::tls(stream, url, self.roots.config().await?, &self.roots).await?;
        self.exchange(stream, request, url).await
    }

    /// One request on a connection of its own.
    async fn exchange<S>(&self, stream: S, request: &Request, url: &Url) -> Result<Answer, Problem>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let broken = |error: hyper::Error| Problem::Broken(error::innermost(&error));
        let message: http::Request<Full<bytes::Bytes>> = request.message(url)?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let answer = async {
            let (head, body) = sender.send_request(message).await.map_err(broken)?.into_parts();
            let body = Limited::new(body, self.bytes_max).collect().await.map_err(|error| {
                match error.downcast::<LengthLimitError>() {
                    Ok(_) => Problem::TooLarge { bytes_max: self.bytes_max },
                    Err(error) => Problem::Broken(error::innermost(&*error)),
                }
            })?;
            Ok(Answer::new(&head, body.to_bytes(), url.clone()))
        };
        tokio::pin!(answer, connection);
        tokio::select! {
            outcome = &mut answer => outcome,
            // The connection may end before its last bytes are taken from the body.
            _ = &mut connection => answer.await,
        }
    }
}

async fn within_the_deadline<T>(work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(CONTROL_CALL_MS_MAX), work).await.ok()
}
