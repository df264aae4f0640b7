//! Our registry and Debian's `docker-registry` under 64 clients at once, each
//! with a layer of its own of 50 MB. The clients do nothing with what they get,
//! and send what lies ready: what is measured is the servers.
//!
//! Once with stores on the disk, where both wait for it until what they
//! acknowledge is durable, and once in memory, where only they count.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use sampan_oci::Digest;
use sampan_oci::digest::Hasher;
use sampan_testing::{free_port, until};
use tempfile::TempDir;

use super::memory::field;

const CLIENTS: usize = 64;
const LAYER: usize = 50_000_000;
const ROUNDS: usize = 3;
/// Bytes by which the layers differ.
const OWN: usize = 8;

/// Where the stores are.
#[derive(Clone, Copy)]
enum Place {
    Disk,
    Memory,
}

impl Place {
    const ALL: [Self; 2] = [Self::Disk, Self::Memory];

    fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
        }
    }

    fn store(self) -> Result<TempDir> {
        let within = match self {
            Self::Disk => std::env::temp_dir(),
            Self::Memory => PathBuf::from("/dev/shm"),
        };
        let mut builder = tempfile::Builder::new();
        Ok(builder.prefix("sampan-bench-").tempdir_in(within)?)
    }
}

/// A server with a store of its own.
struct Server {
    name: &'static str,
    process: Child,
    port: u16,
    _directory: TempDir,
}

impl Server {
    fn ours(place: Place) -> Result<Self> {
        let directory = place.store()?;
        let port = free_port();
        let mut command = Command::new(super::release("sampan"));
        command
            .args(["registry", "serve", "--log-level", "error"])
            .args(["--listen", &format!("127.0.0.1:{port}"), "--root"])
            .arg(directory.path());
        Self::start("sampan", command, port, directory)
    }

    fn debian(place: Place) -> Result<Self> {
        let directory = place.store()?;
        let port = free_port();
        let config = directory.path().join("config.yml");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\n\
             storage:\n  filesystem:\n    rootdirectory: {}/data\n    maxthreads: 200\n\
             \x20 delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n",
            directory.path().display()
        );
        fs::write(&config, text)?;
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(config);
        Self::start("docker-registry", command, port, directory)
    }

    fn start(
        name: &'static str,
        mut command: Command,
        port: u16,
        directory: TempDir,
    ) -> Result<Self> {
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| name.to_owned())?;
        until("the registry answers", || {
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        Ok(Self {
            name,
            process,
            port,
            _directory: directory,
        })
    }

    fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    fn peak(&self) -> f64 {
        field(self.pid(), "status", "VmHWM:")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The layers: one body for all, and for each the bytes in front and the digest.
struct Layers {
    body: Vec<u8>,
    own: Vec<([u8; OWN], Digest)>,
}

impl Layers {
    fn new(round: usize) -> Self {
        let mut x = 0x9e37_79b9_7f4a_7c15_u64;
        let mut body = Vec::with_capacity(LAYER);
        while body.len() < LAYER - OWN {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            body.extend_from_slice(&x.to_le_bytes());
        }
        body.truncate(LAYER - OWN);
        let own = (0..CLIENTS).map(|client| {
            let own = ((round * CLIENTS + client) as u64).to_le_bytes();
            let mut hasher = Hasher::new();
            hasher.update(&own);
            hasher.update(&body);
            (own, hasher.finish())
        });
        let own = own.collect();
        Self { body, own }
    }
}

pub(super) fn run() -> Result<()> {
    println!(
        "\nregistry: {CLIENTS} clients at once, a layer of {} MB each",
        LAYER / 1_000_000
    );
    println!(
        "{:<7} {:<16} {:>5} {:>10} {:>10} {:>12}",
        "store", "server", "round", "push MB/s", "pull MB/s", "peak RSS KiB"
    );
    for place in Place::ALL {
        compare(place)?;
    }
    Ok(())
}

/// What the clients of one server waited in one round.
struct Times {
    push: Duration,
    pull: Duration,
}

fn compare(place: Place) -> Result<()> {
    let servers: [fn(Place) -> Result<Server>; 2] = [Server::ours, Server::debian];
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let layers = Layers::new(round);
        // Each is the first in turn.
        for which in [round % 2, 1 - round % 2] {
            // New stores each time: what one left in memory or on the disk is not the other's.
            let server = servers[which](place)?;
            let push = at_once(|client| push(&server, &layers, client))?;
            let pull = at_once(|client| pull(&server, &layers, client))?;
            println!(
                "{:<7} {:<16} {:>5} {:>10.0} {:>10.0} {:>12.0}",
                place.name(),
                server.name,
                round + 1,
                speed(push),
                speed(pull),
                server.peak()
            );
            times[which].push(Times { push, pull });
            drop(server);
            rustix::fs::sync();
        }
    }
    let ratio = |of: fn(&Times) -> Duration| median(&times[1], of) / median(&times[0], of);
    println!(
        "{}: sampan is {:.2} times as fast to push and {:.2} times to pull (medians)",
        place.name(),
        ratio(|times| times.push),
        ratio(|times| times.pull)
    );
    Ok(())
}

fn median(times: &[Times], of: fn(&Times) -> Duration) -> f64 {
    let mut times: Vec<Duration> = times.iter().map(of).collect();
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

#[allow(clippy::cast_precision_loss)]
fn speed(time: Duration) -> f64 {
    (CLIENTS * LAYER) as f64 / 1e6 / time.as_secs_f64()
}

/// Lets all clients do something and answers how long the slowest took.
fn at_once(client: impl Fn(usize) -> Result<()> + Sync) -> Result<Duration> {
    let ready = Barrier::new(CLIENTS + 1);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let (client, ready) = (&client, &ready);
                scope.spawn(move || {
                    ready.wait();
                    client(number)
                })
            })
            .collect();
        ready.wait();
        let start = Instant::now();
        for client in clients {
            client
                .join()
                .map_err(|_| anyhow::anyhow!("a client panicked"))??;
        }
        Ok(start.elapsed())
    })
}

fn push(server: &Server, layers: &Layers, client: usize) -> Result<()> {
    let (own, digest) = &layers.own[client];
    let mut socket = connect(server)?;
    let path = "/v2/bench/blobs/uploads/";
    write!(
        socket,
        "POST {path} HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n"
    )?;
    let begun = answer(&mut socket, 202)?;
    let location = location(&begun)?;
    // As docker pushes: the layer in one PATCH, then the digest.
    write!(
        socket,
        "PATCH {location} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/octet-stream\r\nContent-Length: {LAYER}\r\n\r\n"
    )?;
    socket.write_all(own)?;
    socket.write_all(&layers.body)?;
    let taken = answer(&mut socket, 202)?;
    let location = self::location(&taken)?;
    let mark = if location.contains('?') { '&' } else { '?' };
    write!(
        socket,
        "PUT {location}{mark}digest={digest} HTTP/1.1\r\nHost: bench\r\nContent-Length: 0\r\n\r\n"
    )?;
    answer(&mut socket, 201)?;
    Ok(())
}

fn pull(server: &Server, layers: &Layers, client: usize) -> Result<()> {
    let mut socket = connect(server)?;
    let digest = layers.own[client].1;
    write!(
        socket,
        "GET /v2/bench/blobs/{digest} HTTP/1.1\r\nHost: bench\r\n\r\n"
    )?;
    let head = answer(&mut socket, 200)?;
    let length: usize = header(&head, "content-length")
        .and_then(|length| length.parse().ok())
        .context("no length")?;
    ensure!(length == LAYER, "{length} bytes");
    let mut buffer = vec![0; 256 << 10];
    let mut left = LAYER;
    while left > 0 {
        match socket.read(&mut buffer)? {
            0 => bail!("the layer broke off"),
            read => left -= read,
        }
    }
    Ok(())
}

fn connect(server: &Server) -> Result<TcpStream> {
    Ok(TcpStream::connect(("127.0.0.1", server.port))?)
}

/// Reads the head of an answer, which has no body or one that is left alone.
fn answer(socket: &mut TcpStream, status: u16) -> Result<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let head = String::from_utf8(head)?;
    ensure!(
        head.split(' ').nth(1) == Some(&status.to_string()),
        "{head}"
    );
    Ok(head)
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
}

/// The path of an answer's `Location`, which may be a whole URL.
fn location(head: &str) -> Result<&str> {
    let location = header(head, "location").context("no location")?;
    Ok(match location.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/').unwrap_or(0)..],
        None => location,
    })
}
