use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// A request as a [`ScriptedServer`] saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Header fields, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

impl Asked {
    /// A header field.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// Where the range that was asked for starts.
    #[must_use]
    pub fn range_start(&self) -> Option<usize> {
        let range = self.header("range")?.strip_prefix("bytes=")?;
        range.strip_suffix('-')?.parse().ok()
    }
}

/// What a [`ScriptedServer`] answers, honestly or not.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Header fields; the length is added unless it is here.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// Closes the connection after so many bytes of the body.
    pub cut: Option<usize>,
    /// Sends so many bytes at once.
    pub piece: usize,
    /// Waits before each piece.
    pub delay: Duration,
    /// Sends the body again and again, and no length.
    pub endless: bool,
}

impl Answer {
    /// An answer with a body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: body.into(),
            cut: None,
            piece: 64 << 10,
            delay: Duration::ZERO,
            endless: false,
        }
    }

    /// A redirect.
    #[must_use]
    pub fn redirect(location: &str) -> Self {
        Self::new(307, "").with("location", location)
    }

    /// Adds a header field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The bytes of `whole` from where the request wants them.
    #[must_use]
    pub fn ranged(asked: &Asked, whole: &[u8]) -> Self {
        match asked.range_start() {
            Some(start) if start < whole.len() => {
                let range = format!("bytes {start}-{}/{}", whole.len() - 1, whole.len());
                Self::new(206, &whole[start..]).with("content-range", &range)
            }
            _ => Self::new(200, whole),
        }
    }
}

/// A small HTTP server on 127.0.0.1 that answers what a test tells it to.
#[derive(Debug)]
pub struct ScriptedServer {
    host: &'static str,
    port: u16,
    stop: Arc<AtomicBool>,
    asked: Arc<Mutex<Vec<Asked>>>,
    thread: Option<JoinHandle<()>>,
}

impl ScriptedServer {
    /// Starts a server that answers each request by `script`.
    #[must_use]
    pub fn start(script: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start_at("127.0.0.1", script)
    }

    /// Starts a server on another address of loopback, which is another host to its clients.
    #[must_use]
    pub fn start_at(
        host: &'static str,
        script: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((host, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stop = Arc::new(AtomicBool::new(false));
        let asked = Arc::new(Mutex::new(Vec::new()));
        let script = Arc::new(script);
        let thread = {
            let (stop, asked) = (stop.clone(), asked.clone());
            std::thread::spawn(move || {
                for connection in listener.incoming() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    let Ok(connection) = connection else { continue };
                    let (stop, asked, script) = (stop.clone(), asked.clone(), script.clone());
                    std::thread::spawn(move || serve(&connection, &stop, &asked, &*script));
                }
            })
        };
        Self {
            host,
            port,
            stop,
            asked,
            thread: Some(thread),
        }
    }

    /// `HOST:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// All requests so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for ScriptedServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // Wakes the thread up.
        let _ = TcpStream::connect((self.host, self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves one connection until either side has enough.
fn serve(
    connection: &TcpStream,
    stop: &AtomicBool,
    asked: &Mutex<Vec<Asked>>,
    script: &(dyn Fn(&Asked) -> Answer + Send + Sync),
) {
    let patience = Some(Duration::from_secs(10));
    let _ = connection.set_read_timeout(patience);
    let _ = connection.set_write_timeout(patience);
    let mut reader = BufReader::new(connection);
    while let Some(request) = read_request(&mut reader) {
        asked.lock().unwrap().push(request.clone());
        let answer = script(&request);
        let whole = send(connection, &request, &answer, stop);
        if !matches!(whole, Ok(true)) {
            break;
        }
    }
    let _ = connection.shutdown(Shutdown::Both);
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    // What a TLS client says is no text.
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_lowercase(), value.trim().to_owned());
    }
    let length = headers
        .get("content-length")
        .and_then(|length| length.parse().ok())
        .unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked {
        method,
        path,
        headers,
        body,
    })
}

/// Returns whether the connection can go on.
fn send(
    mut connection: &TcpStream,
    request: &Asked,
    answer: &Answer,
    stop: &AtomicBool,
) -> std::io::Result<bool> {
    let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let sized = answer
        .headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if !sized && !answer.endless {
        head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
    }
    head.push_str("\r\n");
    connection.write_all(head.as_bytes())?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let end = answer
        .cut
        .map_or(answer.body.len(), |cut| cut.min(answer.body.len()));
    loop {
        for piece in answer.body[..end].chunks(answer.piece.max(1)) {
            if stop.load(Ordering::Relaxed) {
                return Ok(false);
            }
            std::thread::sleep(answer.delay);
            connection.write_all(piece)?;
        }
        if !answer.endless {
            return Ok(answer.cut.is_none() && !sized);
        }
    }
}
