//! `GET /events`.

use std::sync::Arc;

use axum::extract::{Extension, State};
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use http::HeaderMap;
use jiff::Timestamp;
use sampan_api::ApiVersion;
use sampan_api::types::event as wire;
use sampan_engine::{Event, EventFilter, EventKind, Subscription};

use crate::app::App;
use crate::error::ApiError;
use crate::query::Query;
use crate::{reply, text};

/// Streams events until the client leaves, or until the time it names.
pub(crate) async fn events(
    State(app): State<App>,
    Extension(version): Extension<ApiVersion>,
    headers: HeaderMap,
    query: Query,
) -> Result<Response, ApiError> {
    let since = query.text("since").map(text::parse_time).transpose()?;
    let until = query.text("until").map(text::parse_time).transpose()?;
    if let (Some(since), Some(until)) = (since, until)
        && until < since
    {
        return Err(ApiError::invalid(format!(
            "`since` time ({since}) cannot be after `until` time ({until})"
        )));
    }
    let listener = Listener {
        filter: EventFilter::parse(&query.filter_lists()?)?,
        subscription: app.engine.events().subscribe(since),
        until,
        encoding: Encoding::accepted(&headers),
        version,
    };
    let content_type = listener.encoding.content_type();
    let lines = stream::unfold(listener, async |mut listener| {
        let line = listener.next().await?;
        Some((Ok(line), listener))
    });
    Ok(reply::stream(content_type, lines))
}

/// How events are put one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Json,
    NewlineDelimited,
    /// RFC 7464: a record separator before each.
    Sequence,
}

impl Encoding {
    fn accepted(headers: &HeaderMap) -> Self {
        let accepts = |kind: &str| {
            headers
                .get_all(http::header::ACCEPT)
                .iter()
                .any(|value| value.to_str().is_ok_and(|value| value.contains(kind)))
        };
        match () {
            () if accepts("application/json-seq") => Self::Sequence,
            () if accepts("application/x-ndjson") => Self::NewlineDelimited,
            () => Self::Json,
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::NewlineDelimited => "application/x-ndjson",
            Self::Sequence => "application/json-seq",
        }
    }
}

struct Listener {
    subscription: Subscription,
    filter: EventFilter,
    until: Option<Timestamp>,
    encoding: Encoding,
    version: ApiVersion,
}

impl Listener {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let event = self.next_in_time().await?;
            if self.filter.matches(&event) {
                return Some(self.encode(&event));
            }
        }
    }

    async fn next_in_time(&mut self) -> Option<Arc<Event>> {
        let Some(until) = self.until else {
            return self.subscription.next().await;
        };
        // What was told before the deadline counts, however late it is read.
        let left = until.duration_since(Timestamp::now());
        let event = match std::time::Duration::try_from(left) {
            Ok(left) => tokio::time::timeout(left, self.subscription.next())
                .await
                .ok()??,
            Err(_) => self.subscription.try_next()?,
        };
        (event.at <= until).then_some(event)
    }

    fn encode(&self, event: &Event) -> Bytes {
        let line = reply::line(&show(event, self.version));
        match self.encoding {
            Encoding::Json | Encoding::NewlineDelimited => line,
            Encoding::Sequence => [b"\x1e", line.as_ref()].concat().into(),
        }
    }
}

fn show(event: &Event, version: ApiVersion) -> wire::Event {
    let action = event.action.to_string();
    // The fields of the time when only containers and images had events.
    let old =
        matches!(event.kind, EventKind::Container | EventKind::Image) && !version.at_least(52);
    let attribute = |name: &str| event.attributes.get(name).cloned().unwrap_or_default();
    wire::Event {
        status: if old { action.clone() } else { String::new() },
        id: if old {
            event.actor.clone()
        } else {
            String::new()
        },
        from: if old && event.kind == EventKind::Container {
            attribute("image")
        } else {
            String::new()
        },
        kind: event.kind.as_str().to_owned(),
        action,
        actor: wire::Actor {
            id: event.actor.clone(),
            attributes: event.attributes.clone(),
        },
        scope: "local".to_owned(),
        time: event.at.as_second(),
        time_nano: i64::try_from(event.at.as_nanosecond()).unwrap_or(i64::MAX),
    }
}
