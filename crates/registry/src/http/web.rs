//! Pages for people: repositories, tags, what an image is made of. Read only, made here, no
//! scripts.
//!
//! ```text
//! /                                      repositories
//! /repositories/<name>                   its tags
//! /repositories/<name>/_/<reference>     a manifest; no part of a name is `_`
//! /style.css
//! ```

use std::fmt::{self, Write};

use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap, REFERRER_POLICY,
};
use http::{Response, StatusCode};
use percent_encoding::percent_decode_str;
use sampan_oci::{Descriptor, Digest, Document};

use super::body::Body;
use super::reply::Reply;
use super::{Inner, Scheme};
use crate::access::{Access, Right};
use crate::error::{Error, Result};
use crate::index::{ManifestEntry, TagEntry};
use crate::name::{RepositoryName, Tag, Target};

/// Nothing but our own style sheet is loaded, and nobody may frame a page.
const POLICY: &str = "default-src 'none'; style-src 'self'; form-action 'self'; \
                      base-uri 'none'; frame-ancestors 'none'";
const PAGE: usize = 100;

const STYLE: &str = "\
:root { color-scheme: light dark; --line: #8884; --quiet: #777; --accent: #0b6e99; }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1rem 1.5rem 4rem; }
header { display: flex; gap: 1rem; align-items: baseline; border-bottom: 1px solid var(--line); }
header a { font-weight: 600; font-size: 1.2rem; text-decoration: none; padding: .5rem 0; }
a { color: var(--accent); }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.1rem; margin-top: 2rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .4rem .75rem .4rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td.size, th.size { text-align: right; white-space: nowrap; }
code { font: 13px/1.5 ui-monospace, monospace; overflow-wrap: anywhere; }
.quiet { color: var(--quiet); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1rem; }
dt { color: var(--quiet); } dd { margin: 0; overflow-wrap: anywhere; }
form { margin: 1rem 0; } input { font: inherit; padding: .3rem .5rem; }
";

/// A page in the making. What is not written in this file can only come in escaped.
struct Html(String);

impl Html {
    fn new() -> Self {
        Self(String::new())
    }

    /// Adds markup.
    fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Adds text, whoever it comes from.
    fn text(&mut self, text: impl fmt::Display) -> &mut Self {
        // Writing to a String cannot fail.
        let _ = write!(Escaped(&mut self.0), "{text}");
        self
    }

    /// Adds a link.
    fn link(&mut self, to: &str, text: impl fmt::Display) -> &mut Self {
        self.raw("<a href=\"")
            .text(to)
            .raw("\">")
            .text(text)
            .raw("</a>")
    }
}

struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for c in text.chars() {
            match c {
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '&' => self.0.push_str("&amp;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                // Also those that turn the direction of what follows.
                c if c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c) => {
                    self.0.push('\u{fffd}');
                }
                c => self.0.push(c),
            }
        }
        Ok(())
    }
}

/// A number of bytes as people read it.
struct Size(u64);

impl fmt::Display for Size {
    #[allow(clippy::cast_precision_loss)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
        let mut value = self.0 as f64;
        let mut unit = 0;
        while value >= 1000.0 && unit + 1 < UNITS.len() {
            value /= 1000.0;
            unit += 1;
        }
        match unit {
            0 => write!(f, "{} B", self.0),
            unit => write!(f, "{value:.1} {}", UNITS[unit]),
        }
    }
}

struct When(jiff::Timestamp);

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} UTC", self.0.strftime("%Y-%m-%d %H:%M"))
    }
}

/// What a path outside of the protocol shows.
enum View {
    Repositories,
    Tags(RepositoryName),
    Manifest(RepositoryName, Target),
    Style,
}

fn view(path: &str) -> Option<View> {
    match path {
        "/" => return Some(View::Repositories),
        "/style.css" => return Some(View::Style),
        _ => {}
    }
    let rest = percent_decode_str(path.strip_prefix("/repositories/")?)
        .decode_utf8()
        .ok()?;
    let Some((name, reference)) = rest.split_once("/_/") else {
        return Some(View::Tags(rest.parse().ok()?));
    };
    let target = match reference.contains(':') {
        true => Target::Digest(reference.parse().ok()?),
        false => Target::Tag(reference.parse().ok()?),
    };
    Some(View::Manifest(name.parse().ok()?, target))
}

impl Inner {
    /// Answers with a page; none if there is none at this path.
    pub(super) async fn web(
        &self,
        path: &str,
        query: &str,
        headers: &HeaderMap,
        access: &Access,
    ) -> Option<Response<Body>> {
        let view = view(path)?;
        let query = |name: &str| {
            form_urlencoded::parse(query.as_bytes())
                .find(|(key, _)| key == name)
                .map(|(_, value)| value.into_owned())
        };
        let name = match &view {
            View::Style => {
                return Some(
                    Reply::new(StatusCode::OK)
                        .header(CONTENT_TYPE, "text/css; charset=utf-8")
                        .header(CACHE_CONTROL, "max-age=3600")
                        .body(STYLE)
                        .build(),
                );
            }
            View::Repositories => None,
            View::Tags(name) | View::Manifest(name, _) => Some(name),
        };
        let closed = !matches!(self.authentication.scheme(), Scheme::Open);
        let nobody = closed && access.user().is_none();
        let hidden = name.is_some_and(|name| !access.may(name, Right::Pull));
        if nobody && (hidden || query("login").is_some()) {
            return Some(self.ask_for_password(headers));
        }
        if hidden {
            return Some(page(
                StatusCode::FORBIDDEN,
                access,
                nobody,
                "Not for you",
                &mut Html::new(),
            ));
        }
        let mut html = Html::new();
        let (title, made) = match &view {
            View::Repositories | View::Style => {
                let filter = query("q").unwrap_or_default();
                self.repositories_page(&mut html, access, &filter, query("last").as_deref());
                ("Repositories".to_owned(), Ok(()))
            }
            View::Tags(name) => {
                let made = self
                    .tags_page(&mut html, name, query("last").as_deref())
                    .await;
                (name.to_string(), made)
            }
            View::Manifest(name, target) => {
                let made = self.manifest_page(&mut html, name, target).await;
                let mark = match target {
                    Target::Tag(_) => ":",
                    Target::Digest(_) => "@",
                };
                (format!("{name}{mark}{target}"), made)
            }
        };
        let status = match &made {
            Ok(()) => StatusCode::OK,
            Err(Error::RepositoryUnknown(_) | Error::ManifestUnknown { .. }) => {
                StatusCode::NOT_FOUND
            }
            Err(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        if let Err(error) = made {
            html = Html::new();
            html.raw("<p>").text(error).raw("</p>");
        }
        Some(page(status, access, nobody, &title, &mut html))
    }

    fn repositories_page(
        &self,
        html: &mut Html,
        access: &Access,
        filter: &str,
        last: Option<&str>,
    ) {
        let may_see = |name: &RepositoryName| {
            name.as_str().contains(filter) && access.may_ever(name.as_str(), Right::Pull)
        };
        let mut names = self.registry.repositories(last, PAGE + 1, may_see);
        let more = names.len() > PAGE;
        names.truncate(PAGE);
        html.raw("<form action=\"/\"><input type=\"search\" name=\"q\" aria-label=\"Find repositories\" placeholder=\"Find repositories\" value=\"")
            .text(filter)
            .raw("\"></form>");
        if names.is_empty() {
            html.raw("<p class=\"quiet\">There are no repositories to show.</p>");
            return;
        }
        html.raw("<table><thead><tr><th>Repository<th>Last push<th class=\"size\">Tags</tr></thead><tbody>");
        for name in &names {
            let tags = self
                .registry
                .tags(name, None, usize::MAX)
                .unwrap_or_default();
            html.raw("<tr><td>")
                .link(&format!("/repositories/{name}"), name)
                .raw("<td>");
            if let Some(newest) = tags
                .iter()
                .map(|(_, entry)| entry)
                .max_by_key(|entry| entry.pushed)
            {
                pushed(html, newest.pushed, newest.by.as_deref());
            }
            html.raw("<td class=\"size\">")
                .text(tags.len())
                .raw("</tr>");
        }
        html.raw("</tbody></table>");
        if let Some(last) = names.last().filter(|_| more) {
            let mut query = form_urlencoded::Serializer::new(String::new());
            query
                .append_pair("last", last.as_str())
                .append_pair("q", filter);
            html.raw("<p>")
                .link(&format!("/?{}", query.finish()), "more")
                .raw("</p>");
        }
    }

    async fn tags_page(
        &self,
        html: &mut Html,
        name: &RepositoryName,
        last: Option<&str>,
    ) -> Result<()> {
        let mut tags = self.registry.tags(name, last, PAGE + 1)?;
        let more = tags.len() > PAGE;
        tags.truncate(PAGE);
        html.raw("<table><thead><tr><th>Tag<th>Pushed<th>Digest<th class=\"size\">Size</tr></thead><tbody>");
        for (tag, entry) in &tags {
            self.tag_row(html, name, tag, entry).await;
        }
        html.raw("</tbody></table>");
        if let Some((last, _)) = tags.last().filter(|_| more) {
            let to = format!("/repositories/{name}?last={last}");
            html.raw("<p>").link(&to, "more").raw("</p>");
        }
        Ok(())
    }

    async fn tag_row(&self, html: &mut Html, name: &RepositoryName, tag: &Tag, entry: &TagEntry) {
        html.raw("<tr><td>")
            .link(&format!("/repositories/{name}/_/{tag}"), tag)
            .raw("<td>");
        pushed(html, entry.pushed, entry.by.as_deref());
        html.raw("<td><code>")
            .text(entry.digest.short())
            .raw("</code><td class=\"size\">");
        // One that was deleted meanwhile has none.
        if let Ok((_, document)) = self.document(name, &Target::Digest(entry.digest)).await {
            match document {
                Document::Manifest(manifest) => {
                    html.text(Size(total(&manifest.config, &manifest.layers)));
                }
                Document::Index(index) => {
                    html.text(index.manifests.len()).raw(" manifests");
                }
            }
        }
        html.raw("</tr>");
    }

    async fn document(
        &self,
        name: &RepositoryName,
        target: &Target,
    ) -> Result<((Digest, ManifestEntry), Document)> {
        let found = self.registry.manifest(name, target)?;
        let bytes = self.registry.manifest_bytes(name, &found.digest).await?;
        let document = Document::parse(&bytes, &found.entry.media_type)?;
        Ok(((found.digest, found.entry), document))
    }

    async fn manifest_page(
        &self,
        html: &mut Html,
        name: &RepositoryName,
        target: &Target,
    ) -> Result<()> {
        let ((digest, entry), document) = self.document(name, target).await?;
        html.raw("<p>")
            .link(
                &format!("/repositories/{name}"),
                format!("All tags of {name}"),
            )
            .raw("</p><dl>");
        html.raw("<dt>Digest<dd><code>").text(digest).raw("</code>");
        html.raw("<dt>Type<dd>").text(entry.media_type.as_str());
        if let Some(kind) = &entry.artifact_type {
            html.raw("<dt>Content<dd>").text(kind);
        }
        html.raw("<dt>Pushed<dd>");
        pushed(html, entry.pushed, entry.by.as_deref());
        let annotations = match &document {
            Document::Manifest(manifest) => {
                let size = total(&manifest.config, &manifest.layers);
                html.raw("<dt>Size<dd>")
                    .text(Size(size))
                    .raw(" in ")
                    .text(manifest.layers.len())
                    .raw(" layers");
                &manifest.annotations
            }
            Document::Index(index) => &index.annotations,
        };
        for (key, value) in annotations {
            html.raw("<dt>").text(key).raw("<dd>").text(value);
        }
        html.raw("</dl>");
        match &document {
            Document::Manifest(manifest) => {
                html.raw("<h2>Layers</h2>");
                contents(html, &manifest.layers, |_| None);
            }
            Document::Index(index) => {
                html.raw("<h2>Manifests</h2>");
                contents(html, &index.manifests, |entry| {
                    Some(format!("/repositories/{name}/_/{}", entry.digest))
                });
            }
        }
        let referrers = self.registry.referrers(name, &digest).await?;
        if !referrers.is_empty() {
            html.raw("<h2>About this</h2><ul>");
            for referrer in referrers {
                let kind = referrer.entry.artifact_type.unwrap_or_default();
                let to = format!("/repositories/{name}/_/{}", referrer.digest);
                html.raw("<li>")
                    .text(kind)
                    .raw(" ")
                    .link(&to, referrer.digest.short());
            }
            html.raw("</ul>");
        }
        Ok(())
    }
}

fn contents(html: &mut Html, entries: &[Descriptor], link: impl Fn(&Descriptor) -> Option<String>) {
    html.raw("<table><thead><tr><th>Digest<th>Type<th class=\"size\">Size</tr></thead><tbody>");
    for entry in entries {
        html.raw("<tr><td><code>");
        match link(entry) {
            Some(to) => html.link(&to, entry.digest),
            None => html.text(entry.digest),
        };
        html.raw("</code><td>");
        match &entry.platform {
            Some(platform) => html.text(platform),
            None => html.text(entry.media_type.as_str()),
        };
        html.raw("<td class=\"size\">")
            .text(Size(entry.size))
            .raw("</tr>");
    }
    html.raw("</tbody></table>");
}

fn total(config: &Descriptor, layers: &[Descriptor]) -> u64 {
    let layers = layers.iter().map(|layer| layer.size);
    layers.fold(config.size, u64::saturating_add)
}

fn pushed(html: &mut Html, when: jiff::Timestamp, by: Option<&str>) {
    html.text(When(when));
    if let Some(by) = by {
        html.raw(" by ").text(by);
    }
}

fn page(
    status: StatusCode,
    access: &Access,
    may_login: bool,
    title: &str,
    content: &mut Html,
) -> Response<Body> {
    let mut html = Html::new();
    html.raw("<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>")
        .text(title)
        .raw("</title><link rel=\"stylesheet\" href=\"/style.css\"></head><body><header>")
        .link("/", "Registry")
        .raw("<span class=\"quiet\">");
    match access.user() {
        Some(user) => html.text(user),
        None if may_login => html.link("/?login", "log in"),
        None => &mut html,
    };
    html.raw("</span></header><main><h1>")
        .text(title)
        .raw("</h1>");
    html.0.push_str(&content.0);
    html.raw("</main></body></html>");
    Reply::new(status)
        .header(CONTENT_TYPE, "text/html; charset=utf-8")
        .header(CONTENT_SECURITY_POLICY, POLICY)
        .header(REFERRER_POLICY, "no-referrer")
        .header(CACHE_CONTROL, "no-store")
        .body(html.0)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_never_markup() {
        let mut html = Html::new();
        html.text("<script>alert('1')</script>&\"\u{202e}\u{0}")
            .link("\"><b>", "x");
        assert_eq!(
            html.0,
            "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt;&amp;&quot;\u{fffd}\u{fffd}\
             <a href=\"&quot;&gt;&lt;b&gt;\">x</a>"
        );
    }

    #[test]
    fn sizes_are_short() {
        for (size, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (52_428_800, "52.4 MB"),
        ] {
            assert_eq!(Size(size).to_string(), text);
        }
    }

    #[test]
    fn paths_name_pages() {
        assert!(matches!(view("/"), Some(View::Repositories)));
        assert!(matches!(view("/repositories/a/b"), Some(View::Tags(_))));
        assert!(matches!(
            view("/repositories/a/b/_/v1"),
            Some(View::Manifest(_, Target::Tag(_)))
        ));
        for path in [
            "/x",
            "/repositories/",
            "/repositories/../x",
            "/repositories/a/_/",
            "/repositories/a/_/sha256:x",
        ] {
            assert!(view(path).is_none(), "{path}");
        }
    }
}
