//! Pulls from Debian's registry, and from registries that are broken or hostile.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sampan_images::{
    Credentials, Error, ErrorKind, ImageStore, LayerStatus, Limits, Options, Progress,
    ProgressSink, PullOptions, Pulled,
};
use sampan_oci::{Descriptor, Digest, MediaType, Reference};
use sampan_testing::{Answer, Fixture, Login, Registry, ScriptedServer, fixture};
use support::{Repository, config, drain, gzip, noise, open, open_with, quiet, tar};

async fn pull(store: &ImageStore, name: &str) -> Result<Pulled, Error> {
    let reference: Reference = name.parse()?;
    store
        .pull(&reference, &PullOptions::default(), &quiet())
        .await
}

fn name(server: &ScriptedServer) -> String {
    format!("{}/app", server.address())
}

/// What a failed pull must not leave.
fn assert_nothing(store: &ImageStore) {
    assert!(store.list().is_empty());
    assert!(store.layers().list().is_empty());
}

#[tokio::test]
async fn every_form_of_manifest_and_layer_is_pulled() {
    sampan_kernel::requires!(root);
    let image = fixture(Fixture::Busybox);
    let registry = Registry::start();
    let mut ids = HashSet::new();
    for flags in [
        &["--format=oci"][..],
        &["--format=v2s2"],
        &[
            "--format=oci",
            "--dest-compress-format=zstd",
            "--dest-compress",
        ],
        &["--format=oci", "--dest-decompress"],
    ] {
        let reference = registry.push_with(&image, flags);
        let root = tempfile::tempdir().unwrap();
        let store = open(root.path());
        let pulled = pull(&store, &reference)
            .await
            .unwrap_or_else(|e| panic!("{flags:?}: {e:?}"));
        assert!(pulled.newer);
        assert_eq!(pulled.image.layers.len(), 1);
        assert_eq!(pulled.image.repo_tags().join(" "), reference);
        let by_digest = reference.replace(":latest", &format!("@{}", pulled.digest));
        assert_eq!(pulled.image.repo_digests().join(" "), by_digest);
        for layer in pulled.image.layers.iter() {
            store.layers().verify(&layer.diff_id).unwrap();
            let blob = layer.blob.as_ref().unwrap();
            store.content().verify(&blob.digest).unwrap();
        }
        ids.insert(pulled.image.layers[0].diff_id);
        // All of it survives a restart.
        drop(store);
        let store = open(root.path());
        assert_eq!(store.find(&by_digest).unwrap().id, pulled.image.id);
        assert_eq!(
            store.find(&pulled.image.id.short()).unwrap().id,
            pulled.image.id
        );
    }
    assert_eq!(ids.len(), 1, "the layer is the same however it is packed");
}

#[tokio::test]
async fn a_registry_with_passwords_wants_one() {
    sampan_kernel::requires!(root);
    let login = Login {
        user: "me".into(),
        password: "secret".into(),
    };
    let registry = Registry::with_login(login);
    let reference = registry.push(&fixture(Fixture::Busybox));
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let error = pull(&store, &reference).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert!(
        error.to_string().ends_with("no basic auth credentials"),
        "{error}"
    );
    let with = |password: &str| PullOptions {
        credentials: Credentials {
            username: "me".into(),
            password: password.into(),
            ..Credentials::default()
        },
        ..PullOptions::default()
    };
    let reference: Reference = reference.parse().unwrap();
    let error = store
        .pull(&reference, &with("guess"), &quiet())
        .await
        .unwrap_err();
    assert_eq!(error.to_string(), "unauthorized: authentication required");
    store
        .pull(&reference, &with("secret"), &quiet())
        .await
        .unwrap();
}

#[tokio::test]
async fn what_is_missing_is_said_in_dockers_words() {
    sampan_kernel::requires!(root);
    let registry = Registry::start();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let name = format!("{}/nothing", registry.address());
    let error = pull(&store, &name).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(
        error.to_string(),
        format!("manifest for {name}:latest not found: manifest unknown: manifest unknown")
    );
}

#[tokio::test]
async fn news_of_a_pull_is_dockers() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let (one, two) = (tar(&[("a", b"1")]), tar(&[("b", b"2")]));
    let digest = repository.image("latest", &[&one, &two]).digest;
    repository.image("more", &[&one, &two, &tar(&[("c", b"3")])]);
    let server = repository.serve();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let reference: Reference = name(&server).parse().unwrap();
    let (sink, mut news) = ProgressSink::channel();
    let options = PullOptions::default();
    store.pull(&reference, &options, &sink).await.unwrap();
    let told = drain(&mut news);
    let statuses = |told: &[Progress]| -> Vec<&'static str> {
        told.iter()
            .filter_map(|p| match p {
                Progress::Layer { status, .. } => Some(status.as_str()),
                _ => None,
            })
            .collect()
    };
    assert_eq!(
        told[0],
        Progress::PullingFrom {
            repository: "app".into(),
            reference: "latest".into()
        }
    );
    let title = format!("{reference}:latest");
    assert_eq!(
        told[told.len() - 2..],
        [
            Progress::Digest(digest),
            Progress::Downloaded {
                image: title.clone()
            }
        ]
    );
    for (status, count) in [
        ("Pulling fs layer", 2),
        ("Download complete", 2),
        ("Pull complete", 2),
    ] {
        assert_eq!(
            statuses(&told).iter().filter(|s| **s == status).count(),
            count,
            "{told:?}"
        );
    }
    store.pull(&reference, &options, &sink).await.unwrap();
    let told = drain(&mut news);
    assert_eq!(statuses(&told), [""; 0]);
    assert_eq!(told.last(), Some(&Progress::UpToDate { image: title }));
    let more = reference.with_tag("more").unwrap();
    store.pull(&more, &options, &sink).await.unwrap();
    let told = drain(&mut news);
    let existing = told.iter().filter(|p| {
        matches!(
            p,
            Progress::Layer {
                status: LayerStatus::AlreadyExists,
                ..
            }
        )
    });
    assert_eq!(existing.count(), 2);
}

#[tokio::test]
async fn an_index_gives_the_image_for_this_machine() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let layer = tar(&[("a", b"1")]);
    let gz = repository.blob(MediaType::OciLayerGzip, &gzip(&layer));
    let mut entries = Vec::new();
    let host = sampan_oci::Platform::host();
    for platform in [
        "linux/s390x".parse().unwrap(),
        host,
        "linux/arm64".parse().unwrap(),
    ] {
        let mut config = config(&[&layer]);
        config.architecture.clone_from(&platform.architecture);
        let mut entry = repository.manifest(None, &config, vec![gz.clone()]);
        entry.platform = Some(platform);
        entries.push(entry);
    }
    let index = repository.index(Some("latest"), entries.clone());
    repository.index(Some("none"), Vec::new());
    // Docker's form of the same.
    let list = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": MediaType::DockerManifestList,
        "manifests": entries,
    });
    let list = list.to_string();
    repository.document(Some("list"), MediaType::DockerManifestList, list.as_bytes());
    let digest = index.digest;
    let server = repository.serve();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let pulled = pull(&store, &name(&server)).await.unwrap();
    assert_eq!(pulled.digest, digest, "the name stands for the index");
    assert_eq!(
        pulled.image.config.architecture,
        sampan_oci::Platform::host().architecture
    );
    let by_list = pull(&store, &format!("{}:list", name(&server))).await;
    assert_eq!(by_list.unwrap().image.id, pulled.image.id);
    let reference: Reference = name(&server).parse().unwrap();
    let options = PullOptions {
        platform: Some("linux/s390x".parse().unwrap()),
        ..PullOptions::default()
    };
    let other = store.pull(&reference, &options, &quiet()).await.unwrap();
    assert_eq!(other.image.config.architecture, "s390x");
    let error = pull(&store, &format!("{}:none", name(&server)))
        .await
        .unwrap_err();
    assert_eq!(
        error.to_string(),
        format!(
            "no matching manifest for {} in the manifest list entries",
            sampan_oci::Platform::host()
        )
    );
}

#[tokio::test]
async fn a_moved_tag_leaves_the_old_image_dangling() {
    sampan_kernel::requires!(root);
    let (one, two) = (tar(&[("a", b"1")]), tar(&[("a", b"2")]));
    let (mut before, mut after) = (Repository::default(), Repository::default());
    before.image("latest", &[&one]);
    after.image("latest", &[&two]);
    let moved = Arc::new(AtomicUsize::new(0));
    let in_script = moved.clone();
    let server = ScriptedServer::start(move |asked| {
        let now = if in_script.load(Ordering::Relaxed) == 0 {
            &before
        } else {
            &after
        };
        now.answer(asked)
    });
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let old = pull(&store, &name(&server)).await.unwrap().image;
    moved.store(1, Ordering::Relaxed);
    let new = pull(&store, &name(&server)).await.unwrap();
    assert!(new.newer);
    let old = store.get(&old.id).unwrap();
    assert!(old.is_dangling());
    assert_eq!(store.find(&name(&server)).unwrap().id, new.image.id);
}

#[tokio::test]
async fn dropped_connections_are_resumed_in_the_stream() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let layer = tar(&[("big", &noise(3_000_000, 1))]);
    repository.image("latest", &[&layer]);
    let count = AtomicUsize::new(0);
    let server = ScriptedServer::start(move |asked| {
        let answer = repository.answer(asked);
        let cut = answer.body.len() > 1_000_000 && count.fetch_add(1, Ordering::Relaxed) < 2;
        Answer {
            cut: cut.then_some(900_000),
            ..answer
        }
    });
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let pulled = pull(&store, &name(&server)).await.unwrap();
    store
        .layers()
        .verify(&pulled.image.layers[0].diff_id)
        .unwrap();
    let ranges = server
        .asked()
        .iter()
        .filter(|a| a.range_start().is_some())
        .count();
    assert_eq!(ranges, 2);
}

#[tokio::test]
async fn what_came_before_a_failure_is_not_fetched_again() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let layer = tar(&[("big", &noise(3_000_000, 2))]);
    repository.image("latest", &[&layer]);
    let broken = Arc::new(AtomicUsize::new(1));
    let in_script = broken.clone();
    let server = ScriptedServer::start(move |asked| {
        let answer = repository.answer(asked);
        let first = answer.status == 200 && answer.body.len() > 1_000_000;
        match in_script.load(Ordering::Relaxed) {
            0 => answer,
            _ if first => Answer {
                cut: Some(2_000_000),
                ..answer
            },
            _ if asked.range_start().is_some() => Answer::new(404, ""),
            _ => answer,
        }
    });
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    pull(&store, &name(&server)).await.unwrap_err();
    assert_nothing(&store);
    drop(store);
    broken.store(0, Ordering::Relaxed);
    let store = open(root.path());
    let before = server.asked().len();
    let pulled = pull(&store, &name(&server)).await.unwrap();
    store
        .layers()
        .verify(&pulled.image.layers[0].diff_id)
        .unwrap();
    let asked = server.asked();
    let blob = asked[before..]
        .iter()
        .filter_map(sampan_testing::Asked::range_start);
    assert!(
        blob.min().is_some_and(|start| start >= 1_000_000),
        "{asked:?}"
    );
}

#[tokio::test]
async fn a_beginning_that_was_wrong_is_not_kept_for_ever() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let layer = tar(&[("big", &noise(3_000_000, 3))]);
    let blob = repository.blob(MediaType::OciLayerGzip, &gzip(&layer));
    repository.manifest(Some("latest"), &config(&[&layer]), vec![blob.clone()]);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let mut writer = store.content().resume(&blob.digest).unwrap();
    std::io::Write::write_all(&mut writer, &noise(100_000, 4)).unwrap();
    drop(writer);
    let server = repository.serve();
    let pulled = pull(&store, &name(&server)).await.unwrap();
    store
        .layers()
        .verify(&pulled.image.layers[0].diff_id)
        .unwrap();
}

#[tokio::test]
async fn a_layer_of_two_pulls_is_fetched_once() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let layer = tar(&[("big", &noise(1_000_000, 5))]);
    let common = Descriptor::of(MediaType::OciLayerGzip, &gzip(&layer)).digest;
    repository.image("a", &[&layer, &tar(&[("a", b"")])]);
    repository.image("b", &[&layer, &tar(&[("b", b"")])]);
    let server = ScriptedServer::start(move |asked| Answer {
        piece: 100_000,
        delay: Duration::from_millis(10),
        ..repository.answer(asked)
    });
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (a, b) = (
        format!("{}:a", name(&server)),
        format!("{}:b", name(&server)),
    );
    let (a, b) = tokio::join!(pull(&store, &a), pull(&store, &b));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!(a.image.layers[0].diff_id, b.image.layers[0].diff_id);
    let fetched = server
        .asked()
        .iter()
        .filter(|asked| asked.path.ends_with(&common.to_string()) && asked.method == "GET")
        .count();
    assert_eq!(fetched, 1);
}

#[tokio::test]
async fn all_layers_of_an_image_come_at_once() {
    sampan_kernel::requires!(root);
    let layers: Vec<Vec<u8>> = (0..8u8).map(|n| tar(&[("n", &[n])])).collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let mut repository = Repository::default();
    repository.image("latest", &layers);
    let blobs: HashSet<String> = layers
        .iter()
        .map(|layer| Digest::of(&gzip(layer)).to_string())
        .collect();
    // Nobody is answered before all have asked.
    let all = Arc::new(std::sync::Barrier::new(layers.len()));
    let server = ScriptedServer::start(move |asked| {
        if blobs.contains(asked.path.rsplit('/').next().unwrap()) {
            let _ = all.wait();
        }
        repository.answer(asked)
    });
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let image = name(&server);
    let pulled = tokio::time::timeout(Duration::from_secs(30), pull(&store, &image)).await;
    let pulled = pulled
        .expect("the layers come one after the other")
        .unwrap();
    assert_eq!(pulled.image.layers.len(), 8);
    // One pass: each blob was asked for once.
    let asked = server.asked();
    let fetched = asked.iter().filter(|asked| asked.path.contains("/blobs/"));
    assert_eq!(fetched.count(), 9);
}

#[tokio::test]
async fn an_image_may_have_one_layer_twice() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let layer = tar(&[]);
    repository.image("latest", &[&layer, &tar(&[("a", b"")]), &layer]);
    let server = repository.serve();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let pulled = pull(&store, &name(&server)).await.unwrap();
    assert_eq!(pulled.image.layers.len(), 3);
    assert_eq!(store.layers().list().len(), 2);
}

#[tokio::test]
async fn a_dropped_pull_leaves_no_image() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let layer = tar(&[("big", &noise(2_000_000, 6))]);
    repository.image("latest", &[&layer]);
    let slow = Arc::new(AtomicUsize::new(1));
    let in_script = slow.clone();
    let server = ScriptedServer::start(move |asked| Answer {
        piece: 50_000,
        delay: Duration::from_millis(50 * in_script.load(Ordering::Relaxed) as u64),
        ..repository.answer(asked)
    });
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let image = name(&server);
    let dropped = tokio::time::timeout(Duration::from_millis(700), pull(&store, &image)).await;
    assert!(dropped.is_err());
    assert_nothing(&store);
    slow.store(0, Ordering::Relaxed);
    pull(&store, &image).await.unwrap();
}

/// Pulls what cannot be an image and expects a clear refusal and nothing left.
async fn refused(repository: Repository, what: &str) -> Error {
    let server = repository.serve();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let start = Instant::now();
    let error = pull(&store, &name(&server)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invalid, "{what}: {error:?}");
    assert!(!error.to_string().is_empty());
    assert!(start.elapsed() < Duration::from_secs(60), "{what}");
    assert_nothing(&store);
    assert!(store.sweep(&HashSet::new()).is_ok());
    assert!(store.content().list().unwrap().is_empty());
    error
}

#[tokio::test]
async fn wrong_bytes_are_refused() {
    sampan_kernel::requires!(root);
    let good = tar(&[("a", b"good")]);
    let evil = tar(&[("a", b"evil")]);
    let mut repository = Repository::default();
    let blob = repository.blob(MediaType::OciLayerGzip, &gzip(&good));
    repository.manifest(Some("latest"), &config(&[&good]), vec![blob.clone()]);

    let mut other = repository.clone();
    let mut same_length = gzip(&good);
    let last = same_length.len() - 10;
    same_length[last] ^= 1;
    other.forge(&blob, &same_length);
    let error = refused(other, "a flipped bit").await;
    assert!(matches!(error, Error::Content(_)), "{error:?}");

    let mut other = repository.clone();
    other.forge(&blob, &[gzip(&good), vec![0; 10]].concat());
    refused(other, "a blob that is too long").await;

    let mut other = Repository::default();
    let blob = other.blob(MediaType::OciLayerGzip, &gzip(&evil));
    other.manifest(Some("latest"), &config(&[&good]), vec![blob]);
    let error = refused(other, "another diff ID").await;
    assert!(matches!(error, Error::DiffId { .. }), "{error:?}");

    let mut other = Repository::default();
    let blob = other.blob(MediaType::OciLayerGzip, b"no gzip at all");
    other.manifest(Some("latest"), &config(&[b"no gzip at all"]), vec![blob]);
    refused(other, "no tar").await;

    let mut other = Repository::default();
    let cut = gzip(&good);
    let blob = other.blob(MediaType::OciLayerGzip, &cut[..cut.len() - 4]);
    other.manifest(Some("latest"), &config(&[&good]), vec![blob]);
    refused(other, "a gzip that ends early").await;

    let mut other = Repository::default();
    let nested = gzip(&good);
    let blob = other.blob(MediaType::OciLayerGzip, &gzip(&nested));
    other.manifest(Some("latest"), &config(&[&nested]), vec![blob]);
    refused(other, "gzip in gzip").await;

    // Empty members without end, and frames to be skipped.
    let skip = [
        &[0x50, 0x2a, 0x4d, 0x18, 0, 0, 16, 0][..],
        &vec![0; 1 << 20],
    ]
    .concat();
    for (nothing, count, media_type) in [
        (gzip(b""), 1_000_000, MediaType::OciLayerGzip),
        (skip, 20, MediaType::OciLayerZstd),
    ] {
        let mut other = Repository::default();
        let blob = other.blob(media_type, &nothing.repeat(count));
        other.manifest(Some("latest"), &config(&[&good]), vec![blob]);
        refused(other, "a blob of nothing").await;
    }

    let mut other = Repository::default();
    let blob = other.blob(MediaType::OciLayerGzip, b"BZh91AY&SY rest");
    other.manifest(Some("latest"), &config(&[&good]), vec![blob]);
    let error = refused(other, "bzip2").await;
    assert_eq!(error.to_string(), "bzip2 compression is not supported");
}

#[tokio::test]
async fn manifests_that_contradict_themselves_are_refused() {
    sampan_kernel::requires!(root);
    let layer = tar(&[("a", b"")]);
    let gz = gzip(&layer);
    let new = || {
        let mut repository = Repository::default();
        let blob = repository.blob(MediaType::OciLayerGzip, &gz);
        (repository, blob)
    };

    let (mut r, blob) = new();
    r.manifest(Some("latest"), &config(&[&layer, &layer]), vec![blob]);
    refused(r, "fewer layers than diff IDs").await;

    let (mut r, blob) = new();
    r.manifest(Some("latest"), &config(&[]), vec![blob]);
    refused(r, "more layers than diff IDs").await;

    let (mut r, blob) = new();
    let foreign = Descriptor {
        media_type: MediaType::DockerForeignLayer,
        urls: vec!["http://169.254.169.254/".into()],
        ..blob
    };
    r.manifest(Some("latest"), &config(&[&layer]), vec![foreign]);
    refused(r, "a foreign layer").await;

    let (mut r, blob) = new();
    let odd = Descriptor {
        media_type: "application/x-tar+encrypted".into(),
        ..blob
    };
    r.manifest(Some("latest"), &config(&[&layer]), vec![odd]);
    refused(r, "an unknown layer").await;

    let (mut r, blob) = new();
    let mut windows = config(&[&layer]);
    windows.os = "windows".into();
    r.manifest(Some("latest"), &windows, vec![blob]);
    refused(r, "another system").await;

    let (mut r, blob) = new();
    let size = blob.size;
    let lie = Descriptor {
        size: size + 1,
        ..blob
    };
    r.manifest(Some("latest"), &config(&[&layer]), vec![lie]);
    let server = r.serve();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    pull(&store, &name(&server)).await.unwrap_err();
    assert_nothing(&store);

    for (what, media_type, text) in [
        ("no JSON", MediaType::OciManifest, "<html>".to_owned()),
        ("schema 1", MediaType::DockerSchema1Signed, r#"{"schemaVersion":1,"fsLayers":[]}"#.into()),
        ("depth", MediaType::OciIndex, "[".repeat(1_000_000)),
        (
            "both kinds",
            MediaType::OciManifest,
            r#"{"schemaVersion":2,"manifests":[],"layers":[],"config":{}}"#.into(),
        ),
        (
            "another type inside",
            MediaType::OciIndex,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","manifests":[]}"#.into(),
        ),
        ("too long", MediaType::OciManifest, " ".repeat(5 << 20)),
    ] {
        let mut r = Repository::default();
        r.document(Some("latest"), media_type, text.as_bytes());
        refused(r, what).await;
    }
}

#[tokio::test]
async fn nested_indexes_end() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let mut entry = repository.image("inner", &[&tar(&[])]);
    for _ in 0..1000 {
        entry = repository.index(Some("latest"), vec![entry]);
    }
    refused(repository, "depth 1,000").await;
    // A manifest that calls itself an index, and one whose length is a lie.
    let mut repository = Repository::default();
    let entry = repository.image("inner", &[&tar(&[])]);
    let swapped = Descriptor {
        media_type: MediaType::OciIndex,
        ..entry.clone()
    };
    repository.index(Some("latest"), vec![swapped]);
    refused(repository.clone(), "swapped type").await;
    let long = Descriptor { size: 1, ..entry };
    repository.index(Some("latest"), vec![long]);
    refused(repository, "wrong length").await;
}

#[tokio::test]
async fn long_lists_are_bounded() {
    sampan_kernel::requires!(root);
    let layer = tar(&[("a", b"")]);
    let mut repository = Repository::default();
    let blob = repository.blob(MediaType::OciLayerGzip, &gzip(&layer));
    let many: Vec<&[u8]> = vec![&layer; 10_000];
    repository.manifest(Some("latest"), &config(&many), vec![blob; 10_000]);
    let error = refused(repository, "10,000 layers").await;
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("10000 layers"), "{cause}");

    // As many as the bytes of an index may name, and none of them fits.
    let mut repository = Repository::default();
    let mut entry = repository.image("inner", &[&layer]);
    entry.platform = Some("linux/s390x".parse().unwrap());
    repository.index(Some("latest"), vec![entry.clone(); 20_000]);
    let server = repository.serve();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let start = Instant::now();
    let error = pull(&store, &name(&server)).await.unwrap_err();
    assert!(matches!(error, Error::NoPlatform { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(60));
    assert_eq!(server.asked().len(), 1);
    assert_nothing(&store);

    let mut repository = Repository::default();
    repository.index(Some("latest"), vec![entry; 100_000]);
    let server = repository.serve();
    let error = pull(&store, &name(&server)).await.unwrap_err();
    assert!(error.to_string().contains("larger than"), "{error}");
    assert_nothing(&store);
}

#[tokio::test]
async fn an_index_cannot_lie_about_an_images_platform() {
    sampan_kernel::requires!(root);
    let layer = tar(&[("a", b"")]);
    let mut repository = Repository::default();
    let blob = repository.blob(MediaType::OciLayerGzip, &gzip(&layer));
    let mut foreign = config(&[&layer]);
    foreign.architecture = "s390x".into();
    let mut entry = repository.manifest(None, &foreign, vec![blob]);
    entry.platform = Some(sampan_oci::Platform::host());
    repository.index(Some("latest"), vec![entry]);
    let server = repository.serve();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let reference: Reference = name(&server).parse().unwrap();
    let options = PullOptions {
        platform: Some(sampan_oci::Platform::host()),
        ..PullOptions::default()
    };
    let error = store
        .pull(&reference, &options, &quiet())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::WrongPlatform { .. }), "{error:?}");
    assert_nothing(&store);
    // Without a wish the image comes, and says itself what it is.
    let pulled = pull(&store, &name(&server)).await.unwrap();
    assert_eq!(pulled.image.config.architecture, "s390x");
}

#[tokio::test]
async fn bombs_do_not_go_off() {
    sampan_kernel::requires!(root);
    let zeros = tar(&[("zeros", &vec![0; 64 << 20])]);
    let mut bomb = Vec::new();
    for _ in 0..4 {
        bomb.extend(gzip(&zeros[..zeros.len() - 1024]));
    }
    let packed = [bomb, zstd::encode_all(&zeros[..], 19).unwrap()];
    for (packed, media_type) in packed
        .iter()
        .zip([MediaType::OciLayerGzip, MediaType::OciLayerZstd])
    {
        let mut repository = Repository::default();
        let blob = repository.blob(media_type, packed);
        repository.manifest(Some("latest"), &config(&[&zeros]), vec![blob]);
        let server = repository.serve();
        let root = tempfile::tempdir().unwrap();
        let limits = Limits {
            free_ratio: 1 << 20,
            ratio: 50,
            ..Limits::default()
        };
        let store = open_with(
            root.path(),
            Options {
                limits,
                ..Options::default()
            },
        );
        let error = pull(&store, &name(&server)).await.unwrap_err();
        assert!(matches!(error, Error::TooLarge { .. }), "{error:?}");
        assert_nothing(&store);
        let full = Limits {
            reserve: u64::MAX,
            ..Limits::default()
        };
        drop(store);
        let store = open_with(
            root.path(),
            Options {
                limits: full,
                ..Options::default()
            },
        );
        let error = pull(&store, &name(&server)).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{error:?}");
        assert_nothing(&store);
    }
}

#[tokio::test]
async fn a_digest_that_was_asked_for_is_what_comes() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let good = repository.image("latest", &[&tar(&[("a", b"")])]).digest;
    let server = repository.serve();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let pulled = pull(&store, &format!("{}@{good}", name(&server)))
        .await
        .unwrap();
    assert!(pulled.image.tags.is_empty());
    assert_eq!(pulled.image.digests.len(), 1);
    let other = Digest::of(b"other");
    let error = pull(&store, &format!("{}@{other}", name(&server)))
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

/// Pulls without end until it is killed. Run by `a_kill_at_any_moment_leaves_whole_images_only`.
#[tokio::test]
#[ignore = "the victim of another test"]
async fn victim() {
    let (Ok(root), Ok(image)) = (std::env::var("VICTIM_ROOT"), std::env::var("VICTIM_IMAGE"))
    else {
        return;
    };
    let store = open(root.as_ref());
    loop {
        pull(&store, &image).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
        let force = sampan_images::RemoveOptions {
            force: true,
            ..sampan_images::RemoveOptions::default()
        };
        store.remove(&image, &force, &[]).unwrap();
    }
}

#[tokio::test]
async fn a_kill_at_any_moment_leaves_whole_images_only() {
    sampan_kernel::requires!(root);
    let mut repository = Repository::default();
    let layers: Vec<_> = (0..3)
        .map(|i| tar(&[("big", &noise(100_000, 11 + 2 * i))]))
        .collect();
    let layers: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    repository.image("latest", &layers);
    let server = repository.serve();
    let root = tempfile::tempdir().unwrap();
    let image = name(&server);
    let mut whole = 0;
    for round in 0u64..25 {
        let mut victim = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "victim", "--ignored"])
            .env("VICTIM_ROOT", root.path())
            .env("VICTIM_IMAGE", &image)
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        tokio::time::sleep(Duration::from_millis(20 + round * 13 % 170)).await;
        victim.kill().unwrap();
        victim.wait().unwrap();
        let store = open(root.path());
        for image in store.list() {
            whole += 1;
            for layer in image.layers.iter() {
                store.layers().verify(&layer.diff_id).unwrap();
            }
        }
        store.sweep(&HashSet::new()).unwrap();
        let kept = store.list().first().map_or(0, |image| image.layers.len());
        assert_eq!(store.layers().list().len(), kept, "round {round}");
    }
    let store = open(root.path());
    let pulled = pull(&store, &image).await.unwrap();
    assert_eq!(pulled.image.layers.len(), 3);
    println!("{whole} of 25 kills left a whole image");
}
