//! The store outlives kills, damage and its own users.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod tarball;
mod view;

use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sampan_kernel::requires;
use sampan_layers::{Driver, Error, ErrorKind, LayerStore, Options};
use sampan_oci::{DiffId, Digest};
use tarball::Tarball;

fn open(root: &Path) -> LayerStore {
    let options = Options {
        driver: Driver::TarIndex,
        ..Options::default()
    };
    LayerStore::open(root, options).unwrap()
}

fn ingest(store: &LayerStore, tar: &[u8]) -> DiffId {
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(tar).unwrap();
    ingest.commit(None).unwrap().diff_id
}

fn names(path: &Path) -> Vec<String> {
    let mut names: Vec<_> = std::fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| name != "lock")
        .collect();
    names.sort();
    names
}

fn layer_dir(root: &Path, diff_id: &DiffId) -> PathBuf {
    root.join("layers").join(diff_id.hex())
}

fn sample(size: usize) -> Vec<u8> {
    let data: Vec<u8> = (0..size).map(|i| (i * 7 % 253) as u8).collect();
    Tarball::new()
        .file("file", data)
        .dir("dir")
        .symlink("dir/link", "../file")
        .end()
}

#[test]
fn layers_survive_a_restart() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let a = ingest(&store, &sample(10));
    let b = ingest(&store, &sample(3_000_000));
    let before = store.list();
    drop(store);
    let store = open(tmp.path());
    assert_eq!(store.list(), before);
    assert_eq!(store.get(&a).unwrap().size, 10);
    assert_eq!(store.get(&b).unwrap().size, 3_000_000);
    store.verify(&a).unwrap();
    store.verify(&b).unwrap();
    assert!(store.quarantined().is_empty());
    assert!(store.get(&DiffId(Digest::of(b"?"))).is_none());
}

#[test]
fn a_layer_that_is_not_synced_survives_a_kill_and_is_proved_after_a_power_cut() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let unsynced = |tar: &[u8]| {
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(tar).unwrap();
        ingest.commit_unsynced(None).unwrap().diff_id
    };
    let [whole, torn, synced] = [10, 20, 30].map(|size| unsynced(&sample(size)));
    store.sync_layers(&[synced]).unwrap();
    // Another that brings the same bytes makes the layer durable.
    let [again] = [40].map(|size| unsynced(&sample(size)));
    assert_eq!(ingest(&store, &sample(40)), again);
    let record = |diff_id| layer_dir(tmp.path(), diff_id).join("meta.json");
    let is_unsynced = |diff_id| {
        let text = std::fs::read_to_string(record(diff_id)).unwrap();
        text.contains("unsynced")
    };
    let all = [&whole, &torn, &synced, &again];
    assert_eq!(all.map(is_unsynced), [true, true, false, false]);
    drop(store);
    let store = open(tmp.path());
    assert_eq!(store.list().len(), 4);
    drop(store);
    // As after a boot, with bytes that never reached the disk.
    for diff_id in [&whole, &torn] {
        let text = std::fs::read_to_string(record(diff_id)).unwrap();
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        std::fs::write(record(diff_id), text.replace(boot.trim(), "another")).unwrap();
    }
    let tar = layer_dir(tmp.path(), &torn).join("layer.tar");
    let length = std::fs::metadata(&tar).unwrap().len();
    std::fs::write(&tar, vec![0; usize::try_from(length).unwrap()]).unwrap();
    let store = open(tmp.path());
    assert_eq!(store.quarantined().len(), 1);
    assert!(store.get(&torn).is_none());
    for diff_id in [&whole, &synced, &again] {
        store.verify(diff_id).unwrap();
    }
    assert!(!is_unsynced(&whole));
}

#[test]
fn an_ingest_that_is_dropped_or_refused_leaves_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    for size in [10, 5_000_000] {
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(&sample(size)).unwrap();
        drop(ingest);
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(&sample(size)).unwrap();
        let error = ingest
            .commit(Some(&DiffId(Digest::of(b"other"))))
            .unwrap_err();
        assert!(matches!(error, Error::DigestMismatch { .. }));
        assert_eq!(error.kind(), ErrorKind::Invalid);
        let mut ingest = store.ingest().unwrap();
        ingest.write_all(&sample(size)[..517]).unwrap();
        assert!(matches!(
            ingest.commit(None).unwrap_err(),
            Error::Tar { .. }
        ));
    }
    assert_eq!(names(&tmp.path().join("layers")), [""; 0]);
}

#[test]
fn many_may_take_the_same_layer_in_at_once() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let tar = sample(2_000_000);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| ingest(&store, &tar));
        }
    });
    let layers = store.list();
    assert_eq!(layers.len(), 1);
    assert_eq!(names(&tmp.path().join("layers")), [layers[0].diff_id.hex()]);
    store.verify(&layers[0].diff_id).unwrap();
}

#[test]
fn removal_and_ingest_of_one_layer_may_race() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let tar = sample(1000);
    let diff_id = DiffId(Digest::of(&tar));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..15 {
                    ingest(&store, &tar);
                    store.remove(&diff_id).unwrap();
                }
            });
        }
    });
    let known = store.list().len();
    assert_eq!(names(&tmp.path().join("layers")).len(), known);
    ingest(&store, &tar);
    store.verify(&diff_id).unwrap();
}

#[test]
fn one_process_at_a_time_has_the_store() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let second = std::thread::spawn({
        let path = tmp.path().to_path_buf();
        move || open(&path).list().len()
    });
    std::thread::sleep(Duration::from_millis(50));
    ingest(&store, &sample(1));
    assert!(!second.is_finished());
    drop(store);
    assert_eq!(second.join().unwrap(), 1);
}

#[test]
fn damaged_layers_are_put_aside_and_the_others_stay() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let good = ingest(&store, &sample(1));
    type Damage = (&'static str, fn(&Path));
    let damage: [Damage; 4] = [
        ("shorter", |dir| {
            let tar = std::fs::File::options()
                .write(true)
                .open(dir.join("layer.tar"));
            tar.unwrap().set_len(512).unwrap();
        }),
        ("no tar", |dir| {
            std::fs::remove_file(dir.join("layer.tar")).unwrap();
        }),
        ("another's record", |dir| {
            let path = dir.join("meta.json");
            let json = std::fs::read_to_string(&path).unwrap();
            let id = dir.file_name().unwrap().to_str().unwrap();
            std::fs::write(path, json.replace(id, &"0".repeat(64))).unwrap();
        }),
        ("neither record nor true tar", |dir| {
            std::fs::remove_file(dir.join("meta.json")).unwrap();
            let mut tar = std::fs::read(dir.join("layer.tar")).unwrap();
            tar[600] ^= 1;
            std::fs::write(dir.join("layer.tar"), tar).unwrap();
        }),
    ];
    let mut damaged = Vec::new();
    for (i, (what, harm)) in damage.iter().enumerate() {
        let diff_id = ingest(&store, &sample(1000 + i));
        harm(&layer_dir(tmp.path(), &diff_id));
        damaged.push((diff_id, what));
    }
    drop(store);
    let store = open(tmp.path());
    assert_eq!(
        store.list().iter().map(|l| l.diff_id).collect::<Vec<_>>(),
        [good]
    );
    let quarantined = store.quarantined();
    for (diff_id, what) in damaged {
        let aside = quarantined.iter().find(|q| q.diff_id == diff_id);
        let aside = aside.unwrap_or_else(|| panic!("{what}"));
        assert!(aside.path.is_dir(), "{aside:?}");
        // It can be fetched again.
        let tar = sample(1000);
        if diff_id == DiffId(Digest::of(&tar)) {
            ingest(&store, &tar);
            store.verify(&diff_id).unwrap();
        }
    }
}

#[test]
fn what_can_be_made_again_from_the_tar_is() {
    requires!(root, erofs_file_backed);
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let layers: Vec<_> = (0..4).map(|i| ingest(&store, &sample(i))).collect();
    let before = store.list();
    drop(store);
    let dir = |i: usize| layer_dir(tmp.path(), &layers[i]);
    std::fs::remove_file(dir(0).join("index.erofs")).unwrap();
    std::fs::write(dir(1).join("index.erofs"), b"short").unwrap();
    std::fs::write(dir(2).join("meta.json"), b"{").unwrap();
    let old = std::fs::read_to_string(dir(3).join("meta.json")).unwrap();
    let old = old.replace("\"version\": 1", "\"version\": 0");
    std::fs::write(dir(3).join("meta.json"), old).unwrap();
    let store = open(tmp.path());
    assert!(store.quarantined().is_empty());
    assert_eq!(store.list(), before);
    for diff_id in &layers {
        store.verify(diff_id).unwrap();
        assert_eq!(view::of(store.mount(diff_id).unwrap()).len(), 4);
    }
}

#[test]
fn verify_finds_a_flipped_bit() {
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    for file in ["layer.tar", "index.erofs"] {
        let diff_id = ingest(&store, &sample(5000));
        let path = layer_dir(tmp.path(), &diff_id).join(file);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[1600] ^= 4;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(
            store.verify(&diff_id).unwrap_err().kind(),
            ErrorKind::Damaged,
            "{file}"
        );
        store.remove(&diff_id).unwrap();
    }
}

#[test]
fn a_mount_is_shared_and_outlives_removal() {
    requires!(root, erofs_file_backed);
    let tmp = tempfile::tempdir().unwrap();
    let store = open(tmp.path());
    let diff_id = ingest(&store, &sample(100));
    let device = |fd: &dyn AsFd| rustix::fs::fstat(fd.as_fd()).unwrap().st_dev;
    let first = store.mount(&diff_id).unwrap();
    let second = store.mount(&diff_id).unwrap();
    assert_eq!(device(&first), device(&second));
    assert!(store.remove(&diff_id).unwrap());
    assert!(!store.remove(&diff_id).unwrap());
    assert!(matches!(store.mount(&diff_id), Err(Error::NotFound(_))));
    assert!(matches!(store.open_tar(&diff_id), Err(Error::NotFound(_))));
    assert_eq!(names(&tmp.path().join("layers")), [""; 0]);
    drop(store);
    assert_eq!(view::of(&second).len(), 4);
    let again = open(tmp.path());
    ingest(&again, &sample(100));
    let third = again.mount(&diff_id).unwrap();
    assert_ne!(device(&first), device(&third));
}

/// The example that takes its standard input in.
fn child(root: &Path) -> Command {
    let test = std::env::current_exe().unwrap();
    let examples = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples");
    let path = examples.join("layer_ingest");
    assert!(path.exists(), "{} is not built", path.display());
    let mut command = Command::new(path);
    command
        .arg(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    command
}

#[test]
fn a_kill_at_any_byte_leaves_nothing_half_made() {
    let tmp = tempfile::tempdir().unwrap();
    let kept = ingest(&open(tmp.path()), &sample(1));
    let tar = sample(1_500_000);
    for at in [0, 1, 511, 512, 700_000, 1_048_576, tar.len() - 1, tar.len()] {
        let mut child = child(tmp.path()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(&tar[..at]).unwrap();
        // The pipe is drained, as good as at rest.
        std::thread::sleep(Duration::from_millis(20));
        child.kill().unwrap();
        child.wait().unwrap();
        drop(stdin);
        let store = open(tmp.path());
        assert_eq!(
            store.list().iter().map(|l| l.diff_id).collect::<Vec<_>>(),
            [kept],
            "{at}"
        );
        assert_eq!(names(&tmp.path().join("layers")), [kept.hex()]);
    }
}

#[test]
fn a_kill_at_any_moment_leaves_all_or_nothing() {
    let tmp = tempfile::tempdir().unwrap();
    let tar = sample(3_000_000);
    let diff_id = DiffId(Digest::of(&tar));
    let run = |kill_after: Option<Duration>| {
        let start = Instant::now();
        let mut child = child(tmp.path()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let writer = std::thread::spawn({
            let tar = tar.clone();
            move || drop(stdin.write_all(&tar))
        });
        if let Some(after) = kill_after {
            std::thread::sleep(after);
            child.kill().unwrap();
        }
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        (start.elapsed(), output.stdout)
    };
    let (whole, said) = run(None);
    assert_eq!(String::from_utf8(said).unwrap().trim(), diff_id.to_string());
    let (mut there, mut absent) = (0, 0);
    for round in 0..60 {
        let store = open(tmp.path());
        store.remove(&diff_id).unwrap();
        drop(store);
        let (_, said) = run(Some(whole.mul_f64(f64::from(round) / 50.0)));
        let store = open(tmp.path());
        assert!(store.quarantined().is_empty(), "{:?}", store.quarantined());
        match store.get(&diff_id) {
            Some(_) => {
                there += 1;
                store.verify(&diff_id).unwrap();
            }
            None => {
                absent += 1;
                // What was acknowledged must be there.
                assert!(said.is_empty());
                assert_eq!(names(&tmp.path().join("layers")), [""; 0]);
            }
        }
    }
    println!("{there} times complete, {absent} times absent");
    assert!(absent > 0);
}

#[test]
fn a_full_disk_is_told_and_leaves_nothing() {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
        fsopen,
    };
    requires!(root);
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC).unwrap();
    fsconfig_set_string(&context, "size", "4m").unwrap();
    fsconfig_create(&context).unwrap();
    let small = fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        MountAttrFlags::empty(),
    )
    .unwrap();
    let root = view::path_of(&small);
    let store = open(&root);
    for size in [3_900_000, 8_000_000, 40_000_000] {
        let take = || {
            let mut ingest = store.ingest()?;
            for piece in sample(size).chunks(100_000) {
                ingest.push(piece)?;
            }
            let _room = std::fs::write(root.join("taken"), vec![1; 300_000]);
            ingest.commit(None)
        };
        let error = take().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoSpace, "{size}: {error:?}");
        assert!(error.hint().is_some());
        let _ = std::fs::remove_file(root.join("taken"));
        assert_eq!(names(&root.join("layers")), [""; 0], "{size}");
    }
    let diff_id = ingest(&store, &sample(1_000_000));
    store.verify(&diff_id).unwrap();
}
