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

use crate::address::{refuse, same_domain};
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

fn basic(credentials: &Credentials) -> HeaderValue {
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
}

impl Client {
    /// Asks the token service that the registry at `registry` names.
    ///
    /// The registry decides where the credentials that belong to it go, as with Docker; but not
    /// out of an encrypted connection, and not to services of this machine. The scope is what is
    /// needed, whatever the registry says.
    pub(crate) async fn fetch_token(
        &self,
        source: &Source,
        registry: &Url,
        realm: &str,
        service: &str,
    ) -> Result<HeaderValue> {
        let mut url = Url::parse(realm)
            .map_err(|_| Error::Protocol(format!("token service {:?}", printable(realm))))?;
        if let Some(reason) = refuse(registry, &url) {
            return Err(Error::Unsafe {
                url: url.into(),
                reason,
            });
        }
        if let Some(hosts) = &self.0.config.token_hosts
            && !source.credentials.is_anonymous()
            && !hosts.iter().any(|host| url.host_str() == Some(host))
            && !same_domain(registry, &url)
        {
            return Err(Error::Unsafe {
                url: url.into(),
                reason: "it is no token service of the registry's own domain",
            });
        }
        url.set_fragment(None);
        let shown = {
            let mut shown = url.clone();
            shown.set_query(None);
            String::from(shown)
        };
        let scopes = source.scopes();
        let credentials = &source.credentials;
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
        let answer: Answer = serde_json::from_slice(&body)
            .map_err(|_| Error::Protocol("the token service answers no token".into()))?;
        let token = answer
            .token
            .filter(|t| !t.is_empty())
            .or(answer.access_token)
            .filter(|t| !t.is_empty())
            .ok_or_else(|| Error::Protocol("the token service answers no token".into()))?;
        self.0
            .tokens
            .bearer(source, &token, answer.expires_in.unwrap_or(DEFAULT_LIFE))
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
