//! What images take, what keeps them, what they are made of and whether it is whole.

#![allow(clippy::unwrap_used)]

mod support;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use sampan_images::{
    Budget, Change, ContainerUse, Image, ImageStore, Keeper, Mark, NewImage, Policy, Subject, Why,
};
use sampan_oci::Descriptor;
use sampan_oci::MediaType;
use support::{config, gzip, noise, open, tar};

/// Stores an image of these layers; with a digest, as if it had been pulled.
fn add(store: &ImageStore, names: &[&str], layers: &[Vec<u8>]) -> Arc<Image> {
    let mut blobs = Vec::new();
    for layer in layers {
        let mut ingest = store.layers().ingest().unwrap();
        ingest.push(layer).unwrap();
        ingest.commit(None).unwrap();
        let packed = gzip(layer);
        store
            .content()
            .put(&packed, sampan_fs::Sync::Volatile)
            .unwrap();
        blobs.push(Some(Descriptor::of(MediaType::OciLayerGzip, &packed)));
    }
    let slices: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    let mut config = config(&slices);
    config.author = names.join(" ");
    store
        .add(&NewImage {
            config: serde_json::to_vec(&config).unwrap(),
            blobs,
            manifest: None,
            parent: None,
            names: names.iter().map(|name| name.parse().unwrap()).collect(),
        })
        .unwrap()
}

fn file(name: &str, length: usize, seed: u32) -> Vec<u8> {
    tar(&[(name, &noise(length, seed))])
}

fn used(image: &Image) -> ContainerUse {
    ContainerUse {
        container: "0123456789abcdef".into(),
        image: image.id,
        layers: image.diff_ids(),
        running: false,
    }
}

fn du(path: &Path) -> u64 {
    let said = Command::new("du")
        .args(["--summarize", "--block-size=1"])
        .arg(path)
        .output()
        .unwrap();
    let text = String::from_utf8(said.stdout).unwrap();
    text.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn shared_layers_count_once_and_the_parts_are_what_du_sees() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let (base, one, two) = (
        file("base", 50_000, 1),
        file("one", 9_000, 2),
        file("two", 700, 3),
    );
    let first = add(&store, &["first:1"], &[base.clone(), one]);
    let second = add(&store, &["second:1"], &[base, two]);
    let space = store.space(&[used(&first)]).unwrap();
    let of = |image: &Image| {
        space
            .images
            .iter()
            .find(|i| i.image.id == image.id)
            .unwrap()
    };
    assert_eq!((of(&first).shared, of(&first).unique), (50_000, 9_000));
    assert_eq!((of(&second).shared, of(&second).unique), (50_000, 700));
    assert_eq!(space.unpacked, 59_700);
    assert_eq!(space.reclaimable, 700);
    assert_eq!(
        of(&first).kept_by,
        [
            Keeper::Container("0123456789abcdef".into()),
            Keeper::Name("first:1".into())
        ]
    );
    let layers: u64 = space.layers.iter().map(|l| l.disk).sum();
    let directories = du(&root.path().join("layers"))
        - space
            .layers
            .iter()
            .map(|l| du(&root.path().join("layers").join(l.diff_id.hex())))
            .sum::<u64>();
    assert_eq!(layers + directories, du(&root.path().join("layers")));
    let blobs: u64 = space.blobs.iter().map(|b| b.disk).sum();
    let found: u64 = std::fs::read_dir(root.path().join("content/blobs/sha256"))
        .unwrap()
        .map(|entry| du(&entry.unwrap().path()))
        .sum();
    assert_eq!(blobs, found);
    assert_eq!(store.disk_usage().unwrap(), layers + blobs);
    assert_eq!(store.shared_sizes()[&first.id], 50_000);
    let (_, freed) = store.prune(|_| true, || vec![used(&first)]).unwrap();
    assert_eq!(freed.unpacked, space.reclaimable);
}

#[test]
fn the_collector_takes_packed_layers_first_and_never_what_is_used() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let digest = format!("pulled@sha256:{}", "1".repeat(64));
    let pulled = add(&store, &["pulled:1", &digest], &[file("p", 90_000, 1)]);
    let loaded = add(&store, &["loaded:1"], &[file("l", 90_000, 2)]);
    let nameless = add(&store, &[], &[file("n", 90_000, 3)]);
    let busy = add(&store, &[], &[file("b", 90_000, 4)]);
    let policy = Policy {
        tagged: false,
        min_age: Duration::ZERO,
    };
    let uses = || vec![used(&busy)];
    let plan = store.plan_collection(u64::MAX, &policy, uses).unwrap();
    assert!(store.get(&nameless.id).is_some(), "a plan changes nothing");
    let done = store.collect(u64::MAX, &policy, uses).unwrap();
    assert_eq!(plan.removed, done.removed);
    assert_eq!(plan.freed, done.freed);
    let subjects: Vec<&Subject> = done.removed.iter().map(|item| &item.subject).collect();
    assert!(matches!(subjects[0], Subject::Blob { images, .. } if *images == [pulled.id]));
    assert!(matches!(subjects[1], Subject::Image { id, .. } if *id == nameless.id));
    assert_eq!(subjects.len(), 2);
    let why = |image: &Image| {
        let found = done.kept.iter().find(
            |kept| matches!(&kept.item.subject, Subject::Image { id, .. } if *id == image.id),
        );
        found.unwrap().why.clone()
    };
    assert_eq!(why(&loaded), Why::Named);
    assert_eq!(why(&busy), Why::Container("0123456789abcdef".into()));
    assert!(done.kept.iter().any(|kept| kept.why == Why::OnlyCopy));
    assert!(store.layers().get(&pulled.diff_ids()[0]).is_some());
    let recent = Policy {
        tagged: true,
        ..Policy::default()
    };
    let none = store.collect(u64::MAX, &recent, uses).unwrap();
    assert!(none.removed.is_empty(), "all of them are new");
    let hold = store.hold(&loaded.id).unwrap();
    let all = Policy {
        tagged: true,
        min_age: Duration::ZERO,
    };
    store.collect(u64::MAX, &all, uses).unwrap();
    assert!(store.get(&loaded.id).is_some() && store.get(&pulled.id).is_none());
    drop(hold);
    store.collect(u64::MAX, &all, uses).unwrap();
    let left: Vec<_> = store.list().iter().map(|image| image.id).collect();
    assert_eq!(left, [busy.id]);
}

#[test]
fn the_budget_is_kept_between_its_marks() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let images: Vec<_> = (0..4)
        .map(|n| add(&store, &[], &[file("f", 400_000, n + 1)]))
        .collect();
    let full = store.disk_usage().unwrap();
    let budget = |high, low| Budget {
        high: Mark::Bytes(high),
        low: Mark::Bytes(low),
    };
    assert_eq!(store.over_budget(&budget(full, 0)).unwrap(), 0);
    let wanted = store.over_budget(&budget(full - 1, full / 2)).unwrap();
    assert_eq!(wanted, full - full / 2);
    let policy = Policy {
        tagged: false,
        min_age: Duration::ZERO,
    };
    store.note_use(&images[0].id);
    let done = store.collect(wanted, &policy, Vec::new).unwrap();
    assert!(done.freed >= wanted && store.disk_usage().unwrap() <= full / 2);
    assert!(store.get(&images[0].id).is_some(), "the last that was used");
    assert!(store.over(Mark::Percent(100)).unwrap() == 0);
}

#[test]
fn the_last_use_of_an_image_is_remembered() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let image = add(&store, &["a:1"], &[file("f", 1, 1)]);
    let came = store.last_use(&image);
    store.note_use(&image.id);
    let used = store.last_use(&image);
    assert!(used > came);
    store.save_last_use().unwrap();
    drop(store);
    assert_eq!(open(root.path()).last_use(&image), used);
}

#[test]
fn tree_and_diff_tell_what_each_layer_does() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let base = tar(&[("etc/a", b"one"), ("etc/b", b"two"), ("c", b"same")]);
    let change = tar(&[("etc/a", b"ONE"), ("etc/.wh.b", b""), ("new", b"12345")]);
    // The same bytes, in another layer.
    let again = tar(&[("c", b"same")]);
    let old = add(&store, &["old:1"], std::slice::from_ref(&base));
    let new = add(&store, &["new:1"], &[base, change, again]);
    let tree = store.tree("new:1").unwrap();
    assert_eq!(tree.layers[0].shared_with, ["old:1"]);
    assert!(tree.layers[1].shared_with.is_empty());
    let shown = |layer: usize| -> Vec<String> {
        let files = tree.layers[layer].files.iter();
        files
            .map(|f| format!("{} {}{} {}", f.change, f.kind, f.path, f.size))
            .collect()
    };
    assert_eq!(
        shown(1),
        ["C d/etc 0", "C -/etc/a 3", "D /etc/b 0", "A -/new 5"]
    );
    let diff = store.diff("old:1", "new:1").unwrap();
    assert_eq!((diff.old.id, diff.new.id), (old.id, new.id));
    let changes: Vec<_> = diff
        .changes
        .iter()
        .map(|c| (c.path.as_str(), c.change, c.old_size, c.new_size))
        .collect();
    assert_eq!(
        changes,
        [
            ("/etc/a", Change::Content, 3, 3),
            ("/etc/b", Change::Deleted, 3, 0),
            ("/new", Change::Added, 0, 5),
        ]
    );
    assert!(store.diff("old:1", "old:1").unwrap().changes.is_empty());
}

#[test]
fn verify_names_what_is_damaged() {
    sampan_kernel::requires!(root);
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let whole = add(&store, &["whole:1"], &[file("w", 3000, 1)]);
    let shared = file("s", 3000, 2);
    let one = add(&store, &["one:1"], &[shared.clone(), file("o", 10, 3)]);
    let two = add(&store, &["two:1"], &[shared, file("t", 10, 4)]);
    assert!(
        store
            .verify(&store.list())
            .iter()
            .all(|proof| proof.damages.is_empty())
    );
    let flip = |path: std::path::PathBuf, at: usize| {
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[at] ^= 1;
        std::fs::write(path, bytes).unwrap();
    };
    let layer = one.diff_ids()[0];
    flip(
        root.path()
            .join(format!("layers/{}/layer.tar", layer.hex())),
        700,
    );
    let blob = two.layers[1].blob.as_ref().unwrap().digest;
    flip(
        root.path()
            .join(format!("content/blobs/sha256/{}", blob.hex())),
        9,
    );
    let record = root
        .path()
        .join(format!("images/records/{}.json", two.id.hex()));
    flip(record, 40);
    let proofs = store.verify(&store.list());
    let of = |image: &Image| {
        let proof = proofs.iter().find(|p| p.image.id == image.id).unwrap();
        proof
            .damages
            .iter()
            .map(|d| d.what.clone())
            .collect::<Vec<_>>()
    };
    assert!(of(&whole).is_empty());
    assert_eq!(of(&one), [format!("layer {layer}")]);
    assert_eq!(
        of(&two),
        [
            format!("record of image {}", two.id),
            format!("layer {layer}"),
            format!("blob {blob}")
        ]
    );
    assert!(
        store.content().get(&blob).is_some(),
        "verify changes nothing"
    );
}
