//! The registry is killed while clients push; what it acknowledged is there afterwards.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sampan_oci::Digest;
use sampan_testing::{Bucket, Fixture, TestEngine, until};

use crate::SAMPAN;
use crate::bucket::configuration;
use crate::http::send;
use crate::server::Server;

const ROUNDS: u64 = 8;
const CLIENTS: u64 = 8;

/// What the registry said it has.
#[derive(Default)]
struct Acknowledged {
    blobs: Vec<(String, Digest)>,
    manifests: Vec<(String, Digest)>,
    /// Location of an upload and how much of it was acknowledged.
    uploads: Vec<(String, Vec<u8>, usize)>,
}

/// Content that no other call has.
fn content(number: u64, size: usize) -> Vec<u8> {
    let mut x = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        bytes.extend_from_slice(&x.to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Pushes until the registry is gone.
fn client(
    address: &str,
    number: &AtomicU64,
    acknowledged: &Mutex<Acknowledged>,
    over: &AtomicBool,
) {
    while !over.load(Ordering::Relaxed) {
        let number = number.fetch_add(1, Ordering::Relaxed);
        // Whatever fails: the registry is being killed.
        let _ = push(address, number, acknowledged);
    }
}

fn push(address: &str, number: u64, acknowledged: &Mutex<Acknowledged>) -> std::io::Result<()> {
    let repository = format!("r{}", number % 3);
    let size = 200_000 + (number as usize * 7919) % 2_000_000;
    let bytes = content(number, size);
    let digest = Digest::of(&bytes);
    if number % 4 == 3 {
        return half(address, &repository, bytes, acknowledged);
    }
    let path = format!("/v2/{repository}/blobs/uploads/?digest={digest}");
    if send(address, "POST", &path, &[], &bytes)?.status == 201 {
        let mut acknowledged = acknowledged.lock().unwrap();
        acknowledged.blobs.push((repository.clone(), digest));
    }
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"x/y","digest":"{digest}","size":{size}}},"layers":[]}}"#
    );
    let path = format!("/v2/{repository}/manifests/t{number}");
    let kind = [("Content-Type", "application/vnd.oci.image.manifest.v1+json")];
    if send(address, "PUT", &path, &kind, manifest.as_bytes())?.status == 201 {
        let digest = Digest::of(manifest.as_bytes());
        let mut acknowledged = acknowledged.lock().unwrap();
        acknowledged.manifests.push((path, digest));
    }
    Ok(())
}

/// Uploads the first half in chunks and leaves it so.
fn half(
    address: &str,
    repository: &str,
    bytes: Vec<u8>,
    acknowledged: &Mutex<Acknowledged>,
) -> std::io::Result<()> {
    let path = format!("/v2/{repository}/blobs/uploads/");
    let begun = send(address, "POST", &path, &[], b"")?;
    let location = begun.header("location").unwrap_or_default().to_owned();
    let middle = bytes.len() / 2;
    for (start, end) in [(0, middle / 2), (middle / 2, middle)] {
        let range = format!("{start}-{}", end - 1);
        let headers = [("Content-Range", range.as_str())];
        if send(address, "PATCH", &location, &headers, &bytes[start..end])?.status == 202 {
            let mut acknowledged = acknowledged.lock().unwrap();
            acknowledged
                .uploads
                .retain(|(known, ..)| *known != location);
            acknowledged
                .uploads
                .push((location.clone(), bytes.clone(), end));
        }
    }
    Ok(())
}

#[test]
fn nothing_acknowledged_is_lost_when_the_registry_is_killed() {
    lose_nothing(Server::start(&[]));
}

#[test]
fn nothing_acknowledged_is_lost_when_a_registry_over_a_bucket_is_killed() {
    let bucket = Bucket::start();
    let directory = tempfile::tempdir().unwrap();
    let config = configuration(&bucket, directory.path(), "");
    lose_nothing(Server::start(&["--config", &config]));
}

fn lose_nothing(mut server: Server) {
    let address = server.address();
    let acknowledged = Mutex::new(Acknowledged::default());
    let number = AtomicU64::new(0);
    for round in 0..ROUNDS {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..CLIENTS {
                scope.spawn(|| client(&address, &number, &acknowledged, &over));
            }
            // In the middle of pushes, and after some of them, however slow the machine is.
            let blobs = || acknowledged.lock().unwrap().blobs.len();
            let before = blobs();
            let deadline = Instant::now() + Duration::from_secs(30);
            while blobs() < before + 2 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(10));
            }
            std::thread::sleep(Duration::from_millis(round * 37));
            server.kill();
            over.store(true, Ordering::Relaxed);
        });
        server.again();
    }
    let acknowledged = acknowledged.into_inner().unwrap();
    assert!(
        acknowledged.blobs.len() > 8,
        "only {} blobs",
        acknowledged.blobs.len()
    );
    for (repository, digest) in &acknowledged.blobs {
        let answer = send(
            &address,
            "GET",
            &format!("/v2/{repository}/blobs/{digest}"),
            &[],
            b"",
        )
        .unwrap();
        assert_eq!(answer.status, 200, "{repository} {digest} is lost");
        assert_eq!(Digest::of(&answer.body), *digest, "{digest} is damaged");
    }
    for (path, digest) in &acknowledged.manifests {
        let answer = send(&address, "GET", path, &[], b"").unwrap();
        assert_eq!(answer.status, 200, "{path} is lost");
        assert_eq!(Digest::of(&answer.body), *digest, "{path} is damaged");
    }
    for (location, bytes, end) in &acknowledged.uploads {
        let answer = send(&address, "GET", location, &[], b"").unwrap();
        assert_eq!(answer.status, 204, "{location} is lost");
        let range = answer.header("range").unwrap();
        let size = range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1;
        assert!(size >= *end, "{size} of {end} bytes are left of {location}");
        let digest = Digest::of(bytes);
        let path = format!("{location}?digest={digest}");
        let answer = send(&address, "PUT", &path, &[], &bytes[size..]).unwrap();
        assert_eq!(answer.status, 201, "{location} does not go on");
    }
}

#[test]
fn a_push_outlives_a_registry_that_is_killed() {
    let mut server = Server::start(&[]);
    let engine = TestEngine::start(SAMPAN);
    engine.load(Fixture::Debian);
    let reference = format!("{}/debian:1", server.address());
    let local = format!("{}:latest", Fixture::Debian.name());
    let _ = engine.sampan(&["tag", &local, &reference]).ok();
    std::thread::scope(|scope| {
        let push = scope.spawn(|| engine.sampan(&["push", "--quiet", &reference]));
        for megabytes in [1, 10, 20] {
            until("some of the layer is there", || {
                push.is_finished() || size(&server.root()) > megabytes << 20
            });
            assert!(!push.is_finished(), "the registry was not killed in time");
            server.kill();
            server.again();
        }
        let _ = push.join().unwrap().ok();
    });
    let _ = engine.sampan(&["image", "verify", &reference]).ok();
    let id = ["inspect", "--format={{.Id}}", &reference];
    let pushed = engine.sampan(&id).ok();
    let _ = engine.sampan(&["rmi", &reference, &local]).ok();
    let _ = engine.sampan(&["pull", "--quiet", &reference]).ok();
    assert_eq!(engine.sampan(&id).ok(), pushed);
}

/// Bytes of all files below a directory.
fn size(directory: &Path) -> u64 {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => size(&entry.path()),
        Ok(metadata) => metadata.len(),
        // Renamed meanwhile.
        Err(_) => 0,
    });
    sizes.sum()
}
