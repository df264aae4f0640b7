//! Requests to one registry: scheme, redirects, authentication, retries.

use std::collections::HashMap;
use std::error::Error as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER};
use http::{Method, StatusCode};
use reqwest::{NoProxy, Proxy, Response, Url};

use sampan_text::root_cause;

use crate::address::{api_host, host_of, refuse, same_origin};
use crate::challenge::{Challenge, challenge};
use crate::error::Cause;
use crate::payload::Payload;
use crate::settings::{Host, Security, Settings};
use crate::token::Tokens;
use crate::{Config, Credentials, Error, Result};

const MAX_REDIRECTS: usize = 5;
/// The longest wait that a registry may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How long a registry that may not speak TLS is waited for to do so.
const LAX_CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many times the usual patience a registry may take to answer when bytes were sent: it may
/// verify them all first.
const SENT_PATIENCE: u32 = 10;
/// How long a mirror that could not be reached is not asked.
const MIRROR_REST: Duration = Duration::from_secs(60);
/// The longest error text that is read.
const MAX_ERROR: u64 = 64 << 10;

/// A client of registries; clones share connections and tokens.
#[derive(Clone, Debug)]
pub struct Client(pub(crate) Arc<Inner>);

/// A set of connections, or why there can be none.
type Built = std::result::Result<reqwest::Client, String>;

/// Two sets of connections: an answer is waited for so long, or, while bytes go out, as long as
/// they do.
#[derive(Debug, Default)]
struct Transports {
    asking: OnceLock<Built>,
    sending: OnceLock<Built>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) config: Config,
    /// Verifies certificates. Built when it is first needed: it reads the system's roots.
    strict: Transports,
    /// Does not: for loopback and registries that the user calls insecure.
    lax: Transports,
    /// The settings that the state below belongs to.
    settings: RwLock<Arc<Settings>>,
    /// Connections to hosts with certificates of their own.
    own: Mutex<HashMap<String, Transports>>,
    /// Mirrors that could not be reached, and until when they are left alone.
    resting: Mutex<HashMap<String, Instant>>,
    /// What insecure registries turned out to speak.
    schemes: Mutex<HashMap<String, &'static str>>,
    pub(crate) tokens: Tokens,
}

/// What a request needs the right to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Access {
    /// To fetch from the repository.
    #[default]
    Pull,
    /// To fetch from the repository and to send to it.
    Push,
    /// The same, and to fetch from another repository of the registry.
    Mount(String),
    /// To list the registry's repositories.
    Catalog,
    /// To nothing: only who asks is of interest.
    Nothing,
}

/// Where and as whom something is fetched or sent.
#[derive(Clone, Debug)]
pub struct Source {
    /// The registry, as in `docker.io` or `localhost:5000`.
    pub registry: String,
    /// The repository, as in `library/busybox`.
    pub repository: String,
    /// Who asks.
    pub credentials: Credentials,
    /// The image in messages, as in `busybox:latest`.
    pub title: String,
    /// The repository in messages, as in `busybox`.
    pub name: String,
    /// What the requests need the right to.
    pub access: Access,
    /// Whether it only has copies: then it is not asked again and again.
    pub is_mirror: bool,
}

impl Source {
    /// Returns where the image of this name is.
    pub fn new(image: &sampan_oci::Reference, credentials: Credentials) -> Self {
        Self {
            registry: image.registry().to_owned(),
            repository: image.repository().to_owned(),
            credentials,
            title: image.familiar(),
            name: image.familiar_name(),
            access: Access::Pull,
            is_mirror: false,
        }
    }

    /// Returns the same place with other rights.
    #[must_use]
    pub fn with_access(&self, access: Access) -> Self {
        Self {
            access,
            ..self.clone()
        }
    }

    /// What a token service is asked for.
    pub(crate) fn scopes(&self) -> Vec<String> {
        let repository = &self.repository;
        match &self.access {
            Access::Pull => vec![format!("repository:{repository}:pull")],
            Access::Push => vec![format!("repository:{repository}:pull,push")],
            Access::Mount(from) => vec![
                format!("repository:{repository}:pull,push"),
                format!("repository:{from}:pull"),
            ],
            Access::Catalog => vec!["registry:catalog:*".to_owned()],
            Access::Nothing => Vec::new(),
        }
    }

    fn pushes(&self) -> bool {
        matches!(self.access, Access::Push | Access::Mount(_))
    }
}

/// What is asked for.
pub(crate) struct Ask<'a> {
    pub(crate) source: &'a Source,
    pub(crate) method: Method,
    pub(crate) place: Place,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Payload,
}

/// Where it is asked for.
pub(crate) enum Place {
    /// Below `/v2/<repository>/`.
    Repository(String),
    /// Below `/`.
    Registry(String),
    /// Where the registry said; what authenticates goes there only when it is the registry.
    Address { url: Url, is_registry: bool },
}

impl<'a> Ask<'a> {
    /// A request below the repository, without headers and body.
    pub(crate) fn new(source: &'a Source, method: Method, path: impl Into<String>) -> Self {
        Self {
            source,
            method,
            place: Place::Repository(path.into()),
            headers: HeaderMap::new(),
            payload: Payload::None,
        }
    }
}

impl Client {
    /// Makes a client. Connects to nothing yet.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Inner {
            settings: RwLock::new(config.settings.current()),
            config,
            strict: Transports::default(),
            lax: Transports::default(),
            own: Mutex::default(),
            resting: Mutex::default(),
            schemes: Mutex::default(),
            tokens: Tokens::default(),
        }))
    }

    /// Returns the settings as they are now.
    pub fn settings(&self) -> Arc<Settings> {
        let now = self.0.config.settings.current();
        let known = self.known_settings();
        if !Arc::ptr_eq(&now, &known) {
            let mut settings = self
                .0
                .settings
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *settings = now.clone();
            lock(&self.0.own).clear();
            lock(&self.0.resting).clear();
            self.schemes().clear();
        }
        now
    }

    pub(crate) fn known_settings(&self) -> Arc<Settings> {
        let settings = self
            .0
            .settings
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        settings.clone()
    }

    /// Returns where an image may be fetched from, in the order to try: mirrors first, its origin
    /// last. `credentials` are for the registry that its name says and go nowhere else.
    pub fn sources(&self, image: &sampan_oci::Reference, credentials: &Credentials) -> Vec<Source> {
        let settings = self.settings();
        let now = Instant::now();
        let rests = |registry: &str| {
            let resting = lock(&self.0.resting);
            resting.get(registry).is_some_and(|until| *until > now)
        };
        settings
            .endpoints_for(image)
            .into_iter()
            .filter(|endpoint| !(endpoint.is_mirror && rests(&endpoint.registry)))
            .map(|endpoint| {
                let own = || settings.host(&endpoint.registry).map(|h| &h.credentials);
                let credentials = match endpoint.is_named && !credentials.is_anonymous() {
                    true => credentials.clone(),
                    false => own().cloned().unwrap_or_default(),
                };
                Source {
                    registry: endpoint.registry,
                    repository: endpoint.repository,
                    is_mirror: endpoint.is_mirror,
                    ..Source::new(image, credentials)
                }
            })
            .collect()
    }

    /// Returns where an image is sent to: its origin, whatever mirrors there are.
    pub fn origin(&self, image: &sampan_oci::Reference, credentials: &Credentials) -> Source {
        let mut sources = self.sources(image, credentials);
        match sources.pop() {
            Some(source) if !source.is_mirror => source,
            _ => Source::new(image, credentials.clone()),
        }
    }

    /// Leaves a mirror alone for a while that nobody answers at.
    pub(crate) fn note_failure(&self, source: &Source, error: &Error) {
        let silent = matches!(
            error,
            Error::Transport {
                connected: false,
                ..
            } | Error::Stalled { .. }
        );
        if source.is_mirror && silent {
            lock(&self.0.resting).insert(source.registry.clone(), Instant::now() + MIRROR_REST);
        }
    }

    /// Tries until it works, fails for good or was tried often enough.
    pub(crate) async fn retry<T>(
        &self,
        mut once: impl AsyncFnMut() -> std::result::Result<T, Failure>,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            let failure = match once().await {
                Ok(done) => return Ok(done),
                Err(failure) => failure,
            };
            if !failure.may_pass(attempt, &self.0.config) {
                return Err(failure.error);
            }
            tracing::debug!(error = %failure.error, attempt, "asking the registry again");
            tokio::time::sleep(failure.wait.unwrap_or_else(|| self.backoff(attempt))).await;
            attempt += 1;
        }
    }

    pub(crate) fn backoff(&self, attempt: u32) -> Duration {
        self.0.config.backoff * 2u32.saturating_pow(attempt.saturating_sub(1).min(8))
    }

    /// Sends a request and authenticates it if the registry asks for that. The answer may be an
    /// error of the registry's.
    pub(crate) async fn ask(&self, ask: &Ask<'_>) -> Result<Response> {
        let source = ask.source;
        if let Place::Address {
            is_registry: false, ..
        } = ask.place
        {
            return Ok(self.send(ask, None).await?.1);
        }
        let known = self.0.tokens.get(source);
        let (url, response) = self.send(ask, known.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED || !same_origin(&url, response.url()) {
            return Ok(response);
        }
        let Some(challenge) = challenge(response.headers()) else {
            return Ok(response);
        };
        if let Challenge::Bearer { error, .. } = &challenge
            && error == "insufficient_scope"
            && known.is_some()
        {
            return Ok(response);
        }
        let grant = match challenge {
            Challenge::Basic if source.credentials.username.is_empty() => {
                return Err(Error::NoCredentials {
                    method: name(&ask.method),
                    url: url.into(),
                });
            }
            // The same credentials again would be refused again.
            Challenge::Basic if known.is_some() => {
                self.0.tokens.forget(source);
                return Ok(response);
            }
            Challenge::Basic => self.0.tokens.basic(source),
            Challenge::Bearer { realm, service, .. } => {
                self.0.tokens.forget(source);
                self.fetch_token(source, &url, &realm, &service).await?
            }
        };
        drop(response);
        Ok(self.send(ask, Some(&grant)).await?.1)
    }

    /// Sends a request to the registry by the scheme that it speaks. Returns the URL asked first
    /// and the answer, redirects followed.
    pub(crate) async fn send(
        &self,
        ask: &Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<(Url, Response)> {
        let host = api_host(&ask.source.registry);
        let path = match &ask.place {
            Place::Repository(path) => format!("v2/{}/{path}", ask.source.repository),
            Place::Registry(path) => path.clone(),
            Place::Address { url, .. } => {
                let response = self.follow(ask, url.clone(), authorization).await?;
                return Ok((url.clone(), response));
            }
        };
        let url = |scheme: &str| {
            let text = format!("{scheme}://{host}/{path}");
            Url::parse(&text).map_err(|e| Error::Protocol(format!("{text:?}: {e}")))
        };
        let known = match self.known_settings().security(host) {
            Security::Verified => Some("https"),
            Security::Plain => Some("http"),
            Security::Insecure => self.schemes().get(host).copied(),
        };
        if let Some(scheme) = known {
            let url = url(scheme)?;
            return Ok((url.clone(), self.follow(ask, url, authorization).await?));
        }
        // Nothing secret goes out before it is known who listens; a grant exists only after that.
        let secure = url("https")?;
        let (scheme, url, response) = match self.follow(ask, secure.clone(), None).await {
            Ok(response) => ("https", secure, response),
            Err(error @ (Error::Transport { .. } | Error::Stalled { .. })) => {
                let plain = url("http")?;
                match self.follow(ask, plain.clone(), None).await {
                    Ok(response) => ("http", plain, response),
                    // Nobody listens at all: the plain address is what people typed.
                    Err(plain_error) => {
                        tracing::debug!(%error, "no https either");
                        return Err(plain_error);
                    }
                }
            }
            Err(error) => return Err(error),
        };
        self.schemes().insert(host.to_owned(), scheme);
        Ok((url, response))
    }

    fn schemes(&self) -> MutexGuard<'_, HashMap<String, &'static str>> {
        lock(&self.0.schemes)
    }

    /// Sends a request and follows redirects by hand: what authenticates never goes to another
    /// origin, and some places are out of bounds.
    async fn follow(
        &self,
        ask: &Ask<'_>,
        first: Url,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response> {
        let mut url = first.clone();
        for _ in 0..=MAX_REDIRECTS {
            let mut headers = ask.headers.clone();
            if let Some(value) = authorization
                && same_origin(&first, &url)
            {
                headers.insert(AUTHORIZATION, value.clone());
            }
            let response = self.carry(ask, &url, headers).await?;
            let status = response.status();
            let reads = matches!(ask.method, Method::GET | Method::HEAD);
            // Any other redirect would turn a request that sends into one that fetches.
            let follows =
                status.is_redirection() && (reads || matches!(status.as_u16(), 307 | 308));
            let location = follows.then(|| response.headers().get(LOCATION)).flatten();
            let Some(location) = location else {
                return Ok(response);
            };
            let next = location
                .to_str()
                .ok()
                .and_then(|location| url.join(location).ok())
                .ok_or_else(|| Error::Protocol("a redirect to nowhere".into()))?;
            if let Some(reason) = refuse(&url, &next) {
                return Err(Error::Unsafe {
                    url: next.into(),
                    reason,
                });
            }
            url = next;
        }
        Err(Error::Unsafe {
            url: first.into(),
            reason: "it redirects too often",
        })
    }

    /// Sends one request and waits for the head of the answer.
    async fn carry(&self, ask: &Ask<'_>, url: &Url, headers: HeaderMap) -> Result<Response> {
        let sends = !matches!(ask.payload, Payload::None);
        let mut request = self
            .transport_for(url, sends)?
            .request(ask.method.clone(), url.clone())
            .headers(headers);
        if let Some(body) = ask.payload.body() {
            request = request.body(body);
        }
        let sending = request.send();
        let answer = match ask.payload.sent() {
            Some(sent) => {
                let stalled = || self.stalled(&ask.method, url, SENT_PATIENCE);
                self.watch(sending, sent).await.ok_or_else(stalled)?
            }
            None => sending.await,
        };
        answer.map_err(|e| self.transport_error(&ask.method, url, &e))
    }

    /// Waits for an answer as long as bytes go out, and somewhat longer. None when nothing moves.
    async fn watch<T>(&self, sending: impl Future<Output = T>, sent: &AtomicU64) -> Option<T> {
        let mut sending = std::pin::pin!(sending);
        let (mut last, mut quiet) = (sent.load(Ordering::Relaxed), 0);
        loop {
            let pause = tokio::time::sleep(self.0.config.stall_timeout);
            tokio::select! {
                answer = &mut sending => return Some(answer),
                () = pause => {}
            }
            let now = sent.load(Ordering::Relaxed);
            quiet = if now == last { quiet + 1 } else { 0 };
            if quiet >= SENT_PATIENCE {
                return None;
            }
            last = now;
        }
    }

    fn stalled(&self, method: &Method, url: &Url, times: u32) -> Error {
        let mut shown = url.clone();
        shown.set_query(None);
        Error::Stalled {
            method: name(method),
            url: shown.into(),
            seconds: (self.0.config.stall_timeout * times).as_secs(),
        }
    }

    pub(crate) fn transport(&self, url: &Url) -> Result<reqwest::Client> {
        self.transport_for(url, false)
    }

    fn transport_for(&self, url: &Url, sends: bool) -> Result<reqwest::Client> {
        let (settings, host) = (self.known_settings(), host_of(url));
        let lax = settings.security(&host) != Security::Verified;
        let own = settings.host(&host).filter(|host| host.has_certificates());
        let built = |transports: &Transports| {
            let cell = if sends {
                &transports.sending
            } else {
                &transports.asking
            };
            cell.get_or_init(|| build(&self.0.config, lax, sends, own))
                .clone()
        };
        let built = match own {
            Some(_) => built(lock(&self.0.own).entry(host).or_default()),
            None if lax => built(&self.0.lax),
            None => built(&self.0.strict),
        };
        built.map_err(Error::Setup)
    }

    pub(crate) fn transport_error(
        &self,
        method: &Method,
        url: &Url,
        error: &reqwest::Error,
    ) -> Error {
        let method = name(method);
        // Signed addresses of blobs are secrets for as long as they hold.
        let mut shown = url.clone();
        shown.set_query(None);
        let url = shown.into();
        if error.is_timeout() && !error.is_connect() {
            return Error::Stalled {
                method,
                url,
                seconds: self.0.config.stall_timeout.as_secs(),
            };
        }
        let reason = match error.is_timeout() {
            true => "connection timed out".to_owned(),
            false => root_cause(error).to_string(),
        };
        Error::Transport {
            method,
            url,
            reason,
            connected: !error.is_connect(),
        }
    }
}

/// Returns Go's name of a method, as its errors have it.
pub(crate) fn name(method: &Method) -> &'static str {
    match *method {
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PUT => "Put",
        Method::PATCH => "Patch",
        _ => "Get",
    }
}

/// Why something did not work, and when to try again if the registry says so.
pub(crate) struct Failure {
    pub(crate) error: Error,
    pub(crate) wait: Option<Duration>,
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { error, wait: None }
    }
}

impl Failure {
    /// Whether the same may work later, after so many attempts.
    pub(crate) fn may_pass(&self, attempt: u32, config: &Config) -> bool {
        let most = match &self.error {
            // Nobody there is mostly a wrong name, and people wait for the answer.
            Error::Transport { connected, .. } if !connected => config.attempts.min(2),
            Error::Transport { .. } | Error::Stalled { .. } => config.attempts,
            Error::Api { status, .. } | Error::Status { code: status, .. }
                if *status == 429 || *status >= 500 =>
            {
                config.attempts
            }
            _ => 1,
        };
        attempt < most
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()?;
    Some(Duration::from_secs(seconds).min(MAX_RETRY_AFTER))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn build(config: &Config, lax: bool, sends: bool, host: Option<&Host>) -> Built {
    // Another part of the process may have installed it; either way there is one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let loopback = |ip: IpAddr| SocketAddr::new(ip, 0);
    let mut builder = reqwest::Client::builder()
        .user_agent(&config.user_agent)
        .redirect(reqwest::redirect::Policy::none())
        .referer(false)
        .no_proxy()
        .connect_timeout(if lax {
            // A server that speaks plain HTTP may wait in silence for the rest of a greeting.
            config.connect_timeout.min(LAX_CONNECT_TIMEOUT)
        } else {
            config.connect_timeout
        })
        .pool_idle_timeout(Duration::from_secs(30))
        .http2_adaptive_window(true)
        // Nobody else says where this machine is.
        .resolve_to_addrs(
            "localhost",
            &[
                loopback(Ipv4Addr::LOCALHOST.into()),
                loopback(Ipv6Addr::LOCALHOST.into()),
            ],
        );
    if !sends {
        builder = builder.read_timeout(config.stall_timeout);
    }
    let none = format!("localhost,127.0.0.0/8,::1,{}", config.proxies.none);
    let none = || NoProxy::from_string(&none);
    if let Some(proxy) = &config.proxies.http {
        let proxy = Proxy::http(proxy).map_err(|e| format!("proxy: {e}"))?;
        builder = builder.proxy(proxy.no_proxy(none()));
    }
    if let Some(proxy) = &config.proxies.https {
        let proxy = Proxy::https(proxy).map_err(|e| format!("proxy: {e}"))?;
        builder = builder.proxy(proxy.no_proxy(none()));
    }
    let roots = host.map_or(&[][..], |host| &host.roots);
    for pem in config
        .roots
        .iter()
        .map(Vec::as_slice)
        .chain(roots.iter().map(|pem| &**pem))
    {
        let certificates =
            reqwest::Certificate::from_pem_bundle(pem).map_err(|e| format!("certificate: {e}"))?;
        builder = builder.tls_certs_merge(certificates);
    }
    if let Some(identity) = host.and_then(|host| host.identity.as_ref()) {
        let identity = reqwest::Identity::from_pem(&identity.0)
            .map_err(|e| format!("client certificate: {e}"))?;
        builder = builder.identity(identity);
    }
    if lax {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    builder.build().map_err(|error| {
        let source = error.source().map(ToString::to_string);
        format!(
            "cannot set up encryption: {}",
            source.unwrap_or_else(|| error.to_string())
        )
    })
}

/// Reads an answer of at most `limit` bytes.
pub(crate) async fn read_bounded(
    client: &Client,
    mut response: Response,
    what: &'static str,
    limit: u64,
) -> Result<Bytes> {
    if response
        .content_length()
        .is_some_and(|length| length > limit)
    {
        return Err(Error::TooLarge { what, limit });
    }
    let url = response.url().clone();
    let mut bytes = BytesMut::new();
    // Bounded in time too: many small pieces are as endless as many bytes.
    let reading = async {
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|e| client.transport_error(&Method::GET, &url, &e))?
        {
            if (bytes.len() + chunk.len()) as u64 > limit {
                return Err(Error::TooLarge { what, limit });
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    };
    let patience = client.0.config.stall_timeout * 2;
    tokio::time::timeout(patience, reading)
        .await
        .unwrap_or_else(|_| {
            Err(Error::Stalled {
                method: "Get",
                url: url.into(),
                seconds: patience.as_secs(),
            })
        })
}

#[derive(serde::Deserialize)]
struct Errors {
    #[serde(default)]
    errors: Vec<Entry>,
    /// What token services and proxies answer instead.
    #[serde(default)]
    details: String,
    #[serde(default)]
    message: String,
}

#[derive(serde::Deserialize)]
struct Entry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: Option<String>,
}

/// Turns an answer that is no success into Docker's words.
pub(crate) async fn refusal(client: &Client, source: &Source, response: Response) -> Failure {
    Failure {
        wait: retry_after(response.headers()),
        error: api_error(client, source, response).await,
    }
}

async fn api_error(client: &Client, source: &Source, response: Response) -> Error {
    let status = response.status();
    let denied_scope = matches!(
        challenge(response.headers()),
        Some(Challenge::Bearer { error, .. }) if error == "insufficient_scope"
    );
    let body = read_bounded(client, response, "error", MAX_ERROR)
        .await
        .unwrap_or_default();
    let errors = serde_json::from_slice::<Errors>(&body).unwrap_or(Errors {
        errors: Vec::new(),
        details: String::new(),
        message: String::new(),
    });
    let first = errors.errors.into_iter().next().map(|entry| Cause {
        code: printable(&entry.code),
        message: printable(&entry.message.unwrap_or_default()),
    });
    let default = |code: &str, message: &str| Cause {
        code: code.to_owned(),
        message: message.to_owned(),
    };
    let detail = [errors.details, errors.message].concat();
    let cause = match (first, status) {
        _ if denied_scope => default("DENIED", "requested access to the resource is denied"),
        (Some(cause), _) => cause,
        (None, StatusCode::UNAUTHORIZED) if detail.is_empty() => {
            default("UNAUTHORIZED", "authentication required")
        }
        (None, StatusCode::UNAUTHORIZED) => default("UNAUTHORIZED", &printable(&detail)),
        (None, StatusCode::FORBIDDEN) => {
            default("DENIED", "requested access to the resource is denied")
        }
        (None, StatusCode::NOT_FOUND) => default("MANIFEST_UNKNOWN", "manifest unknown"),
        (None, StatusCode::TOO_MANY_REQUESTS) => default("TOOMANYREQUESTS", "too many requests"),
        (None, status) => {
            return Error::Status {
                status: status.to_string(),
                code: status.as_u16(),
            };
        }
    };
    match cause.code.as_str() {
        // These speak of pulls.
        _ if source.pushes() => Error::Api {
            status: status.as_u16(),
            cause,
        },
        "MANIFEST_UNKNOWN" => Error::ManifestNotFound {
            image: source.title.clone(),
            cause,
        },
        "NAME_UNKNOWN" => Error::RepositoryNotFound {
            repository: source.name.clone(),
            cause,
        },
        "DENIED" => Error::Denied {
            repository: source.name.clone(),
            cause,
        },
        _ => Error::Api {
            status: status.as_u16(),
            cause,
        },
    }
}

/// Keeps what a stranger says from steering a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(500).collect()
}
