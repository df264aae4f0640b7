//! Telling clients how to say who they are, and giving them tokens.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use http::header::{AUTHORIZATION, CACHE_CONTROL, HOST, HeaderMap, HeaderValue, WWW_AUTHENTICATE};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use serde::Serialize;

use super::body::{self, Body, Pace};
use super::reply::{Reply, refuse};
use super::request::Method;
use super::route::Route;
use super::{Inner, needed};
use crate::access::{Access, Right};
use crate::auth::{Denied, Issued, Scheme, Scope, TokenKey};
use crate::name::RepositoryName;

/// Where tokens are given.
pub(super) const PATH: &str = "/token";
/// Bytes of a form.
const MAX_FORM: u64 = 16 << 10;
const REALM: &str = "sampan-registry";

#[derive(Serialize)]
struct Token<'a> {
    token: &'a str,
    access_token: &'a str,
    expires_in: i64,
    issued_at: String,
    token_type: &'a str,
}

impl Inner {
    /// Checks that a request may be made; answers it if not.
    pub(super) fn refused(
        &self,
        access: &Access,
        route: &Route,
        method: Method,
        headers: &HeaderMap,
    ) -> Option<Response<Body>> {
        let Some((name, right)) = needed(route, method) else {
            // Where clients look for how they should say who they are.
            let closed = !matches!(self.authentication.scheme(), Scheme::Open);
            let nobody = access.user().is_none() && !access.has_token();
            return (closed && nobody).then(|| self.challenge(headers, None, None));
        };
        if access.may(name, right) {
            return None;
        }
        // A better token may help; whom the rules refuse by name, nothing does.
        let hopeless = match self.authentication.scheme() {
            Scheme::Open => true,
            Scheme::Basic(_) | Scheme::Token(..) => {
                access.user().is_some() && !access.may_ever(name.as_str(), right)
            }
        };
        if hopeless {
            let message = "requested access to the resource is denied";
            return Some(refuse(StatusCode::FORBIDDEN, "DENIED", message, "").build());
        }
        Some(self.challenge(headers, None, Some((name, right))))
    }

    /// Asks a client who it is.
    pub(super) fn challenge(
        &self,
        headers: &HeaderMap,
        denied: Option<Denied>,
        wanted: Option<(&RepositoryName, Right)>,
    ) -> Response<Body> {
        let message = match denied {
            None => "authentication required",
            Some(Denied::Credentials) => "user name or password are wrong",
            Some(Denied::Token) => "the token is not valid here or too old",
            Some(Denied::Header) => "the Authorization header is not understood",
        };
        let reply = refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", message, "");
        let challenge = match self.authentication.scheme() {
            Scheme::Open => return reply.build(),
            Scheme::Basic(_) => format!("Basic realm=\"{REALM}\""),
            Scheme::Token(_, key) => {
                let had_token = headers.contains_key(AUTHORIZATION) && denied.is_none();
                self.bearer(headers, key, wanted, had_token)
            }
        };
        reply.header(WWW_AUTHENTICATE, challenge).build()
    }

    /// Asks for user name and password, where a token is of no use.
    pub(super) fn ask_for_password(&self, headers: &HeaderMap) -> Response<Body> {
        let mut reply = self.challenge(headers, None, None);
        let basic = HeaderValue::from_static("Basic realm=\"sampan-registry\"");
        reply.headers_mut().insert(WWW_AUTHENTICATE, basic);
        reply
    }

    fn bearer(
        &self,
        headers: &HeaderMap,
        key: &TokenKey,
        wanted: Option<(&RepositoryName, Right)>,
        had_token: bool,
    ) -> String {
        let base = self.base_url(headers);
        let mut text = format!(
            "Bearer realm=\"{base}{PATH}\",service=\"{}\"",
            key.service()
        );
        if let Some((name, right)) = wanted {
            // A push reads too.
            let actions = match right {
                Right::Pull => "pull",
                Right::Push => "pull,push",
                Right::Delete => "delete",
            };
            text.push_str(&format!(",scope=\"repository:{name}:{actions}\""));
        }
        if had_token {
            text.push_str(",error=\"insufficient_scope\"");
        }
        text
    }

    /// How clients reach the registry: as configured, or as this one did.
    pub(super) fn base_url(&self, headers: &HeaderMap) -> String {
        if let Some(url) = &self.public_url {
            return url.trim_end_matches('/').to_owned();
        }
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
        let host = headers
            .get(HOST)
            .and_then(|host| host.to_str().ok())
            .filter(|host| !host.is_empty() && host.bytes().all(fits))
            .unwrap_or("localhost");
        let scheme = if self.certificate.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{host}")
    }

    /// Gives a token.
    pub(super) async fn token(self: Arc<Self>, request: Request<Incoming>) -> Response<Body> {
        let Scheme::Token(_, key) = self.authentication.scheme() else {
            let message = "this registry gives no tokens";
            return refuse(StatusCode::NOT_FOUND, "NOT_FOUND", message, "").build();
        };
        let (parts, body) = request.into_parts();
        let query = parts.uri.query().unwrap_or_default().as_bytes();
        let (access, scopes) = match parts.method {
            http::Method::GET => {
                let access = self.authentication.access(&parts.headers).await;
                (access, scopes(form_urlencoded::parse(query)))
            }
            http::Method::POST => {
                let pace = Pace {
                    stall: Duration::from_secs(10),
                    slowest: self.limits.slowest,
                };
                let Ok(form) = body::read(body::pieces(body, pace), "form", MAX_FORM).await else {
                    let message = "the form is too long or broke off";
                    return refuse(StatusCode::BAD_REQUEST, "UNSUPPORTED", message, "").build();
                };
                let field = |name: &str| {
                    form_urlencoded::parse(&form)
                        .find(|(key, _)| key == name)
                        .map(|(_, value)| value.into_owned())
                        .unwrap_or_default()
                };
                if field("grant_type") != "password" {
                    let message = "only the grant type \"password\" is supported";
                    return refuse(StatusCode::BAD_REQUEST, "UNSUPPORTED", message, "").build();
                }
                let (user, password) = (field("username"), field("password"));
                let access = self.authentication.login(&user, &password).await;
                (access, scopes(form_urlencoded::parse(&form)))
            }
            _ => return super::not_allowed(),
        };
        let access = match access {
            Ok(access) => access,
            Err(_) => return self.ask_for_password(&parts.headers),
        };
        let Issued {
            token,
            life,
            issued,
        } = key.issue(&access, &scopes);
        let answer = Token {
            token: &token,
            access_token: &token,
            expires_in: life,
            issued_at: issued.to_string(),
            token_type: "Bearer",
        };
        Reply::json(StatusCode::OK, &answer)
            .header(CACHE_CONTROL, "no-store")
            .build()
    }
}

/// Reads all scopes: several fields, or several in one.
fn scopes<'a>(fields: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>) -> Vec<Scope> {
    fields
        .filter(|(key, _)| key == "scope")
        .flat_map(|(_, value)| {
            value
                .split(' ')
                .filter_map(Scope::parse)
                .collect::<Vec<Scope>>()
        })
        .collect()
}
