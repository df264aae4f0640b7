//! HTTP: from the socket to the registry and back. Status codes and headers stop here.

mod blob;
mod body;
mod connection;
mod list;
mod login;
mod manifest;
mod reply;
mod request;
mod route;
mod upload;
mod web;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::{
    CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER, USER_AGENT,
    X_CONTENT_TYPE_OPTIONS,
};
use http::{Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::access::{Access, Right};
use crate::audit::{AuditLog, Entry};
use crate::auth::{Authentication, Scheme};
use crate::cache::{Caches, Upstream};
use crate::error::{Error, Invalid, Result};
use crate::index::Totals;
use crate::metrics::{Event, Metrics};
use crate::name::RepositoryName;
use crate::rate::Rate;
use crate::registry::{Collected, Registry, parse_digest};
use crate::tls::Certificate;
use body::{Body, Pace};
use connection::{Answer, Bounds, Handover};
use reply::{Reply, failure, refuse};
use request::{Ask, Method};
use route::{NoRoute, Route};

const API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");

/// How long accepting rests when descriptors or memory are short.
const ACCEPT_REST: Duration = Duration::from_millis(50);
/// How long after a deletion its space is looked for: others often follow.
const COLLECT_DELAY: Duration = Duration::from_secs(1);

/// Bounds on what clients can make the server hold.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; a further one waits.
    pub connections: usize,
    /// For a whole head to come, also on a connection that is kept alive.
    pub head_timeout: Duration,
    /// Bytes of a head.
    pub head_bytes: usize,
    /// For the next bytes of a body, either way.
    pub stall: Duration,
    /// Bytes a second that a request's body must bring on average.
    pub slowest: u64,
    /// For open requests to end when the server stops.
    pub drain: Duration,
    /// How often what nobody needs is collected.
    pub collect_every: Duration,
    /// Requests a second of one address, and how many more at once.
    pub requests: Option<(f64, f64)>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 4096,
            head_timeout: Duration::from_secs(60),
            head_bytes: 128 << 10,
            stall: Duration::from_secs(60),
            slowest: 1024,
            drain: Duration::from_secs(10),
            collect_every: Duration::from_secs(60),
            requests: None,
        }
    }
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
}

/// What a service is made of, beside the registry.
#[derive(Debug, Default)]
pub struct Parts {
    /// Bounds on clients.
    pub limits: Limits,
    /// Who may do what; everybody everything if left out.
    pub authentication: Option<Authentication>,
    /// Who did what.
    pub audit: Option<AuditLog>,
    /// How clients reach the registry, if not as they ask.
    pub public_url: Option<String>,
    /// Encryption.
    pub certificate: Option<Certificate>,
    /// Registries that this one has copies of.
    pub upstreams: Vec<Upstream>,
}

/// Answers requests; clones share it.
#[derive(Clone)]
pub struct Service(Arc<Inner>);

pub(crate) struct Inner {
    pub(crate) registry: Registry,
    pub(crate) authentication: Authentication,
    pub(crate) limits: Limits,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) caches: Caches,
    audit: Option<AuditLog>,
    public_url: Option<String>,
    certificate: Option<Certificate>,
    rate: Option<Rate<IpAddr>>,
    deleted: Notify,
}

impl Service {
    /// Makes a service of a registry.
    pub fn new(registry: Registry, parts: Parts) -> Self {
        let rate = parts.limits.requests;
        let metrics = Arc::new(Metrics::default());
        Self(Arc::new(Inner {
            registry,
            authentication: parts
                .authentication
                .unwrap_or_else(|| Authentication::new(Scheme::Open, None)),
            rate: rate.map(|(per_second, burst)| Rate::new(per_second, burst)),
            limits: parts.limits,
            caches: Caches::new(parts.upstreams, Arc::clone(&metrics)),
            metrics,
            audit: parts.audit,
            public_url: parts.public_url,
            certificate: parts.certificate,
            deleted: Notify::new(),
        }))
    }

    /// Counts what the registry holds.
    pub fn totals(&self) -> Totals {
        self.0.registry.totals()
    }

    /// Reads users and certificate again, and opens the audit log anew. What cannot be read stays
    /// as it is; answers why.
    pub fn reload(&self) -> Vec<String> {
        let inner = &self.0;
        let mut failures = Vec::new();
        if let Err(error) = inner.authentication.reload() {
            failures.push(error.to_string());
        }
        if let Some(Err(error)) = inner.certificate.as_ref().map(Certificate::reload) {
            failures.push(error.to_string());
        }
        if let Some(Err(error)) = inner.audit.as_ref().map(AuditLog::reopen) {
            failures.push(format!("cannot open the audit log: {error}"));
        }
        failures
    }
}

impl Inner {
    /// Has what was deleted looked for.
    pub(crate) fn collect_soon(&self) {
        self.deleted.notify_one();
    }

    /// Collects from time to time and after deletions.
    async fn collect(&self) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.limits.collect_every) => {}
                () = self.deleted.notified() => tokio::time::sleep(COLLECT_DELAY).await,
            }
            self.caches.forget(&self.registry).await;
            match self.registry.collect().await {
                Ok(collected) if collected == Collected::default() => {}
                Ok(collected) => {
                    self.metrics.note(Event::Collected(collected));
                    tracing::info!(?collected, "collected what nobody needs");
                }
                Err(error) => tracing::error!(%error, "collecting failed"),
            }
        }
    }
}

/// Answers on `listener` until `stop` is cancelled, then lets open requests end, at most
/// [`Limits::drain`] long, and waits for changes on their way.
pub async fn serve(
    listener: std::net::TcpListener,
    service: Service,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let inner = Arc::clone(&service.0);
    let connections = TaskTracker::new();
    let places = Arc::new(Semaphore::new(inner.limits.connections));
    tokio::select! {
        () = accept(&listener, &service, &places, &connections, &stop) => {}
        () = inner.collect() => {}
        () = stop.cancelled() => {}
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(inner.limits.drain, connections.wait())
        .await
        .is_err()
    {
        tracing::info!(left = connections.len(), "connections were cut");
    }
    inner.registry.close().await;
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    service: &Service,
    places: &Arc<Semaphore>,
    connections: &TaskTracker,
    stop: &CancellationToken,
) {
    let limits = &service.0.limits;
    let bounds = Bounds {
        head_timeout: limits.head_timeout,
        head_bytes: limits.head_bytes,
        stall: limits.stall,
    };
    loop {
        let Ok(place) = Arc::clone(places).acquire_owned().await else {
            return;
        };
        let (socket, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::debug!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_REST).await;
                continue;
            }
        };
        // It only costs some time if it cannot be set.
        let _ = socket.set_nodelay(true);
        let (service, stop) = (service.clone(), stop.clone());
        let connected = service.0.metrics.connection();
        let acceptor = service.0.certificate.as_ref().map(Certificate::acceptor);
        let peer = Peer { address };
        connections.spawn(async move {
            match acceptor {
                None => connection::drive(socket, peer, service, bounds, stop).await,
                Some(acceptor) => {
                    connection::drive_encrypted(socket, acceptor, peer, service, bounds, stop)
                        .await;
                }
            }
            drop((place, connected));
        });
    }
}

impl Answer for Service {
    fn sent(&self, bytes: u64) {
        self.0.metrics.note(Event::Sent(bytes));
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Peer,
        handover: Option<Arc<Handover>>,
    ) -> Response<Body> {
        let response = self.0.clone().route(request, peer, handover).await;
        finish(response)
    }
}

/// Serves `/metrics`, and nothing else, without encryption and without asking who it is.
pub async fn serve_metrics(
    listener: std::net::TcpListener,
    service: Service,
    stop: CancellationToken,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = TcpListener::from_std(listener)?;
    let tasks = TaskTracker::new();
    loop {
        let socket = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => socket,
                Err(_) => {
                    tokio::time::sleep(ACCEPT_REST).await;
                    continue;
                }
            },
        };
        let (service, stop) = (service.clone(), stop.clone());
        tasks.spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let inner = Arc::clone(&service.0);
                async move {
                    let response = match request.uri().path() {
                        "/metrics" => inner.metrics_page(),
                        _ => no_page(),
                    };
                    Ok::<_, std::convert::Infallible>(response)
                }
            });
            let http = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(socket), answer);
            tokio::select! {
                _ = http => {}
                () = stop.cancelled() => {}
            }
        });
    }
}

/// Adds the headers of every answer.
pub(crate) fn finish(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Answers that the endpoint has no such method.
pub(crate) fn not_allowed() -> Response<Body> {
    refuse(
        StatusCode::METHOD_NOT_ALLOWED,
        "UNSUPPORTED",
        "the operation is unsupported",
        "",
    )
    .build()
}

fn no_page() -> Response<Body> {
    refuse(
        StatusCode::NOT_FOUND,
        "NOT_FOUND",
        "there is no such page",
        "",
    )
    .build()
}

impl Inner {
    async fn route(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Peer,
        handover: Option<Arc<Handover>>,
    ) -> Response<Body> {
        let start = Instant::now();
        let path = request.uri().path();
        let protocol = path
            .strip_prefix("/v2")
            .filter(|rest| rest.is_empty() || rest.starts_with('/'));
        let Some(rest) = protocol else {
            return self.page(request, &peer).await;
        };
        let route = match route::parse(rest) {
            Ok(route) => route,
            Err(NoRoute::Unknown) => {
                let message = "there is no such endpoint";
                return refuse(StatusCode::NOT_FOUND, "NOT_FOUND", message, "").build();
            }
            Err(NoRoute::Name(name)) => {
                let name = name.chars().take(300).collect();
                return failure(&Error::Invalid(Invalid::Name(name))).build();
            }
        };
        let Some(method) = Method::of(request.method()) else {
            return not_allowed();
        };
        let mut note = Note {
            service: &self,
            route: &route,
            method,
            start,
            client: peer.address.ip(),
            user: None,
            agent: agent(request.headers()),
        };
        let access = match self.enter(request.headers(), &peer).await {
            Ok(access) => access,
            Err(refused) => return note.taken(*refused).await,
        };
        note.user = access.user().map(str::to_owned);
        let headers = request.headers();
        if let Some(refused) = self.refused(&access, &route, method, headers) {
            return note.taken(refused).await;
        }
        let (parts, body) = request.into_parts();
        let keeps_alive = parts.version == Version::HTTP_11
            && !parts.headers.contains_key(http::header::CONNECTION);
        let ask = Ask {
            method,
            query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            access,
            has_body: !body.is_end_stream(),
            handover: handover.filter(|_| keeps_alive),
            start,
            service: Arc::clone(&self),
        };
        let response = match ask.dispatch(&route, body).await {
            Ok(response) => response,
            Err(error) => failure(&error).build(),
        };
        note.taken(response).await
    }

    /// Tells who a client is, or answers why it is not let in.
    async fn enter(
        &self,
        headers: &HeaderMap,
        peer: &Peer,
    ) -> std::result::Result<Access, Box<Response<Body>>> {
        // Before anything is looked at that costs something.
        if let Some(refused) = self.asks_too_often(peer.address.ip()) {
            return Err(Box::new(refused));
        }
        let access = self.authentication.access(headers).await;
        access.map_err(|denied| Box::new(self.challenge(headers, Some(denied), None)))
    }

    fn asks_too_often(&self, client: IpAddr) -> Option<Response<Body>> {
        let wait = self.rate.as_ref()?.ask(client, Instant::now()).err()?;
        self.metrics.note(Event::Limited);
        let message = "too many requests: wait a little";
        let reply = refuse(
            StatusCode::TOO_MANY_REQUESTS,
            "TOOMANYREQUESTS",
            message,
            "",
        );
        let seconds = wait.as_secs().max(1).to_string();
        Some(reply.header(RETRY_AFTER, seconds).build())
    }

    /// What is outside of the protocol.
    async fn page(self: Arc<Self>, request: Request<Incoming>, peer: &Peer) -> Response<Body> {
        let path = request.uri().path();
        if matches!(path, "/healthz" | "/healthz/live" | "/healthz/ready") {
            return Reply::new(StatusCode::OK).body("ok\n").build();
        }
        let access = match self.enter(request.headers(), peer).await {
            Ok(access) => access,
            Err(refused) => return *refused,
        };
        match path {
            login::PATH => self.token(request).await,
            "/metrics" => {
                let closed = !matches!(self.authentication.scheme(), Scheme::Open);
                if closed && access.user().is_none() {
                    return self.challenge(request.headers(), None, None);
                }
                self.metrics_page()
            }
            _ if matches!(*request.method(), http::Method::GET | http::Method::HEAD) => {
                let query = request.uri().query().unwrap_or_default();
                let page = self.web(path, query, request.headers(), &access).await;
                page.unwrap_or_else(no_page)
            }
            _ => no_page(),
        }
    }

    fn metrics_page(&self) -> Response<Body> {
        let text = self
            .metrics
            .text(&self.registry.totals(), self.registry.uploads());
        Reply::new(StatusCode::OK)
            .header(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")
            .body(text)
            .build()
    }
}

fn agent(headers: &HeaderMap) -> Option<String> {
    let agent = headers.get(USER_AGENT)?.to_str().ok()?;
    Some(agent.chars().take(200).collect())
}

/// What is noted of a request when it is answered.
struct Note<'a> {
    service: &'a Inner,
    route: &'a Route,
    method: Method,
    start: Instant,
    client: IpAddr,
    user: Option<String>,
    agent: Option<String>,
}

impl Note<'_> {
    /// Counts an answer, and writes it down if somebody may want to know later.
    async fn taken(self, response: Response<Body>) -> Response<Body> {
        let status = response.status();
        let (route, method) = (self.route.label(), self.method.as_str());
        let metrics = &self.service.metrics;
        metrics.request(route, method, status.as_u16(), self.start.elapsed());
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            metrics.note(Event::Denied);
        }
        tracing::debug!(route, method, status = status.as_u16(), client = %self.client, "answered");
        let Some(audit) = &self.service.audit else {
            return response;
        };
        let Some(action) = action(self.route, self.method, status) else {
            return response;
        };
        let (repository, reference) = match self.route {
            Route::Base | Route::Catalog => (None, None),
            Route::Tags(name) | Route::Uploads(name) => (Some(name), None),
            Route::Manifest(name, reference)
            | Route::Blob(name, reference)
            | Route::Referrers(name, reference) => (Some(name), Some(reference.clone())),
            Route::Upload(name, _) => (Some(name), None),
        };
        let digest = response.headers().get(reply::CONTENT_DIGEST);
        let entry = Entry {
            time: jiff::Timestamp::now(),
            action,
            status: status.as_u16(),
            client: self.client,
            user: self.user,
            repository: repository.map(ToString::to_string),
            reference,
            digest: digest
                .and_then(|value| value.to_str().ok())
                .map(str::to_owned),
            agent: self.agent,
        };
        audit.write(&entry).await;
        response
    }
}

/// What the audit log calls a request; none for what it does not hold.
fn action(route: &Route, method: Method, status: StatusCode) -> Option<&'static str> {
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
        return Some("denied");
    }
    if !status.is_success() {
        return None;
    }
    match (route, method) {
        (Route::Manifest(..), Method::Get) => Some("pull"),
        (Route::Manifest(..), Method::Put) => Some("push"),
        (Route::Manifest(..) | Route::Blob(..), Method::Delete) => Some("delete"),
        (Route::Uploads(_), Method::Post) | (Route::Upload(..), Method::Put)
            if status == StatusCode::CREATED =>
        {
            Some("upload")
        }
        _ => None,
    }
}

/// The right that a request needs in its repository.
fn needed(route: &Route, method: Method) -> Option<(&RepositoryName, Right)> {
    match route {
        Route::Base | Route::Catalog => None,
        Route::Tags(name) | Route::Referrers(name, _) => Some((name, Right::Pull)),
        Route::Manifest(name, _) | Route::Blob(name, _) => Some((
            name,
            match method {
                Method::Get | Method::Head => Right::Pull,
                Method::Delete => Right::Delete,
                Method::Post | Method::Put | Method::Patch => Right::Push,
            },
        )),
        Route::Uploads(name) | Route::Upload(name, _) => Some((name, Right::Push)),
    }
}

impl Ask {
    async fn dispatch(&self, route: &Route, body: Incoming) -> Result<Response<Body>> {
        let limits = &self.service.limits;
        let pace = Pace {
            stall: limits.stall,
            slowest: limits.slowest,
        };
        let metrics = Arc::clone(&self.service.metrics);
        let body = move || body::counted(body::pieces(body, pace), metrics);
        let method = self.method;
        if let Some((name, Right::Push | Right::Delete)) = needed(route, method)
            && self.service.caches.has(name)
        {
            return Err(Error::ReadOnly(name.clone()));
        }
        match route {
            Route::Base if method.is_safe() => {
                Ok(Reply::json(StatusCode::OK, &serde_json::json!({})).build())
            }
            Route::Catalog if method.is_safe() => list::catalog(self),
            Route::Tags(name) if method.is_safe() => list::tags(self, name),
            Route::Referrers(name, digest) if method.is_safe() => {
                list::referrers(self, name, digest).await
            }
            Route::Manifest(name, reference) => match method {
                Method::Get | Method::Head => manifest::get(self, name, reference).await,
                Method::Put => manifest::put(self, name, reference, body()).await,
                Method::Delete => manifest::delete(self, name, reference).await,
                Method::Post | Method::Patch => Ok(not_allowed()),
            },
            Route::Blob(name, digest) => {
                let digest = parse_digest(digest)?;
                match method {
                    Method::Get | Method::Head => blob::get(self, name, digest).await,
                    Method::Delete => blob::delete(self, name, digest).await,
                    Method::Post | Method::Put | Method::Patch => Ok(not_allowed()),
                }
            }
            Route::Uploads(name) if method == Method::Post => {
                upload::start(self, name, body()).await
            }
            Route::Upload(name, id) => upload::go_on(self, name, id, body()).await,
            Route::Base
            | Route::Catalog
            | Route::Tags(_)
            | Route::Referrers(..)
            | Route::Uploads(_) => Ok(not_allowed()),
        }
    }
}
