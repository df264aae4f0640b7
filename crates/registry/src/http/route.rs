//! Paths of the distribution protocol, taken apart from the end: a repository's name may have any
//! number of parts, and any of them may be called `blobs` or `tags`.

use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::name::RepositoryName;

/// What a path below `/v2/` names.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/manifests/<tag or digest>`
    Manifest(RepositoryName, String),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, String),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepositoryName, String),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, String),
}

/// Why a path below `/v2/` names nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NoRoute {
    /// There is no such endpoint.
    Unknown,
    /// There is, but not of a repository of such a name.
    Name(String),
}

impl Route {
    /// A short name for metrics and logs.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Tags(_) => "tags",
            Self::Manifest(..) => "manifest",
            Self::Blob(..) => "blob",
            Self::Uploads(_) | Self::Upload(..) => "upload",
            Self::Referrers(..) => "referrers",
        }
    }
}

/// Takes what follows `/v2` apart.
pub(crate) fn parse(path: &str) -> Result<Route, NoRoute> {
    let rest = match path {
        "" | "/" => return Ok(Route::Base),
        "/_catalog" => return Ok(Route::Catalog),
        other => other.strip_prefix('/').ok_or(NoRoute::Unknown)?,
    };
    let mut parts = Vec::new();
    for part in rest.split('/') {
        let part = percent_decode_str(part)
            .decode_utf8()
            .map_err(|_| NoRoute::Unknown)?;
        // An encoded slash must not become one.
        if part.contains('/') {
            return Err(NoRoute::Unknown);
        }
        parts.push(part.into_owned());
    }
    let name = |parts: &[String]| {
        let name = parts.join("/");
        RepositoryName::from_str(&name).map_err(|_| NoRoute::Name(name))
    };
    let mut last = || parts.pop().ok_or(NoRoute::Unknown);
    let (tail, verb) = (last()?, last()?);
    match (verb.as_str(), tail.as_str()) {
        ("tags", "list") => Ok(Route::Tags(name(&parts)?)),
        ("manifests", _) => Ok(Route::Manifest(name(&parts)?, tail)),
        ("referrers", _) => Ok(Route::Referrers(name(&parts)?, tail)),
        ("blobs", "uploads") => Ok(Route::Uploads(name(&parts)?)),
        ("blobs", _) => Ok(Route::Blob(name(&parts)?, tail)),
        ("uploads", _) if parts.last().is_some_and(|part| part == "blobs") => {
            let name = name(&parts[..parts.len() - 1])?;
            Ok(match tail.as_str() {
                "" => Route::Uploads(name),
                _ => Route::Upload(name, tail),
            })
        }
        _ => Err(NoRoute::Unknown),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> RepositoryName {
        text.parse().unwrap()
    }

    #[test]
    fn the_last_words_decide() {
        for (path, route) in [
            ("", Route::Base),
            ("/", Route::Base),
            ("/_catalog", Route::Catalog),
            ("/a/tags/list", Route::Tags(name("a"))),
            ("/a/b/tags/list", Route::Tags(name("a/b"))),
            ("/tags/list/tags/list", Route::Tags(name("tags/list"))),
            ("/a/manifests/v1", Route::Manifest(name("a"), "v1".into())),
            (
                "/a/manifests/sha256%3Aab",
                Route::Manifest(name("a"), "sha256:ab".into()),
            ),
            ("/a/blobs/uploads", Route::Uploads(name("a"))),
            ("/a/blobs/uploads/", Route::Uploads(name("a"))),
            ("/a/blobs/uploads/x1", Route::Upload(name("a"), "x1".into())),
            ("/a/blobs/x", Route::Blob(name("a"), "x".into())),
            (
                "/blobs/uploads/blobs/uploads/x",
                Route::Upload(name("blobs/uploads"), "x".into()),
            ),
            ("/a/referrers/d", Route::Referrers(name("a"), "d".into())),
        ] {
            assert_eq!(parse(path), Ok(route), "{path}");
        }
    }

    #[test]
    fn tricks_name_nothing() {
        for path in [
            "/a",
            "/tags/list",
            "x",
            "/a/uploads/b",
            "/a%2Fb/tags/list",
            "/%ff/tags/list",
            "/a/tags/other",
        ] {
            assert!(parse(path).is_err(), "{path}");
        }
        for path in [
            "/../tags/list",
            "/a/../b/tags/list",
            "/a//b/tags/list",
            "/%2e%2e/tags/list",
            "//manifests/x",
            "/A/manifests/x",
            "/_catalog/manifests/x",
            "/a/./manifests/x",
        ] {
            assert!(matches!(parse(path), Err(NoRoute::Name(_))), "{path}");
        }
    }
}
