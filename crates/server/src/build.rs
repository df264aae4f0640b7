//! Builds, as Docker's classic builder answers them: a stream of JSON messages.

use std::collections::BTreeMap;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, StatusCode};
use sampan_api::types::auth::{AuthConfig, AuthFields};
use sampan_api::types::host_config as wire_limits;
use sampan_api::types::message::{ErrorDetail, Message};
use sampan_api::types::sampan::CacheMount;
use sampan_api::types::system as wire;
use sampan_engine::building::{
    self, CancellationToken, Event, InOrder, Limits, NamedContext, Network, NoCache, PrunePolicy,
    Settings, Ulimit,
};
use sampan_engine::{BuildRequest, CacheFilter, CacheSource, Logins, Sent};
use sampan_images::Credentials;
use sampan_oci::{Platform, Reference};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::mpsc;

use crate::app::App;
use crate::body::{BlockingBody, written};
use crate::error::ApiError;
use crate::query::Query;
use crate::reply::{self, Json};
use crate::unbuilt::refusal;

/// Messages that wait for a client that reads slowly; the build waits then, too.
const WAITING: usize = 256;
/// Parameters that change what is built and are not served.
const REFUSED: &[&str] = &["squash", "outputs", "isolation"];

pub(crate) fn routes() -> Router<App> {
    Router::new()
        .route("/build", post(build))
        .route("/build/prune", post(prune))
        .route("/sampan/build/mounts", get(mounts))
        .route("/sampan/build/mounts/export", get(export_mount))
        .route("/sampan/build/mounts/import", post(import_mount))
}

/// `GET /sampan/build/mounts`: this engine's own.
async fn mounts(State(app): State<App>) -> Result<Json<Vec<CacheMount>>, ApiError> {
    let mounts = app.engine.builds().cache_mounts().await?;
    let show = |mount: building::CacheMount| CacheMount {
        key: mount.key,
        id: mount.id,
        created: mount.created,
        last_used: mount.used,
        uses: mount.uses,
        size: mount.bytes,
        in_use: mount.in_use,
    };
    Ok(Json(mounts.into_iter().map(show).collect()))
}

fn mount_id(query: &Query) -> Result<String, ApiError> {
    let id = query.text("id").filter(|id| !id.is_empty());
    id.map(str::to_owned)
        .ok_or_else(|| ApiError::invalid("the parameter id is missing"))
}

/// `GET /sampan/build/mounts/export`: the files of the cache mount `id` as a tar.
async fn export_mount(State(app): State<App>, query: Query) -> Result<Response, ApiError> {
    let cancel = CancellationToken::new();
    let _given_up = cancel.clone().drop_guard();
    let builds = app.engine.builds();
    let write = builds.export_cache_mount(mount_id(&query)?, cancel).await?;
    let pieces = written(move |out| write(out));
    Ok(reply::stream("application/x-tar", pieces))
}

/// `POST /sampan/build/mounts/import`: makes the cache mount `id` of a tar.
async fn import_mount(
    State(app): State<App>,
    query: Query,
    body: Body,
) -> Result<StatusCode, ApiError> {
    let tar = BlockingBody::new(body);
    let builds = app.engine.builds();
    builds.import_cache_mount(mount_id(&query)?, tar).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn prune(
    State(app): State<App>,
    query: Query,
) -> Result<Json<wire::BuildPruneResponse>, ApiError> {
    let filters = query.filter_lists()?;
    let bytes = |name: &str| query.number::<u64>(name).map(Option::unwrap_or_default);
    let policy = PrunePolicy {
        all: query.flag("all"),
        unused_since: None,
        // Its name before 1.48.
        reserved: bytes("reserved-space")?.max(bytes("keep-storage")?),
        max_used: bytes("max-used-space")?,
        min_free: bytes("min-free-space")?,
    };
    let filter = CacheFilter::parse(&filters)?;
    let pruned = app.engine.builds().prune(policy, filter).await?;
    let deleted: Vec<String> = pruned.records.into_iter().map(|r| r.id).collect();
    Ok(Json(wire::BuildPruneResponse {
        caches_deleted: Some(deleted).filter(|deleted| !deleted.is_empty()),
        space_reclaimed: pruned.bytes,
    }))
}

/// Whether a parameter says anything: clients send many that do not.
fn given(query: &Query, name: &str) -> bool {
    query
        .all(name)
        .any(|value| !matches!(value, "" | "0" | "false" | "null" | "[]" | "{}" | "default"))
}

async fn build(
    State(app): State<App>,
    headers: HeaderMap,
    query: Query,
    body: Body,
) -> Result<Response, ApiError> {
    let request = request(&headers, &query)?;
    let quiet = query.flag("q");
    let names = request.settings.names.clone();
    let cancel = CancellationToken::new();
    let guard = cancel.clone().drop_guard();
    let (sender, mut news) = mpsc::channel(WAITING);
    let told = InOrder::new(move |event: Event| {
        // Nobody listens any more: the build is about to be cancelled.
        let _ = sender.blocking_send(event);
    });
    let sink = move |stage: usize, event: Event| told.tell(stage, event);
    let reader = Sent::Archive(Box::new(BlockingBody::new(body)));
    let builds = app.engine.builds();
    let task = tokio::spawn(async move { builds.build(reader, request, sink, cancel).await });
    let Some(first) = news.recv().await else {
        // It failed before anything happened: that has a status of its own.
        return match task.await {
            Ok(Ok(image)) => Ok(answer(done(&image.id.to_string(), &names, quiet))),
            Ok(Err(error)) => Err(error.into()),
            Err(_) => Err(ApiError::internal("the build broke off")),
        };
    };
    let events = stream::unfold((Some(first), news), async |(first, mut news)| match first {
        Some(event) => Some((event, (None, news))),
        None => Some((news.recv().await?, (None, news))),
    });
    let told = events.map(move |event| match quiet {
        true => Bytes::new(),
        false => lines(message(event)),
    });
    let end = stream::once(async move {
        match task.await {
            Ok(Ok(image)) => lines(done(&image.id.to_string(), &names, quiet)),
            Ok(Err(error)) => lines([Message {
                error: Some(ErrorDetail {
                    code: error.code().unwrap_or_default().into(),
                    message: error.message().to_owned(),
                }),
                error_message: error.message().to_owned(),
                ..Message::default()
            }]),
            Err(_) => lines([Message::error("the build broke off")]),
        }
    });
    let pieces = told.chain(end).map(move |piece| {
        // A client that leaves takes the stream with it, and the build.
        let _cancelled_by_drop = &guard;
        Ok(piece)
    });
    Ok(reply::stream("application/json", pieces))
}

fn answer(messages: Vec<Message>) -> Response {
    reply::stream("application/json", stream::iter([Ok(lines(messages))]))
}

fn lines(messages: impl IntoIterator<Item = Message>) -> Bytes {
    let mut bytes = Vec::new();
    for message in messages {
        let line = serde_json::to_vec(&message).expect("messages are always valid JSON");
        bytes.extend_from_slice(&line);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.into()
}

fn message(event: Event) -> Option<Message> {
    Some(Message::stream(match event {
        Event::Step {
            number,
            total,
            text,
            ..
        } => format!("Step {number}/{total} : {text}\n"),
        Event::Cached => " ---> Using cache\n".to_owned(),
        Event::Running
        | Event::Stages(_)
        | Event::Ended
        | Event::Failed { .. }
        | Event::Base(..) => return None,
        Event::Output(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
        Event::Done { state, .. } => format!(" ---> {state}\n"),
        Event::Warning(text) => format!("{text}\n"),
    }))
}

fn done(id: &str, names: &[Reference], quiet: bool) -> Vec<Message> {
    let aux = Message {
        aux: Some(json!({"ID": id})),
        ..Message::default()
    };
    if quiet {
        return vec![aux, Message::stream(format!("{id}\n"))];
    }
    let short = id.trim_start_matches("sha256:").get(..12).unwrap_or(id);
    let mut messages = vec![
        aux,
        Message::stream(format!("Successfully built {short}\n")),
    ];
    let tagged =
        |name: &Reference| Message::stream(format!("Successfully tagged {}\n", name.familiar()));
    messages.extend(names.iter().map(tagged));
    messages
}

fn request(headers: &HeaderMap, query: &Query) -> Result<BuildRequest, ApiError> {
    if query.text("version").is_some_and(|version| version != "1") {
        return Err(refusal("building through BuildKit"));
    }
    if let Some(name) = REFUSED.iter().find(|name| given(query, name)) {
        return Err(refusal(&format!("the parameter {name} of a build")));
    }
    let network = match query.text("networkmode") {
        None | Some("default" | "bridge") => Network::Default,
        Some("none") => Network::None,
        Some("host") => Network::Host,
        Some(other) => return Err(refusal(&format!("the network {other} of a build"))),
    };
    let names = query
        .all("t")
        .filter(|name| !name.is_empty())
        .map(|name| match name.parse::<Reference>() {
            Ok(name) if name.digest().is_none() => Ok(name.or_latest()),
            Ok(_) => Err(ApiError::invalid(
                "build tag cannot contain a digest".to_owned(),
            )),
            Err(error) => Err(ApiError::invalid(format!(
                "invalid argument {name:?} for \"-t, --tag\" flag: {error}"
            ))),
        })
        .collect::<Result<Vec<_>, _>>()?;
    let arguments: BTreeMap<String, Option<String>> = object(query, "buildargs")?;
    let named = contexts(query)?;
    let cache_from: Option<Vec<String>> = object(query, "cachefrom")?;
    let cache_from = cache_from.unwrap_or_default().into_iter().map(|name| {
        let read = name.parse::<Reference>().map(Reference::or_latest);
        let read = read.map(CacheSource::Registry);
        read.map_err(|error| ApiError::invalid(format!("invalid cachefrom {name:?}: {error}")))
    });
    let cache_from = cache_from.collect::<Result<_, _>>()?;
    let mut settings = Settings {
        dockerfile: query.text("dockerfile").unwrap_or_default().to_owned(),
        no_cache: match query.flag("nocache") {
            true => NoCache::Everything,
            false => NoCache::Nothing,
        },
        reproducible: query.flag("reproducible"),
        network,
        extra_hosts: query.all("extrahosts").map(str::to_owned).collect(),
        labels: object(query, "labels")?,
        names,
        limits: limits(query)?,
        contexts: named.images,
        entitlements: query
            .all("allow")
            .filter(|name| !name.is_empty())
            .map(|name| name.parse().map_err(ApiError::invalid))
            .collect::<Result<_, _>>()?,
        ..Settings::default()
    };
    // One without a value was not set where the client ran.
    settings.options.build_args = arguments
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect();
    settings.options.target = query.text("target").map(str::to_owned);
    if let Some(text) = query.text("platform") {
        let platform: Platform = text
            .parse()
            .map_err(|error| ApiError::invalid(format!("invalid platform {text:?}: {error}")))?;
        if platform.os != Platform::host().os {
            return Err(refusal(&format!("building for {text}")));
        }
        settings.options.target_platform = platform;
    }
    Ok(BuildRequest {
        settings,
        pull: query.flag("pull"),
        logins: logins(headers),
        remote: query.text("remote").map(str::to_owned),
        cache_from,
        remote_contexts: named.addresses,
        ..BuildRequest::default()
    })
}

fn limits(query: &Query) -> Result<Limits, ApiError> {
    let number = |name: &str| Ok::<_, ApiError>(query.number(name)?.unwrap_or_default());
    let text = |name: &str| query.text(name).unwrap_or_default().to_owned();
    let ulimits: Vec<wire_limits::Ulimit> = object(query, "ulimits")?;
    Ok(Limits {
        memory: number("memory")?,
        memory_swap: number("memswap")?,
        cpu_shares: number("cpushares")?,
        cpu_period: number("cpuperiod")?,
        cpu_quota: number("cpuquota")?,
        cpuset_cpus: text("cpusetcpus"),
        cpuset_mems: text("cpusetmems"),
        cgroup_parent: text("cgroupparent"),
        shm_size: number("shmsize")?,
        ulimits: ulimits
            .into_iter()
            .map(|limit| Ulimit {
                name: limit.name,
                soft: limit.soft,
                hard: limit.hard,
            })
            .collect(),
    })
}

/// Contexts with names: images by `docker-image://` and their references, and addresses of files.
fn contexts(query: &Query) -> Result<Named, ApiError> {
    let given: BTreeMap<String, String> = object(query, "buildcontexts")?;
    let mut named = Named::default();
    for (name, value) in given {
        if let Some(image) = value.strip_prefix("docker-image://") {
            let image = NamedContext::Image(image.to_owned());
            named.images.insert(name, image);
        } else if [
            "https://",
            "http://",
            "git://",
            "ssh://",
            "git@",
            "github.com/",
        ]
        .iter()
        .any(|start| value.starts_with(start))
        {
            named.addresses.insert(name, value);
        } else {
            return Err(refusal(&format!(
                "the build context {name}={value}, which is neither docker-image://NAME nor an address,"
            )));
        }
    }
    Ok(named)
}

#[derive(Default)]
struct Named {
    images: BTreeMap<String, NamedContext>,
    addresses: BTreeMap<String, String>,
}

/// A parameter that is a JSON object.
fn object<T: DeserializeOwned + Default>(query: &Query, name: &str) -> Result<T, ApiError> {
    let Some(text) = query.text(name) else {
        return Ok(T::default());
    };
    serde_json::from_str::<Option<T>>(text)
        .map(Option::unwrap_or_default)
        .map_err(|error| ApiError::invalid(format!("invalid parameter {name}: {error}")))
}

/// Who asks, by registry; what cannot be read is nobody.
fn logins(headers: &HeaderMap) -> Logins {
    let all = headers
        .get("x-registry-config")
        .and_then(|value| AuthConfig::all_from_header(value.to_str().ok()?))
        .unwrap_or_default();
    let credentials = |fields: AuthFields| Credentials {
        username: fields.username,
        password: fields.password,
        identity_token: fields.identity_token,
        registry_token: fields.registry_token,
    };
    let all: BTreeMap<String, Credentials> = all
        .into_iter()
        .map(|(registry, fields)| {
            let registry = registry
                .trim_start_matches("https://")
                .trim_start_matches("http://");
            let registry = match registry.trim_end_matches('/') {
                "index.docker.io/v1" | "index.docker.io" => "docker.io",
                other => other,
            };
            (registry.to_owned(), credentials(fields))
        })
        .collect();
    Logins::new(move |registry| all.get(registry).cloned().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(query: &str) -> Result<BuildRequest, ApiError> {
        request(&HeaderMap::new(), &Query::parse(query).unwrap())
    }

    #[test]
    fn what_the_docker_cli_sends_is_taken() {
        let query = "buildargs=%7B%22A%22%3A%221%22%2C%22B%22%3Anull%7D&cachefrom=%5B%5D&cgroupparent=&cpuperiod=0\
            &cpuquota=0&cpusetcpus=&cpusetmems=&cpushares=0&dockerfile=Dockerfile&labels=%7B%22l%22%3A%22v%22%7D\
            &memory=0&memswap=0&networkmode=default&rm=1&shmsize=0&t=a&t=b%3A2&target=&ulimits=null&version=1";
        let request = read(query).unwrap();
        assert_eq!(request.settings.limits, Limits::default());
        let names = &request.settings.names;
        let names: Vec<String> = names.iter().map(Reference::familiar).collect();
        assert_eq!(names, ["a:latest", "b:2"]);
        let arguments = &request.settings.options.build_args;
        assert_eq!(arguments.iter().collect::<Vec<_>>().len(), 1);
        assert_eq!(request.settings.labels["l"], "v");
        assert_eq!(request.settings.options.target, None);
    }

    #[test]
    fn limits_are_taken() {
        let query = "memory=1&memswap=-1&cpushares=2&cpuperiod=3&cpuquota=4&cpusetcpus=0-1&cpusetmems=0\
            &cgroupparent=a&shmsize=5&ulimits=%5B%7B%22Name%22%3A%22nofile%22%2C%22Soft%22%3A6%2C%22Hard%22%3A7%7D%5D\
            &allow=security.insecure";
        let settings = read(query).unwrap().settings;
        let expected = Limits {
            memory: 1,
            memory_swap: -1,
            cpu_shares: 2,
            cpu_period: 3,
            cpu_quota: 4,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            cgroup_parent: "a".into(),
            shm_size: 5,
            ulimits: vec![Ulimit {
                name: "nofile".into(),
                soft: 6,
                hard: 7,
            }],
        };
        assert_eq!(settings.limits, expected);
        assert_eq!(settings.entitlements.len(), 1);
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        for (query, name) in [
            ("buildcontexts=%7B%22a%22%3A%22/x%22%7D", "context a"),
            ("allow=all", "entitlement all"),
            ("squash=1", "squash"),
            ("version=2", "BuildKit"),
            ("networkmode=other", "network other"),
            ("platform=windows%2Famd64", "windows"),
        ] {
            let error = read(query).unwrap_err();
            assert!(error.message().contains(name), "{query}");
        }
    }
}
