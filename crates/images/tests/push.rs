//! Pushes to Debian's registry, and what is known of them afterwards.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod support;

use sampan_images::{
    Error, ErrorKind, ImageStore, LayerStatus, Progress, ProgressSink, PullOptions, PushOptions,
};
use sampan_oci::media_type::Compression;
use sampan_oci::{Digest, MediaType, Platform, Reference};
use sampan_testing::{Fixture, Registry, fixture};
use support::{Repository, config, drain, gzip, noise, open, quiet, tar};

const PUSH: fn() -> PushOptions = PushOptions::default;

async fn push_with(
    store: &ImageStore,
    name: &str,
    options: &PushOptions,
) -> Result<Vec<Progress>, Error> {
    let reference: Reference = name.parse()?;
    let (sink, mut news) = ProgressSink::channel();
    store.push(&reference, options, &sink).await?;
    Ok(drain(&mut news))
}

async fn push(store: &ImageStore, name: &str) -> Vec<Progress> {
    push_with(store, name, &PUSH()).await.unwrap()
}

async fn pull(store: &ImageStore, name: &str, platform: Option<&str>) {
    let options = PullOptions {
        platform: platform.map(|text| text.parse().unwrap()),
        ..PullOptions::default()
    };
    let reference = name.parse().unwrap();
    store.pull(&reference, &options, &quiet()).await.unwrap();
}

fn digest(news: &[Progress]) -> Digest {
    match news.last() {
        Some(Progress::Pushed { digest, .. }) => *digest,
        other => panic!("{other:?}"),
    }
}

fn layers(news: &[Progress], wanted: impl Fn(&LayerStatus) -> bool) -> usize {
    news.iter()
        .filter(|news| matches!(news, Progress::Layer { status, .. } if wanted(status)))
        .count()
}

/// An archive of an image with plain layers, as `docker save` makes them.
fn archive(name: &str, layers: &[&[u8]]) -> Vec<u8> {
    let config = serde_json::to_vec(&config(layers)).unwrap();
    let names: Vec<String> = (0..layers.len())
        .map(|i| format!("{i}/layer.tar"))
        .collect();
    let manifest =
        serde_json::json!([{"Config": "c.json", "RepoTags": [name], "Layers": names}]).to_string();
    let mut files: Vec<(&str, &[u8])> =
        vec![("c.json", &config), ("manifest.json", manifest.as_bytes())];
    files.extend(names.iter().map(String::as_str).zip(layers.iter().copied()));
    tar(&files)
}

#[tokio::test]
async fn a_loaded_image_is_packed_once_and_pushed_alike_ever_after() {
    sampan_kernel::requires!(root);
    let registry = Registry::start();
    let (one, two) = (
        tar(&[("a", &noise(3_000_000, 1))]),
        tar(&[("b", b"text ".repeat(100_000).as_slice())]),
    );
    let name = format!("{}/app:1", registry.address());
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let bytes = archive(&name, &[&one, &two, &one]);
    store.load(&bytes[..], None, &quiet()).unwrap();
    let news = push(&store, &name).await;
    assert_eq!(layers(&news, |s| *s == LayerStatus::Pushed), 2, "{news:?}");
    assert_eq!(layers(&news, |s| *s == LayerStatus::LayerExists), 1);
    let first = digest(&news);
    let image = store.find(&name).unwrap();
    assert!(image.layers.iter().all(|layer| layer.blob.is_some()));
    assert_eq!(image.manifest_digest(), Some(first));
    assert_eq!(
        image.repo_digests(),
        [format!("{}/app@{first}", registry.address())]
    );
    // Another engine, which knows nothing, makes the same of it.
    let other_root = tempfile::tempdir().unwrap();
    let other = open(other_root.path());
    other.load(&bytes[..], None, &quiet()).unwrap();
    assert_eq!(digest(&push(&other, &name).await), first);
    // What was pushed comes back.
    let third_root = tempfile::tempdir().unwrap();
    let third = open(third_root.path());
    pull(&third, &name, None).await;
    assert_eq!(third.find(&name).unwrap().id, image.id);
    // A store that was closed meanwhile, too.
    drop(store);
    let store = open(root.path());
    let news = push(&store, &name).await;
    assert_eq!(layers(&news, |s| *s == LayerStatus::LayerExists), 3);
    assert_eq!(digest(&news), first);
}

#[tokio::test]
async fn a_damaged_blob_is_not_what_is_pushed() {
    sampan_kernel::requires!(root);
    let (one, two) = (Registry::start(), Registry::start());
    let layer = tar(&[("a", &noise(2_000_000, 5))]);
    let (first, second) = (
        format!("{}/app:1", one.address()),
        format!("{}/app:1", two.address()),
    );
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    store
        .load(&archive(&first, &[&layer])[..], None, &quiet())
        .unwrap();
    let digest_before = digest(&push(&store, &first).await);
    let blob = store.find(&first).unwrap().layers[0].blob.clone().unwrap();
    let path = root
        .path()
        .join("content/blobs/sha256")
        .join(blob.digest.hex());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1_000_000] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    store.tag(&first, &second).unwrap();
    assert_eq!(digest(&push(&store, &second).await), digest_before);
}

#[tokio::test]
async fn images_of_several_machines_are_pushed_whole_when_all_are_here() {
    sampan_kernel::requires!(root);
    let layer = |seed| tar(&[("a", &noise(10_000, seed))]);
    let (amd, arm) = (layer(1), layer(2));
    let mut repository = Repository::default();
    let mut entries = Vec::new();
    for (layer, architecture) in [(&amd, "amd64"), (&arm, "arm64")] {
        let mut config = config(&[layer]);
        config.architecture = architecture.into();
        let blob = repository.blob(MediaType::OciLayerGzip, &gzip(layer));
        let mut entry = repository.manifest(None, &config, vec![blob]);
        entry.platform = Some(Platform {
            architecture: architecture.into(),
            os: "linux".into(),
            .."linux/amd64".parse().unwrap()
        });
        entries.push(entry);
    }
    let index = repository.index(Some("latest"), entries.clone()).digest;
    let server = repository.serve();
    let source = format!("{}/app", server.address());
    let target = Registry::start();
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    pull(&store, &source, Some("linux/amd64")).await;
    let part = format!("{}/part:1", target.address());
    store.tag(&source, &part).unwrap();
    let news = push(&store, &part).await;
    assert_eq!(digest(&news), entries[0].digest, "only one is here");
    let told = |news: &Progress| matches!(news, Progress::OnlyManifest { index: i, .. } if i.digest == index);
    assert!(news.iter().any(told));
    pull(&store, &source, Some("linux/arm64")).await;
    let whole = format!("{}/whole:1", target.address());
    store.tag(&source, &whole).unwrap();
    assert_eq!(digest(&push(&store, &whole).await), index);
    // From there both can be had.
    let other_root = tempfile::tempdir().unwrap();
    let other = open(other_root.path());
    for platform in ["linux/amd64", "linux/arm64"] {
        pull(&other, &whole, Some(platform)).await;
        let image = other.find(&whole).unwrap();
        assert_eq!(format!("linux/{}", image.config.architecture), platform);
    }
    // One is enough where the registry has the other already.
    let third_root = tempfile::tempdir().unwrap();
    let third = open(third_root.path());
    pull(&third, &whole, Some("linux/amd64")).await;
    let neighbour = format!("{}/neighbour:1", target.address());
    third.tag(&whole, &neighbour).unwrap();
    let news = push(&third, &neighbour).await;
    assert_eq!(digest(&news), index);
    let mounted = |status: &LayerStatus| matches!(status, LayerStatus::MountedFrom(_));
    assert_eq!(layers(&news, mounted), 1, "{news:?}");
    let only = PushOptions {
        platform: Some("linux/arm64".parse().unwrap()),
        ..PUSH()
    };
    let news = push_with(&other, &whole, &only).await.unwrap();
    assert_eq!(digest(&news), entries[1].digest);
    let wrong = PushOptions {
        platform: Some("linux/s390x".parse().unwrap()),
        ..PUSH()
    };
    let error = push_with(&other, &whole, &wrong).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
}

#[tokio::test]
async fn what_is_packed_on_request_does_not_change_what_the_image_is() {
    sampan_kernel::requires!(root);
    let registry = Registry::start();
    let source = registry.push(&fixture(Fixture::Busybox));
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    pull(&store, &source, None).await;
    let before = store.find(&source).unwrap();
    let name = format!("{}/zstd:1", registry.address());
    store.tag(&source, &name).unwrap();
    let zstd = PushOptions {
        compression: Some(Compression::Zstd),
        ..PUSH()
    };
    let first = digest(&push_with(&store, &name, &zstd).await.unwrap());
    assert_ne!(Some(first), before.manifest_digest());
    assert_eq!(
        digest(&push_with(&store, &name, &zstd).await.unwrap()),
        first
    );
    let after = store.find(&source).unwrap();
    assert_eq!(after.manifest, before.manifest);
    assert_eq!(after.layers[0].blob, before.layers[0].blob);
    assert_eq!(after.layers[0].others.len(), 1);
    assert_eq!(
        Some(digest(&push(&store, &name).await)),
        before.manifest_digest()
    );
}

#[tokio::test]
async fn packed_layers_of_an_archive_are_pushed_as_they_came() {
    sampan_kernel::requires!(root);
    let registry = Registry::start();
    let tmp = tempfile::tempdir().unwrap();
    let file = tmp.path().join("oci.tar").display().to_string();
    let image = fixture(Fixture::Busybox);
    let name = format!("{}/app:1", registry.address());
    let target = format!("oci-archive:{file}:{name}");
    let _ = sampan_testing::run("skopeo", &["copy", "--quiet", &image.layout(), &target]).ok();
    let source = format!("oci-archive:{file}");
    let wanted =
        sampan_testing::run("skopeo", &["inspect", "--format", "{{.Digest}}", &source]).ok();
    let store = open(&tmp.path().join("root"));
    let bytes = std::fs::read(&file).unwrap();
    store.load(&bytes[..], None, &quiet()).unwrap();
    assert_eq!(digest(&push(&store, &name).await).to_string(), wanted);
    // Nothing is kept of an archive whose images are not.
    let before = store.content().list().unwrap().len();
    let (half, _) = bytes.split_at(bytes.len() - 4096);
    let _ = store.load(half, None, &quiet());
    assert_eq!(store.content().list().unwrap().len(), before);
}

#[tokio::test]
async fn a_push_to_nobody_says_so() {
    sampan_kernel::requires!(root);
    let layer = tar(&[("a", b"x")]);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let name = format!("127.0.0.1:{}/app:1", sampan_testing::free_port());
    store
        .load(&archive(&name, &[&layer])[..], None, &quiet())
        .unwrap();
    let error = push_with(&store, &name, &PUSH()).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable, "{error}");
    let error = push_with(&store, "no/such:1", &PUSH()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "An image does not exist locally with the tag: no/such"
    );
}

#[test]
fn what_is_saved_is_loaded_as_the_same_images() {
    sampan_kernel::requires!(root);
    let (one, two) = (
        tar(&[("a", &noise(100_000, 3))]),
        // No layer could be plainer.
        vec![0; 1024],
    );
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    for (name, layers) in [("x:1", &[&one[..], &two][..]), ("y:1", &[&one[..]])] {
        store
            .load(&archive(name, layers)[..], None, &quiet())
            .unwrap();
    }
    store.tag("x:1", "x:2").unwrap();
    let names = ["x".to_owned(), "y:1".to_owned()];
    let saved = store.save(&names, None).unwrap();
    let size = saved.size();
    let mut bytes = Vec::new();
    saved.write(&mut bytes).unwrap();
    assert_eq!(bytes.len() as u64, size);
    // The common layer is there once.
    assert!(bytes.len() < 2 * one.len());
    let other_root = tempfile::tempdir().unwrap();
    let other = open(other_root.path());
    let loaded = other.load(&bytes[..], None, &quiet()).unwrap();
    assert_eq!(loaded.len(), 2);
    for name in ["x:1", "x:2", "y:1"] {
        let (here, there) = (store.find(name).unwrap(), other.find(name).unwrap());
        assert_eq!(here.id, there.id, "{name}");
        assert_eq!(here.diff_ids(), there.diff_ids(), "{name}");
    }
    let mut again = Vec::new();
    let saved = other.save(&names, None).unwrap();
    saved.write(&mut again).unwrap();
    assert!(again == bytes);
    let error = store.save(&["nothing".into()], None).unwrap_err();
    assert_eq!(error.to_string(), "No such image: nothing:latest");
}
