//! Real root file systems: what a mount shows is what GNU tar and umoci unpack.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod view;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Instant;

use sampan_kernel::requires;
use sampan_layers::{Driver, Durability, LayerStore, Options};
use view::View;

/// A Debian root, made once per machine. It takes a mirror and a minute.
fn debian() -> Option<PathBuf> {
    // The tests run side by side.
    static MADE: OnceLock<Option<PathBuf>> = OnceLock::new();
    MADE.get_or_init(make_debian).clone()
}

fn make_debian() -> Option<PathBuf> {
    let cache = std::env::temp_dir().join("sampan-test-cache");
    let tar = cache.join("minbase-bookworm.tar");
    if tar.exists() {
        return Some(tar);
    }
    std::fs::create_dir_all(&cache).unwrap();
    let part = cache.join(format!("part-{}.tar", std::process::id()));
    let made = Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase", "bookworm"])
        .arg(&part)
        .status();
    if !made.is_ok_and(|status| status.success()) {
        let _ = std::fs::remove_file(&part);
        requires::skip("mmdebstrap cannot make a Debian root here");
        return None;
    }
    std::fs::rename(part, &tar).unwrap();
    Some(tar)
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

fn ours(tmp: &Path, tar: &Path, driver: Driver) -> View {
    let options = Options {
        driver,
        ..Options::default()
    };
    let store = LayerStore::open(&tmp.join(format!("{driver:?}")), options).unwrap();
    let mut ingest = store.ingest().unwrap();
    let bytes = std::fs::read(tar).unwrap();
    let start = Instant::now();
    for piece in bytes.chunks(64 << 10) {
        ingest.write_all(piece).unwrap();
    }
    let written = start.elapsed();
    let layer = ingest.commit(None).unwrap();
    println!(
        "{driver:?}: {} bytes, {} entries: written after {written:?}, durable after {:?}",
        bytes.len(),
        layer.entries,
        start.elapsed()
    );
    let start = Instant::now();
    let mount = store.mount(&layer.diff_id).unwrap();
    println!("{driver:?}: mounted in {:?}", start.elapsed());
    let start = Instant::now();
    let mounts = std::slice::from_ref(&mount);
    drop(
        store
            .overlay(mounts, None, None, Durability::Durable)
            .unwrap(),
    );
    println!("{driver:?}: stacked and let go in {:?}", start.elapsed());
    let start = Instant::now();
    let view = view::of(mount);
    println!("{driver:?}: read in {:?}", start.elapsed());
    view
}

fn assert_same(found: &View, expected: &View) {
    let different: Vec<_> = expected
        .iter()
        .filter(|(name, entry)| found.get(*name) != Some(entry))
        .map(|(name, entry)| format!("{name}: expected {entry:?}, found {:?}", found.get(name)))
        .take(20)
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
    let more: Vec<_> = found
        .keys()
        .filter(|n| !expected.contains_key(*n))
        .collect();
    assert!(more.is_empty(), "{more:?}");
}

#[test]
fn a_debian_root_is_what_gnu_tar_makes_of_it() {
    requires!(root, erofs_file_backed);
    let Some(tar) = debian() else { return };
    let tmp = tempfile::tempdir().unwrap();
    let unpacked = tmp.path().join("unpacked");
    std::fs::create_dir(&unpacked).unwrap();
    run(Command::new("tar")
        .arg("-C")
        .arg(&unpacked)
        .args(["--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf"])
        .arg(&tar));
    let start = Instant::now();
    let expected = view::of_path(&unpacked);
    println!("tar -x: read in {:?}", start.elapsed());
    assert!(expected.len() > 4000);
    assert_same(&ours(tmp.path(), &tar, Driver::TarIndex), &expected);
    assert_same(&ours(tmp.path(), &tar, Driver::Directory), &expected);
}

#[test]
fn a_debian_root_is_what_umoci_makes_of_it() {
    requires!(root, erofs_file_backed);
    let Some(tar) = debian() else { return };
    if Command::new("umoci").arg("--version").output().is_err() {
        requires::skip("umoci is not installed");
        return;
    }
    let tmp = tempfile::tempdir().unwrap();
    let layout = tmp.path().join("layout");
    let image = format!("{}:debian", layout.display());
    let umoci = || Command::new("umoci");
    run(umoci().args(["init", "--layout"]).arg(&layout));
    run(umoci().args(["new", "--image", &image]));
    run(umoci()
        .args(["raw", "add-layer", "--image", &image])
        .arg(&tar));
    let unpacked = tmp.path().join("unpacked");
    run(umoci()
        .args(["raw", "unpack", "--image", &image])
        .arg(&unpacked));
    assert_same(
        &ours(tmp.path(), &tar, Driver::TarIndex),
        &view::of_path(&unpacked),
    );
}
