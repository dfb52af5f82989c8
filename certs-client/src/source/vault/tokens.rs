//! The server's token: got by logging in, kept alive at two thirds of its lease, given up when the
//! server says so. The credential behind a login is read again for each.

use std::time::Duration;

use countersign_config::identity::{VaultLogin, VaultRoleId, VaultTokenLogin};
use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, sleep_until},
};
use tracing::debug;
use zeroize::Zeroizing;

use super::{
    answers::{Answer, Lease},
    explain,
    server::{Call, Server, credential},
};
use crate::source::renewing::IssueError;

/// A token that ends sooner is not used for another call.
const LEFT_MIN: Duration = Duration::from_secs(2);

/// The one token this process has, if it has one.
pub(super) struct Tokens<'s> {
    server: &'s Server,
    held: Mutex<Option<Held>>,
    changed: Notify,
}

/// A token and when something is to be done about it.
struct Held {
    token: Zeroizing<String>,
    /// `None`: it never ends.
    ends_at: Option<Instant>,
    /// `None`: it cannot be renewed.
    renew_at: Option<Instant>,
}

/// What a token is used with.
pub(super) struct Token {
    pub(super) text: Zeroizing<String>,
    /// Whether it came from a login just now, so that another login would change nothing.
    pub(super) is_new: bool,
}

impl Held {
    fn new(lease: Lease, now: Instant) -> Held {
        let life = Duration::from_secs(lease.life_s);
        // 0 never ends; neither does what no clock reaches.
        let ends_at = now.checked_add(life).filter(|_| lease.life_s > 0);
        let renew_at = ends_at.filter(|_| lease.renewable).and(now.checked_add(life / 3 * 2));
        Held { token: lease.token, ends_at, renew_at }
    }

    fn is_usable(&self, now: Instant) -> bool {
        self.ends_at.is_none_or(|end| now + LEFT_MIN < end)
    }

    /// After a renewal that got no answer: half of what is left.
    fn renew_later(&mut self, now: Instant) {
        let left = self.ends_at.map(|end| end.saturating_duration_since(now));
        self.renew_at = left.filter(|left| *left > LEFT_MIN).map(|left| now + left / 2);
    }
}

impl<'s> Tokens<'s> {
    pub(super) fn new(server: &'s Server) -> Tokens<'s> {
        Tokens { server, held: Mutex::new(None), changed: Notify::new() }
    }

    /// The token, after a login if there is none that holds.
    pub(super) async fn get(&self) -> Result<Token, IssueError> {
        let mut held = self.held.lock().await;
        if let Some(held) = held.as_ref().filter(|held| held.is_usable(Instant::now())) {
            return Ok(Token { text: held.token.clone(), is_new: false });
        }
        *held = None;
        let asked_at = Instant::now();
        let lease = log_in(self.server).await?;
        let text = lease.token.clone();
        *held = Some(Held::new(lease, asked_at));
        self.changed.notify_one();
        Ok(Token { text, is_new: true })
    }

    /// Gives the token up: the server does not take it any more.
    pub(super) async fn drop_token(&self) {
        *self.held.lock().await = None;
    }

    /// Renews the token at two thirds of its lease; never returns.
    pub(super) async fn keep(&self) {
        loop {
            let renew_at = self.held.lock().await.as_ref().and_then(|held| held.renew_at);
            match renew_at {
                None => self.changed.notified().await,
                Some(at) => tokio::select! {
                    () = sleep_until(at) => self.renew().await,
                    () = self.changed.notified() => {}
                },
            }
        }
    }

    async fn renew(&self) {
        let mut slot = self.held.lock().await;
        let Some(held) = slot.as_mut() else { return };
        let asked_at = Instant::now();
        let body = json!({});
        let call = Call {
            name: "renew the token",
            path: "auth/token/renew-self",
            token: Some(held.token.as_str()),
            body: Some(&body),
        };
        match self.server.ask(&call).await {
            Ok(answer) if answer.is_good() => match answer.lease() {
                Ok(lease) => *held = Held::new(lease, asked_at),
                Err(unusable) => {
                    debug!(%unusable, "the token was not renewed");
                    held.renew_at = None;
                }
            },
            Ok(answer) => {
                debug!(answer = answer.shown(&[&held.token]), "the token was not renewed");
                match outcome(&answer) {
                    Outcome::Gone => *slot = None,
                    Outcome::Final => held.renew_at = None,
                    Outcome::Later => held.renew_later(Instant::now()),
                }
            }
            Err(error) => {
                debug!(%error, "the token was not renewed");
                held.renew_later(Instant::now());
            }
        }
    }
}

/// What a refused renewal says about the token.
enum Outcome {
    /// It lives on to its end and no longer: the next use after that logs in.
    Final,
    /// It does not exist any more.
    Gone,
    /// Nothing.
    Later,
}

fn outcome(answer: &Answer) -> Outcome {
    match answer.status {
        403 => Outcome::Gone,
        429 | 502..=504 => Outcome::Later,
        // "past the max TTL" comes as 500.
        _ => Outcome::Final,
    }
}

async fn log_in(server: &Server) -> Result<Lease, IssueError> {
    let source = &server.source;
    let (body, secret) = credentials(&source.login)?;
    let path = format!("auth/{}/login", source.login.mount());
    let call = Call { name: "log in", path: &path, token: None, body: Some(&body) };
    let answer = server.ask(&call).await?;
    if !answer.is_good() {
        let secrets = [secret.as_str()];
        return Err(
            call.refused(&answer, &secrets, |status, text| explain::login(source, status, text))
        );
    }
    answer.lease().map_err(|unusable| call.unusable(unusable))
}

/// The body of a login, and the secret in it.
fn credentials(login: &VaultLogin) -> Result<(Value, Zeroizing<String>), IssueError> {
    match login {
        VaultLogin::AppRole { role_id, secret_id_file, .. } => {
            let role_id = match role_id {
                VaultRoleId::Written(id) => id.clone(),
                VaultRoleId::File(path) => credential(path)?.to_string(),
            };
            let secret_id = credential(secret_id_file)?;
            Ok((json!({"role_id": role_id, "secret_id": secret_id.as_str()}), secret_id))
        }
        VaultLogin::Jwt(login) | VaultLogin::Kubernetes(login) => {
            let VaultTokenLogin { role, token_file, .. } = login;
            let token = credential(token_file)?;
            Ok((json!({"role": role, "jwt": token.as_str()}), token))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(life_s: u64, renewable: bool, now: Instant) -> Held {
        Held::new(Lease { token: Zeroizing::new("s.x".to_owned()), life_s, renewable }, now)
    }

    #[test]
    fn whatever_a_server_says_of_a_lease_is_a_time_or_none() {
        let now = Instant::now();
        let hour = held(3_600, true, now);
        assert_eq!(hour.ends_at, Some(now + Duration::from_secs(3_600)));
        assert_eq!(hour.renew_at, Some(now + Duration::from_secs(2_400)));
        assert!(hour.is_usable(now) && !hour.is_usable(now + Duration::from_secs(3_599)));
        assert_eq!(held(3_600, false, now).renew_at, None);
        for endless in [0, u64::MAX, u64::MAX / 2] {
            let held = held(endless, true, now);
            assert_eq!((held.ends_at, held.renew_at), (None, None), "{endless}");
            assert!(held.is_usable(now));
        }
        // Longer than anybody lives, and still a time.
        assert!(held(100 * 365 * 86_400, true, now).renew_at.is_some());
    }
}
