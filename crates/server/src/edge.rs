//! What every request goes through: the version in its path, the headers of its answer, and
//! "page not found".

use axum::Router;
use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{HeaderName, HeaderValue};
use http::{Method, Request, Uri};
use sampan_api::ApiVersion;
use tower::ServiceExt;

use crate::error::ApiError;
use crate::unbuilt;

const SERVER: &str = concat!("Sampan/", env!("CARGO_PKG_VERSION"), " (linux)");

/// The whole of the API.
#[derive(Clone)]
pub(crate) struct Edge {
    router: Router,
}

impl Edge {
    /// Answers by `routes`, beside the table of what is not built.
    pub(crate) fn new(routes: Router) -> Self {
        let router = unbuilt::add(routes)
            .fallback(async || ApiError::no_page())
            .method_not_allowed_fallback(async || ApiError::no_page());
        Self { router }
    }

    /// Answers one request.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response {
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let mut response = self.route(request).await;
        add_headers(&mut response);
        tracing::debug!(%method, path, status = response.status().as_u16(), "answered");
        response
    }

    async fn route(&self, mut request: Request<Body>) -> Response {
        let version = match take_version(request.uri()) {
            Ok(Versioned::Bare) => ApiVersion::NEWEST,
            Ok(Versioned::At(version, rest)) => {
                *request.uri_mut() = rest;
                version
            }
            Err(error) => return error.into_response(),
        };
        if request.method() == Method::OPTIONS {
            return ().into_response();
        }
        // Axum answers HEAD wherever there is a GET; Docker has two such routes.
        if request.method() == Method::HEAD && !has_head(request.uri().path()) {
            return ApiError::no_page().into_response();
        }
        request.extensions_mut().insert(version);
        match self.router.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

fn has_head(path: &str) -> bool {
    path == "/_ping" || (path.starts_with("/containers/") && path.ends_with("/archive"))
}

fn add_headers(response: &mut Response) {
    let newest = HeaderValue::try_from(ApiVersion::NEWEST.to_string())
        .expect("digits and a dot are a valid header");
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("api-version"), newest);
    for (name, value) in [
        ("server", SERVER),
        ("ostype", "linux"),
        ("docker-experimental", "false"),
    ] {
        headers.insert(
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        );
    }
}

/// A path taken apart.
#[derive(Debug, PartialEq)]
enum Versioned {
    /// It has no version.
    Bare,
    /// It has one; the rest of it.
    At(ApiVersion, Uri),
}

/// Takes `/v1.51` off the front of a path, as long as it is answered.
fn take_version(uri: &Uri) -> Result<Versioned, ApiError> {
    let path = uri.path();
    let Some(rest) = path.strip_prefix("/v") else {
        return Ok(Versioned::Bare);
    };
    let Some((text, rest)) = rest.split_once('/') else {
        return Ok(Versioned::Bare);
    };
    if text.is_empty()
        || !text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Ok(Versioned::Bare);
    }
    let version = check_version(text)?;
    let query = uri.query().map(|query| format!("?{query}"));
    let rest = format!("/{rest}{}", query.unwrap_or_default());
    match rest.parse() {
        Ok(rest) => Ok(Versioned::At(version, rest)),
        Err(_) => Err(ApiError::no_page()),
    }
}

/// Compares as Docker does: number by number, what is missing or no number counting as zero.
fn check_version(text: &str) -> Result<ApiVersion, ApiError> {
    let mut parts = text.split('.').map(|digits| match digits.parse::<u16>() {
        Ok(number) => number,
        Err(_) if digits.is_empty() => 0,
        Err(_) => u16::MAX,
    });
    let mut next = || parts.next().unwrap_or_default();
    let version = ApiVersion::new(next(), next());
    let beyond = parts.any(|part| part > 0);
    if version > ApiVersion::NEWEST || (version == ApiVersion::NEWEST && beyond) {
        return Err(ApiError::invalid(format!(
            "client version {text} is too new. Maximum supported API version is {}",
            ApiVersion::NEWEST
        )));
    }
    if version < ApiVersion::OLDEST {
        return Err(ApiError::invalid(format!(
            "client version {text} is too old. Minimum supported API version is {}, \
             please upgrade your client to a newer version",
            ApiVersion::OLDEST
        )));
    }
    Ok(version)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(path: &str) -> Result<Versioned, ApiError> {
        take_version(&path.parse().unwrap())
    }

    #[test]
    fn version_is_taken_off_the_path() {
        assert_eq!(
            take("/v1.24/containers/a%2Fb/json?all=1").unwrap(),
            Versioned::At(
                ApiVersion::new(1, 24),
                "/containers/a%2Fb/json?all=1".parse().unwrap()
            )
        );
        for bare in ["/volumes", "/version", "/_ping", "/v1.51", "/vx/info", "/"] {
            assert_eq!(take(bare).unwrap(), Versioned::Bare, "{bare}");
        }
    }

    #[test]
    fn versions_out_of_range_are_refused_in_dockers_words() {
        let refusal = |path: &str| take(path).unwrap_err().message().to_owned();
        assert_eq!(
            refusal("/v999/info"),
            "client version 999 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(
            refusal("/v1.52/info"),
            "client version 1.52 is too new. Maximum supported API version is 1.51"
        );
        assert_eq!(
            refusal("/v0.0/info"),
            "client version 0.0 is too old. Minimum supported API version is 1.24, \
             please upgrade your client to a newer version"
        );
        for odd in ["/v1/info", "/v./info", "/v1.51.1/info", "/v1.99999999/info"] {
            assert!(take(odd).is_err(), "{odd}");
        }
    }
}
