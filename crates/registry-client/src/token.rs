//! Tokens: where they come from and how long they hold.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use http::Method;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use reqwest::Url;

use crate::address::{host_of, is_trusted_service, refuse};
use crate::client::{Access, Client, Source, printable, read_bounded};
use crate::{Credentials, Error, Result};

const CLIENT_ID: &str = "sampan";
const MAX_TOKEN: u64 = 256 << 10;
/// How long a token holds that says nothing of it.
const DEFAULT_LIFE: u64 = 60;
/// A token this near to its end is not used any more.
const MARGIN: Duration = Duration::from_secs(5);

/// What authenticates requests, for each registry, repository and user.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<Key, Grant>>);

type Key = (String, String, Access, Credentials);

struct Grant {
    header: HeaderValue,
    until: Option<Instant>,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

fn key(source: &Source) -> Key {
    (
        source.registry.clone(),
        source.repository.clone(),
        source.access.clone(),
        source.credentials.clone(),
    )
}

impl Tokens {
    fn map(&self) -> MutexGuard<'_, HashMap<Key, Grant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what to send along, if it is known already.
    pub(crate) fn get(&self, source: &Source) -> Option<HeaderValue> {
        let token = &source.credentials.registry_token;
        if !token.is_empty() {
            return secret(&format!("Bearer {token}")).ok();
        }
        let mut map = self.map();
        let now = Instant::now();
        map.retain(|_, grant| grant.until.is_none_or(|until| until > now));
        map.get(&key(source)).map(|grant| grant.header.clone())
    }

    pub(crate) fn forget(&self, source: &Source) {
        self.map().remove(&key(source));
    }

    /// Notes that this registry wants user name and password.
    pub(crate) fn basic(&self, source: &Source) -> HeaderValue {
        let header = basic(&source.credentials);
        self.map().insert(
            key(source),
            Grant {
                header: header.clone(),
                until: None,
            },
        );
        header
    }

    fn bearer(&self, source: &Source, token: &str, life: u64) -> Result<HeaderValue> {
        let header = secret(&format!("Bearer {token}"))?;
        // No longer than a day, whatever the service says.
        let life = Duration::from_secs(life.clamp(10, 86_400)) - MARGIN;
        self.map().insert(
            key(source),
            Grant {
                header: header.clone(),
                until: Some(Instant::now() + life),
            },
        );
        Ok(header)
    }
}

fn secret(text: &str) -> Result<HeaderValue> {
    let mut value = HeaderValue::from_str(text)
        .map_err(|_| Error::Protocol("a token that is no text".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// Returns user name and password as they are sent.
pub(crate) fn basic(credentials: &Credentials) -> HeaderValue {
    let pair = format!("{}:{}", credentials.username, credentials.password);
    let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(pair)))
        .expect("base64 is always a header value");
    value.set_sensitive(true);
    value
}

#[derive(serde::Deserialize)]
struct Answer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<u64>,
    #[serde(default)]
    refresh_token: Option<String>,
}

/// What a token is asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Use,
    LogIn,
}

impl Answer {
    fn token(&self) -> Result<String> {
        [&self.token, &self.access_token]
            .into_iter()
            .flatten()
            .find(|token| !token.is_empty())
            .cloned()
            .ok_or_else(no_token)
    }
}

fn no_token() -> Error {
    Error::Protocol("the token service answers no token".into())
}

impl Client {
    /// Asks the token service that the registry at `registry` names.
    ///
    /// The registry decides where a token comes from, as with Docker; but not out of an encrypted
    /// connection, and not from services of this machine. Credentials go to services of the
    /// registry's own site only, and to those that the user allows. The scope is what is needed,
    /// whatever the registry says.
    pub(crate) async fn fetch_token(
        &self,
        source: &Source,
        registry: &Url,
        realm: &str,
        service: &str,
    ) -> Result<HeaderValue> {
        let answer = self
            .ask_service(source, registry, realm, service, Purpose::Use)
            .await?;
        let life = answer.expires_in.unwrap_or(DEFAULT_LIFE);
        self.0.tokens.bearer(source, &answer.token()?, life)
    }

    /// Asks the token service whether it knows the user. Returns what to send along, and the
    /// refresh token that takes the password's place if the service has such.
    pub(crate) async fn log_in_to_service(
        &self,
        source: &Source,
        registry: &Url,
        realm: &str,
        service: &str,
    ) -> Result<(HeaderValue, String)> {
        let answer = self
            .ask_service(source, registry, realm, service, Purpose::LogIn)
            .await?;
        let header = secret(&format!("Bearer {}", answer.token()?))?;
        Ok((header, answer.refresh_token.unwrap_or_default()))
    }

    async fn ask_service(
        &self,
        source: &Source,
        registry: &Url,
        realm: &str,
        service: &str,
        purpose: Purpose,
    ) -> Result<Answer> {
        let mut url = Url::parse(realm)
            .map_err(|_| Error::Protocol(format!("token service {:?}", printable(realm))))?;
        if let Some(reason) = refuse(registry, &url) {
            return Err(Error::Unsafe {
                url: url.into(),
                reason,
            });
        }
        let credentials = &source.credentials;
        if !credentials.is_anonymous() {
            let settings = self.known_settings();
            let own = settings.host(&source.registry);
            let own = own.map_or(&[][..], |host| &host.token_services);
            let allowed = [own, &self.0.config.token_hosts].concat();
            if !is_trusted_service(registry, &url, &allowed) {
                return Err(Error::ForeignService {
                    registry: source.registry.clone(),
                    service: host_of(&url),
                });
            }
        }
        url.set_fragment(None);
        let shown = {
            let mut shown = url.clone();
            shown.set_query(None);
            String::from(shown)
        };
        let scopes = source.scopes();
        let transport = self.transport(&url)?;
        let refresh = !credentials.identity_token.is_empty();
        let (method, request) = if refresh {
            let form = form(&[
                ("grant_type", "refresh_token"),
                ("service", service),
                ("client_id", CLIENT_ID),
                ("scope", &scopes.join(" ")),
                ("refresh_token", &credentials.identity_token),
            ]);
            let request = transport
                .post(url.clone())
                .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                .body(form);
            (Method::POST, request)
        } else {
            {
                let mut query = url.query_pairs_mut();
                if !service.is_empty() {
                    query.append_pair("service", service);
                }
                for scope in &scopes {
                    query.append_pair("scope", scope);
                }
                if !credentials.username.is_empty() {
                    query.append_pair("account", &credentials.username);
                }
                if purpose == Purpose::LogIn {
                    query.append_pair("offline_token", "true");
                }
                query.append_pair("client_id", CLIENT_ID);
            }
            let mut request = transport.get(url.clone());
            if !credentials.username.is_empty() {
                request = request.header(AUTHORIZATION, basic(credentials));
            }
            (Method::GET, request)
        };
        let response = request
            .send()
            .await
            .map_err(|e| self.transport_error(&method, &url, &e))?;
        let status = response.status();
        if status.is_redirection() {
            return Err(Error::Unsafe {
                url: shown,
                reason: "a token service may not redirect",
            });
        }
        let body = read_bounded(self, response, "token", MAX_TOKEN).await?;
        if !status.is_success() {
            if status.is_server_error() || status.as_u16() == 429 {
                return Err(Error::Status {
                    status: status.to_string(),
                    code: status.as_u16(),
                });
            }
            let method = crate::client::name(&method);
            return Err(Error::TokenRefused {
                method,
                url: shown,
                message: refusal(&body).unwrap_or_else(|| status.to_string()),
            });
        }
        serde_json::from_slice(&body).map_err(|_| no_token())
    }
}

/// Finds the reason in the answer of a token service, in any of the forms they have.
fn refusal(body: &[u8]) -> Option<String> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    let texts = [
        value.pointer("/details"),
        value.pointer("/errors/0/message"),
        value.pointer("/error_description"),
        value.pointer("/message"),
        value.pointer("/error"),
    ];
    texts
        .into_iter()
        .flatten()
        .find_map(serde_json::Value::as_str)
        .map(printable)
}

fn form(pairs: &[(&str, &str)]) -> String {
    let mut url = Url::parse("http://form/").expect("a constant URL");
    url.query_pairs_mut().extend_pairs(pairs);
    url.query().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_shown() {
        let credentials = Credentials {
            username: "me".into(),
            password: "hunter2".into(),
            identity_token: "id-secret".into(),
            registry_token: "reg-secret".into(),
        };
        let tokens = Tokens::default();
        let source = Source {
            registry: "r".into(),
            repository: "x".into(),
            credentials: credentials.clone(),
            title: "x".into(),
            name: "x".into(),
            access: Access::Pull,
            is_mirror: false,
        };
        let header = tokens.basic(&source);
        let shown = format!("{credentials:?} {tokens:?} {source:?} {header:?}");
        for secret in ["hunter2", "id-secret", "reg-secret", "bWU6aHVudGVyMg"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[test]
    fn forms_are_encoded() {
        assert_eq!(form(&[("a", "b c&d"), ("e", "ü")]), "a=b+c%26d&e=%C3%BC");
    }

    #[test]
    fn refusals_are_understood() {
        for body in [
            r#"{"details":"why"}"#,
            r#"{"errors":[{"code":"X","message":"why"}]}"#,
            r#"{"error":"invalid_grant","error_description":"why"}"#,
        ] {
            assert_eq!(refusal(body.as_bytes()).unwrap(), "why");
        }
        assert_eq!(refusal(b"<html>"), None);
    }
}
