//! Pulls through mirrors: honest ones are used, and from those that lie, break or are gone
//! nothing comes but a delay.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use sampan_images::settings::{Fixed, Rule, Settings};
use sampan_images::{ImageStore, Options, PullOptions};
use sampan_oci::Digest;
use sampan_oci::digest::DiffId;
use sampan_testing::{Answer, Asked, ScriptedServer};
use support::{Repository, config, gzip, noise, open_with, quiet, tar};

fn store(root: &std::path::Path, origin: &ScriptedServer, mirrors: &[&str]) -> ImageStore {
    let settings = Settings {
        rules: vec![Rule {
            prefix: origin.address().parse().unwrap(),
            location: None,
            mirrors: mirrors.iter().map(|text| text.parse().unwrap()).collect(),
        }],
        ..Settings::default()
    };
    let mut options = Options::default();
    options.registry.backoff = Duration::from_millis(5);
    options.registry.stall_timeout = Duration::from_secs(2);
    options.registry.settings = Arc::new(Fixed::from(settings));
    open_with(root, options)
}

fn layer() -> Vec<u8> {
    tar(&[("etc/motd", b"ahoy"), ("noise", &noise(300_000, 7))])
}

fn repository() -> Repository {
    let mut repository = Repository::default();
    repository.image("latest", &[&layer()]);
    repository
}

async fn pull(store: &ImageStore, origin: &ScriptedServer, suffix: &str) {
    let name = format!("{}/app{suffix}", origin.address()).parse().unwrap();
    let options = PullOptions::default();
    let pulled = store.pull(&name, &options, &quiet()).await.unwrap();
    let expected = serde_json::to_vec(&config(&[&layer()])).unwrap();
    assert_eq!(
        pulled.image.id.to_string(),
        Digest::of(&expected).to_string()
    );
    assert!(store.layers().get(&DiffId(Digest::of(&layer()))).is_some());
    assert_eq!(store.layers().list().len(), 1, "nothing else was kept");
    // Named as the user named it, wherever it came from.
    assert!(store.resolve(&name).is_some());
}

fn blobs(server: &ScriptedServer) -> usize {
    let asked = server.asked();
    asked.iter().filter(|a| a.path.contains("/blobs/")).count()
}

/// A mirror that has the image and answers for its layer by `lie`.
fn liar(lie: impl Fn(&Asked, &[u8]) -> Answer + Send + Sync + 'static) -> ScriptedServer {
    let repository = repository();
    let blob = gzip(&layer());
    let digest = Digest::of(&blob).to_string();
    ScriptedServer::start_at("127.0.0.2", move |asked| {
        if asked.path.ends_with(&digest) {
            return lie(asked, &blob);
        }
        repository.answer(asked)
    })
}

#[tokio::test]
async fn a_mirror_spares_the_origin() {
    let directory = tempfile::tempdir().unwrap();
    let copies = repository();
    let mirror = ScriptedServer::start_at("127.0.0.2", move |asked| copies.answer(asked));
    let origin = repository().serve();
    let store = store(directory.path(), &origin, &[&mirror.address()]);
    pull(&store, &origin, ":latest").await;
    assert_eq!(blobs(&mirror), 2);
    assert!(origin.asked().is_empty());
}

#[tokio::test]
async fn mirrors_are_asked_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let dead = format!("127.0.0.1:{}", sampan_testing::free_port());
    let empty = ScriptedServer::start_at("127.0.0.3", |_| Answer::new(404, ""));
    let copies = repository();
    let mirror = ScriptedServer::start_at("127.0.0.2", move |asked| copies.answer(asked));
    let origin = repository().serve();
    let mirrors = [&*dead, &empty.address(), &mirror.address()];
    let store = store(directory.path(), &origin, &mirrors);
    pull(&store, &origin, ":latest").await;
    assert_eq!(empty.asked().len(), 1);
    assert_eq!(blobs(&mirror), 2);
    assert!(origin.asked().is_empty());
}

#[tokio::test]
async fn a_mirror_that_lies_about_a_manifest_is_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let mut forged = Repository::default();
    let forgery = forged.image("latest", &[&tar(&[("evil", b"x")])]);
    let mut real = Repository::default();
    let digest = real.image("latest", &[&layer()]).digest;
    let mirror = ScriptedServer::start_at("127.0.0.2", move |asked| {
        // The forged manifest under the name of the real one.
        let forged_path = asked
            .path
            .replace(&digest.to_string(), &forgery.digest.to_string());
        forged.answer(&Asked {
            path: forged_path,
            ..asked.clone()
        })
    });
    let origin = real.serve();
    let store = store(directory.path(), &origin, &[&mirror.address()]);
    pull(&store, &origin, &format!("@{digest}")).await;
    assert!(!mirror.asked().is_empty());
    assert_eq!(blobs(&mirror), 0);
}

#[tokio::test]
async fn a_mirror_that_lies_about_a_layer_is_passed_over() {
    type Lie = fn(&Asked, &[u8]) -> Answer;
    let lies: [(&str, Lie); 7] = [
        ("other bytes", |_, blob| {
            let mut bytes = blob.to_vec();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            Answer::new(200, bytes)
        }),
        ("another layer of the same length", |_, blob| {
            let mut other = gzip(&tar(&[("evil", &noise(299_000, 9))]));
            other.resize(blob.len(), 0);
            Answer::new(200, other)
        }),
        ("no gzip", |_, blob| Answer::new(200, noise(blob.len(), 3))),
        ("cut short", |_, blob| {
            Answer::new(200, &blob[..blob.len() / 2])
        }),
        ("too long", |_, blob| {
            Answer::new(200, [blob, b"more"].concat())
        }),
        ("endless", |_, blob| Answer {
            endless: true,
            ..Answer::new(200, blob)
        }),
        ("missing", |_, _| Answer::new(404, "")),
    ];
    for (name, lie) in lies {
        println!("{name}");
        let directory = tempfile::tempdir().unwrap();
        let mirror = liar(lie);
        let origin = repository().serve();
        let store = store(directory.path(), &origin, &[&mirror.address()]);
        pull(&store, &origin, ":latest").await;
        assert!(blobs(&mirror) > 0);
        assert_eq!(blobs(&origin), 1, "the layer alone: {name}");
    }
}

#[tokio::test]
async fn a_layer_goes_on_at_the_origin_where_the_mirror_broke() {
    let directory = tempfile::tempdir().unwrap();
    let mirror = liar(|asked, blob| Answer {
        cut: Some(100_000),
        ..Answer::ranged(asked, blob)
    });
    let origin = repository().serve();
    let store = store(directory.path(), &origin, &[&mirror.address()]);
    pull(&store, &origin, ":latest").await;
    let asked = origin.asked();
    assert_eq!(asked.len(), 1);
    assert!(asked[0].range_start().unwrap() >= 100_000);
}

#[tokio::test]
async fn what_a_lying_mirror_sent_before_it_broke_is_not_built_upon() {
    let directory = tempfile::tempdir().unwrap();
    let mirror = liar(|_, blob| {
        let mut forged = blob.to_vec();
        forged[50_000] ^= 1;
        Answer {
            cut: Some(100_000),
            ..Answer::new(200, forged)
        }
    });
    let origin = repository().serve();
    let store = store(directory.path(), &origin, &[&mirror.address()]);
    pull(&store, &origin, ":latest").await;
}

#[tokio::test]
async fn the_origins_answer_is_what_the_user_sees() {
    let directory = tempfile::tempdir().unwrap();
    let mirror = ScriptedServer::start_at("127.0.0.2", |_| Answer::new(500, ""));
    let origin = ScriptedServer::start(|_| Answer::new(404, ""));
    let store = store(directory.path(), &origin, &[&mirror.address()]);
    let name = format!("{}/app:latest", origin.address()).parse().unwrap();
    let options = PullOptions::default();
    let error = store.pull(&name, &options, &quiet()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("manifest for {name} not found: manifest unknown: manifest unknown")
    );
}
