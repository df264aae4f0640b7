//! Real images of several layers: what their stacked mounts show is what umoci
//! unpacks.

#![allow(clippy::unwrap_used)]

mod support;
#[path = "../../layers/tests/view/mod.rs"]
mod view;

use sampan_layers::Durability;
use sampan_testing::{Fixture, fixture, run};
use support::{open, quiet};
use view::{Kind, View};

/// Links of a directory are counted differently by every file system.
fn comparable(mut view: View) -> View {
    for entry in view.values_mut() {
        if entry.kind == Kind::Directory {
            entry.links = 0;
        }
    }
    view
}

#[test]
fn real_images_are_what_umoci_makes_of_them() {
    sampan_kernel::requires!(root, overlay, erofs_file_backed);
    for image in [
        Fixture::Busybox,
        Fixture::Debian,
        Fixture::Flask,
        Fixture::Nginx,
        Fixture::Redis,
        Fixture::Postgres,
    ] {
        let image = fixture(image);
        let tmp = tempfile::tempdir().unwrap();
        let store = open(tmp.path());
        let archive = std::fs::File::open(image.archive()).unwrap();
        let loaded = store.load(archive, None, &quiet()).unwrap();
        let layers = loaded[0].image.layers.iter();
        let mounts: Vec<_> = layers
            .map(|layer| store.layers().mount(&layer.diff_id).unwrap())
            .collect();
        let found = store
            .layers()
            .overlay(&mounts, None, None, Durability::Durable)
            .unwrap();
        let unpacked = tmp.path().join("unpacked").display().to_string();
        let layout = image.layout();
        let layout = layout.strip_prefix("oci:").unwrap();
        let _ = run("umoci", &["raw", "unpack", "--image", layout, &unpacked]).ok();
        let found = comparable(view::of(found));
        let mut expected = comparable(view::of_path(unpacked.as_ref()));
        // Directories that a layer has files in and does not list are made without a time.
        for (name, entry) in &mut expected {
            if let Some(found) = found.get(name)
                && found.kind == Kind::Directory
                && found.mtime == (0, 0)
            {
                entry.mtime = found.mtime;
            }
        }
        let different: Vec<_> = expected
            .iter()
            .filter(|(name, entry)| found.get(*name) != Some(entry))
            .map(|(name, entry)| format!("{name}: expected {entry:?}, found {:?}", found.get(name)))
            .take(20)
            .collect();
        assert!(different.is_empty(), "{image:?}: {}", different.join("\n"));
        let more: Vec<_> = found
            .keys()
            .filter(|name| !expected.contains_key(*name))
            .collect();
        assert!(more.is_empty(), "{image:?}: {more:?}");
    }
}
