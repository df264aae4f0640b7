//! Images that come without a registry, and what becomes of them.

#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;
use std::path::Path;

use sampan_images::{
    ContainerUse, Error, ErrorKind, Freed, Image, ImageStore, ImportOptions, LayerStatus, Progress,
    ProgressSink, RemoveOptions, Removed,
};
use sampan_oci::digest::{ChainId, ImageId};
use sampan_testing::{Fixture, fixture, run};
use support::{config, drain, gzip, noise, open, quiet, tar};

/// An archive of Docker's older form: a directory for each layer, links for common ones.
fn old_archive(name: Option<&str>, layers: &[&[u8]]) -> Vec<u8> {
    let config = serde_json::to_vec(&config(layers)).unwrap();
    let names = name.map_or("null".to_owned(), |name| format!("[\"{name}\"]"));
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: &str, data: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, path, data).unwrap();
    };
    let mut paths = Vec::new();
    for (i, layer) in layers.iter().enumerate() {
        add(&format!("layer{i}/VERSION"), b"1.0");
        add(&format!("layer{i}/json"), b"{}");
        add(&format!("layer{i}/layer.tar"), layer);
        paths.push(format!("\"layer{i}/layer.tar\""));
    }
    add("config.json", &config);
    let manifest = format!(
        r#"[{{"Config":"config.json","RepoTags":{names},"Layers":[{}]}}]"#,
        paths.join(",")
    );
    add("manifest.json", manifest.as_bytes());
    builder.into_inner().unwrap()
}

fn load(store: &ImageStore, archive: &[u8]) -> Result<Vec<std::sync::Arc<Image>>, Error> {
    let loaded = store.load(archive, None, &quiet())?;
    Ok(loaded.into_iter().map(|l| l.image).collect())
}

fn container(image: &Image, running: bool) -> ContainerUse {
    ContainerUse {
        container: "0123456789abcdef".into(),
        image: image.id,
        layers: image.diff_ids(),
        running,
    }
}

const FORCE: &RemoveOptions = &RemoveOptions {
    force: true,
    prune: true,
    platforms: Vec::new(),
};

#[test]
fn archives_of_every_maker_are_loaded() {
    sampan_kernel::requires!(root);
    let source = fixture(Fixture::Busybox);
    let made = tempfile::tempdir().unwrap();
    let path = |name: &str| made.path().join(name).display().to_string();
    let _ = std::fs::create_dir(made.path().join("layout"));
    for (target, file) in [
        (
            format!("docker-archive:{}:bb:1", path("docker.tar")),
            "docker.tar",
        ),
        (format!("oci-archive:{}:bb:1", path("oci.tar")), "oci.tar"),
    ] {
        let _ = run("skopeo", &["copy", "--quiet", &source.layout(), &target]).ok();
        let plain = std::fs::read(made.path().join(file)).unwrap();
        let mut diff_ids = HashSet::new();
        for archive in [
            plain.clone(),
            gzip(&plain),
            zstd::encode_all(&plain[..], 1).unwrap(),
        ] {
            let root = tempfile::tempdir().unwrap();
            let store = open(root.path());
            let images = load(&store, &archive).unwrap_or_else(|e| panic!("{file}: {e:?}"));
            assert_eq!(images[0].repo_tags(), ["bb:1"]);
            store.layers().verify(&images[0].layers[0].diff_id).unwrap();
            diff_ids.insert((images[0].id, images[0].layers[0].diff_id));
        }
        assert_eq!(diff_ids.len(), 1, "{file}");
    }
}

#[test]
fn news_of_a_load_is_dockers() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let big = tar(&[("big", &noise(2_000_000, 1))]);
    let (sink, mut news) = ProgressSink::channel();
    store
        .load(&old_archive(Some("a:1"), &[&big])[..], None, &sink)
        .unwrap();
    let told = drain(&mut news);
    let total = big.len() as u64;
    assert!(told.contains(&Progress::Layer {
        id: "layer0".into(),
        status: LayerStatus::Loading {
            current: total,
            total
        }
    }));
    assert_eq!(
        told.last(),
        Some(&Progress::LoadedImage { name: "a:1".into() })
    );
    let nameless = tar(&[("x", b"y")]);
    let loaded = store
        .load(&old_archive(None, &[&nameless])[..], None, &sink)
        .unwrap();
    let id = loaded[0].image.id;
    assert_eq!(drain(&mut news).last(), Some(&Progress::LoadedImageId(id)));
    let before = store.find("a:1").unwrap().id;
    store
        .load(
            &old_archive(Some("a:1"), &[&nameless, &big])[..],
            None,
            &sink,
        )
        .unwrap();
    let renamed = Progress::Renamed {
        name: "a:1".into(),
        old: before,
    };
    assert!(drain(&mut news).contains(&renamed));
    assert!(store.get(&before).unwrap().is_dangling());
}

#[test]
fn bad_archives_leave_nothing() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = tar(&[("a", b"1")]);
    let good = old_archive(Some("a:1"), &[&layer, &tar(&[("b", b"2")])]);
    for cut in [0, 700, good.len() / 2, good.len() - 3000] {
        assert!(load(&store, &good[..cut]).is_err(), "{cut}");
    }
    let packed = gzip(&good);
    assert!(load(&store, &packed[..packed.len() / 2]).is_err());
    assert!(load(&store, b"BZh91AY&SY").is_err());
    assert!(load(&store, &noise(100_000, 1)).is_err());
    let error = load(&store, &layer).unwrap_err();
    assert!(
        error.hint().is_some_and(|hint| hint.contains("import")),
        "{error:?}"
    );
    // The configuration names other layers than the archive has.
    let mut wrong = good.clone();
    let hex = sampan_oci::Digest::of(&layer).hex();
    let at = wrong.windows(64).position(|w| w == hex.as_bytes()).unwrap();
    wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
    let error = load(&store, &wrong).unwrap_err();
    assert!(matches!(error, Error::DiffId { .. }), "{error:?}");
    assert!(store.list().is_empty());
    assert!(store.layers().list().is_empty());
    assert_eq!(load(&store, &good).unwrap().len(), 1);
}

#[test]
fn a_failed_load_takes_no_layer_of_others_away() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = tar(&[("a", b"1")]);
    let image = load(&store, &old_archive(Some("a:1"), &[&layer]))
        .unwrap()
        .remove(0);
    let uses = [container(&image, false)];
    store.remove("a:1", FORCE, &uses).unwrap();
    assert_eq!(store.layers().list().len(), 1, "a container needs it");
    let broken = old_archive(Some("b:1"), &[&layer]);
    assert!(load(&store, &broken[..broken.len() - 2000]).is_err());
    assert_eq!(store.layers().list().len(), 1);
}

#[test]
fn imports_become_images_of_one_layer() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let layer = tar(&[("etc/hello", b"world")]);
    let options = ImportOptions {
        name: Some("base:1".parse().unwrap()),
        message: "from a test".into(),
        source: "-".into(),
        changes: vec!["CMD [\"sh\"]".into(), "ENV A=1".into()],
        platform: None,
    };
    let mut ids = HashSet::new();
    for bytes in [
        layer.clone(),
        gzip(&layer),
        zstd::encode_all(&layer[..], 1).unwrap(),
    ] {
        let image = store.import(&bytes[..], &options, &quiet()).unwrap();
        assert_eq!(image.repo_tags(), ["base:1"]);
        assert_eq!(image.config.config.cmd.as_deref().unwrap(), ["sh"]);
        assert_eq!(image.config.comment, "from a test");
        assert_eq!(image.size, 5);
        let history = image.history();
        assert_eq!((history.len(), history[0].size), (1, 5));
        assert_eq!(history[0].tags, ["base:1"]);
        ids.insert(image.layers[0].diff_id);
    }
    assert_eq!(ids.len(), 1);
    for (bytes, changes) in [(&b"no tar"[..], "CMD x"), (&layer, "RUN x")] {
        let bad = ImportOptions {
            changes: vec![changes.into()],
            ..ImportOptions::default()
        };
        let error = store.import(bytes, &bad, &quiet()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    }
}

#[test]
fn images_are_found_by_name_and_id() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    for i in 0..40 {
        let layer = tar(&[("n", format!("{i}").as_bytes())]);
        load(&store, &old_archive(Some(&format!("app:{i}")), &[&layer])).unwrap();
    }
    let image = store.find("app:7").unwrap();
    for text in [
        "docker.io/library/app:7".to_owned(),
        image.id.to_string(),
        image.id.hex(),
        image.id.short(),
        format!("sha256:{}", image.id.short()),
    ] {
        assert_eq!(store.find(&text).unwrap().id, image.id, "{text}");
    }
    let first = &image.id.hex()[..1];
    let alike = store
        .list()
        .iter()
        .filter(|i| i.id.hex().starts_with(first))
        .count();
    if alike > 1 {
        let error = store.find(first).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
        assert!(matches!(error, Error::Ambiguous { ids, .. } if ids.len() == alike));
    }
    for (text, message) in [
        ("app", "No such image: app:latest"),
        ("app:99", "No such image: app:99"),
        ("0000000000000", "No such image: 0000000000000:latest"),
    ] {
        let error = store.find(text).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(error.to_string(), message);
    }
    for text in ["", "UPPER", "a b", "../../etc/passwd", "a\0b", ":", "@"] {
        assert_eq!(
            store.find(text).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{text:?}"
        );
    }
}

#[test]
fn tags_move_between_images() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let one = load(&store, &old_archive(Some("one"), &[&tar(&[("a", b"1")])]))
        .unwrap()
        .remove(0);
    let two = load(&store, &old_archive(Some("two"), &[&tar(&[("a", b"2")])]))
        .unwrap()
        .remove(0);
    let tagged = store.tag("one", "host:5000/x/y:z").unwrap();
    assert_eq!(tagged.repo_tags(), ["host:5000/x/y:z", "one:latest"]);
    store.tag(&two.id.short(), "one").unwrap();
    assert_eq!(store.find("one").unwrap().id, two.id);
    assert_eq!(store.get(&one.id).unwrap().repo_tags(), ["host:5000/x/y:z"]);
    let digest = format!("x@{}", one.id);
    for target in [&digest, "sha256:abc", "", "UP"] {
        assert_eq!(
            store.tag("two", target).unwrap_err().kind(),
            ErrorKind::Invalid,
            "{target:?}"
        );
    }
    assert_eq!(
        store.tag("none", "x").unwrap_err().kind(),
        ErrorKind::NotFound
    );
    drop(store);
    assert_eq!(open(root.path()).find("one").unwrap().id, two.id);
}

/// Two images with one layer in common; the second has two names.
fn two_images(root: &Path) -> (ImageStore, std::sync::Arc<Image>, std::sync::Arc<Image>) {
    let store = open(root);
    let base = tar(&[("base", b"b")]);
    let one = load(&store, &old_archive(Some("one"), &[&base]))
        .unwrap()
        .remove(0);
    let two = old_archive(Some("two"), &[&base, &tar(&[("top", b"t")])]);
    load(&store, &two).unwrap();
    let two = store.tag("two", "alias:1").unwrap();
    (store, one, two)
}

#[test]
fn removal_reports_names_then_image_then_layers() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let (store, one, two) = two_images(root.path());
    let untagged = |name: &str, image: ImageId| Removed::Untagged {
        name: name.into(),
        image,
    };
    let removed = store
        .remove("alias:1", &RemoveOptions::default(), &[])
        .unwrap();
    assert_eq!(removed, [untagged("alias:1", two.id)]);
    let removed = store.remove("two", &RemoveOptions::default(), &[]).unwrap();
    let top = ChainId::of(&two.diff_ids()).unwrap();
    assert_eq!(
        removed,
        [
            untagged("two:latest", two.id),
            Removed::Deleted(two.id),
            Removed::DeletedLayer(top)
        ],
        "the common layer stays"
    );
    assert_eq!(store.layers().list().len(), 1);
    let removed = store
        .remove(&one.id.short(), &RemoveOptions::default(), &[])
        .unwrap();
    assert_eq!(removed.len(), 3);
    assert!(store.layers().list().is_empty());
    assert!(store.list().is_empty());
}

#[test]
fn what_is_in_the_way_is_said_in_dockers_words() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let (store, one, two) = two_images(root.path());
    let plain = &RemoveOptions::default();
    let message = |text: &str, options: &RemoveOptions, uses: &[ContainerUse]| {
        let error = store.remove(text, options, uses).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Conflict, "{error:?}");
        assert!(error.hint().is_some(), "{error:?}");
        error.to_string()
    };
    let (id, short) = (one.id.to_string(), one.id.short());
    let stopped = [container(&one, false)];
    let running = [container(&one, true)];
    assert_eq!(
        message("one", plain, &stopped),
        format!(
            "conflict: unable to remove repository reference \"one\" (must force) - container 0123456789ab is using its referenced image {short}"
        )
    );
    assert_eq!(
        message(&id, plain, &stopped),
        format!(
            "conflict: unable to delete {short} (must be forced) - image is being used by stopped container 0123456789ab"
        )
    );
    for options in [plain, FORCE] {
        assert_eq!(
            message(&id, options, &running),
            format!(
                "conflict: unable to delete {short} (cannot be forced) - image is being used by running container 0123456789ab"
            )
        );
    }
    assert!(message("one", FORCE, &running).contains("cannot be forced"));
    assert_eq!(
        store.get(&one.id).unwrap().repo_tags(),
        ["one:latest"],
        "all or nothing"
    );
    assert_eq!(
        message(&two.id.to_string(), plain, &[]),
        format!(
            "conflict: unable to delete {} (must be forced) - image is referenced in multiple repositories: alias:1, two:latest",
            two.id.short()
        )
    );
    // One name of several goes whatever uses the image.
    store
        .remove("alias:1", plain, &[container(&two, true)])
        .unwrap();
    // By force, the layers stay for the container and go with the sweep after it.
    store
        .remove("two", FORCE, &[container(&two, false)])
        .unwrap();
    assert_eq!(store.layers().list().len(), 2);
    let in_use: HashSet<_> = two.diff_ids().into_iter().collect();
    assert_eq!(store.sweep(&in_use).unwrap().layers, 0);
    let swept = store.sweep(&HashSet::new()).unwrap();
    assert_eq!(swept.layers, 1);
    assert!(swept.bytes > 0);
    assert_eq!(store.layers().list().len(), 1);
}

#[test]
fn prune_takes_what_nobody_uses() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let (store, one, two) = two_images(root.path());
    store.tag("one", "two").unwrap();
    store.remove("alias:1", FORCE, &[]).unwrap();
    assert!(store.get(&two.id).is_none());
    let nameless = load(&store, &old_archive(None, &[&tar(&[("n", b"")])]))
        .unwrap()
        .remove(0);
    let (removed, freed) = store
        .prune(Image::is_dangling, || vec![container(&nameless, false)])
        .unwrap();
    assert_eq!((removed.len(), freed), (0, Freed::default()));
    let hold = store.hold(&nameless.id).unwrap();
    let (removed, _) = store.prune(Image::is_dangling, Vec::new).unwrap();
    assert!(removed.is_empty(), "somebody is about to use it");
    drop(hold);
    let (removed, freed) = store.prune(Image::is_dangling, Vec::new).unwrap();
    assert!(removed.contains(&Removed::Deleted(nameless.id)));
    assert!(freed.disk > 0);
    assert!(store.hold(&nameless.id).is_err());
    assert!(store.get(&one.id).is_some());
    store.prune(|_| true, Vec::new).unwrap();
    assert!(store.list().is_empty() && store.layers().list().is_empty());
}

#[test]
fn a_damaged_record_costs_one_image_only() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let (store, one, two) = two_images(root.path());
    drop(store);
    let record = root
        .path()
        .join(format!("images/records/{}.json", one.id.hex()));
    let mut bytes = std::fs::read(&record).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&record, bytes).unwrap();
    let store = open(root.path());
    assert!(store.get(&one.id).is_none());
    assert_eq!(store.find("one").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(store.find("two").unwrap().id, two.id);
}

#[test]
fn the_bundled_image_is_there_once() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let archive = old_archive(Some("hello-world:latest"), &[&tar(&[("hello", b"x")])]);
    let image = store.install_bundled("hello-world", &archive).unwrap();
    assert_eq!(image.repo_tags(), ["hello-world:latest"]);
    let other = old_archive(Some("hello-world:latest"), &[&tar(&[("hello", b"y")])]);
    assert_eq!(
        store.install_bundled("hello-world", &other).unwrap().id,
        image.id
    );
}
