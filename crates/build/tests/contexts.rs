//! Files that clients send: only what has changed, and always what the client has.
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod support;

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::sync::mpsc::{Receiver, sync_channel};

use sampan_build::{Context, Entry, EntryKind};
use sampan_images::ImageStore;
use sampan_kernel::requires;
use support::{Client, Home};

fn text(context: &Context, images: &ImageStore, path: &str) -> Option<String> {
    let bytes = context.read(images, path, 1 << 20).unwrap();
    bytes.map(|bytes| String::from_utf8(bytes).unwrap())
}

fn filled(home: &Home) -> Client {
    let client = home.client("files");
    client
        .write("a", "one")
        .write("d/b", "two")
        .write("d/e/c", "three")
        .write("d-x/f", "four");
    symlink("d/b", client.path.join("l")).unwrap();
    client
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    requires!(root, overlay);
    let home = Home::new();
    let client = filled(&home);
    let (_, sent) = client.send(home.contexts(), "k");
    assert_eq!(sent, ["a", "d/b", "d/e/c", "d-x/f"]);
    let (context, sent) = client.send(home.contexts(), "k");
    assert!(sent.is_empty());
    assert_eq!(context.layers().len(), 1);
    client.write("d/b", "2");
    fs::remove_dir_all(client.path.join("d/e")).unwrap();
    fs::set_permissions(client.path.join("d"), fs::Permissions::from_mode(0o700)).unwrap();
    let (changed, sent) = client.send(home.contexts(), "k");
    assert_eq!(sent, ["d/b"]);
    let images = &home.images;
    assert_eq!(text(&changed, images, "d/b").as_deref(), Some("2"));
    assert_eq!(text(&changed, images, "l").as_deref(), Some("2"));
    assert_eq!(text(&changed, images, "a").as_deref(), Some("one"));
    assert_eq!(text(&changed, images, "d/e/c"), None);
    // The files of a build under way stay as they are.
    assert_eq!(text(&context, images, "d/e/c").as_deref(), Some("three"));
    let (_, sent) = client.send(home.contexts(), "other");
    assert_eq!(sent.len(), 3);
}

#[test]
fn contexts_outlive_the_engine_and_many_changes() {
    requires!(root, overlay);
    let mut home = Home::new();
    let client = filled(&home);
    for round in 0..30 {
        let name = format!("n{}", round % 7);
        let path = client.path.join(&name);
        match round % 3 {
            0 => _ = client.write(&name, format!("{round}")),
            1 => {
                let _ = fs::remove_file(&path);
                client.write(&format!("{name}/in/side"), format!("{round}"));
            }
            _ => {
                let _ = fs::remove_dir_all(&path);
                let _ = fs::remove_file(&path);
                symlink(format!("{round}"), &path).unwrap();
            }
        }
        let (context, sent) = client.send(home.contexts(), "k");
        assert!(round == 0 || sent.len() <= 1, "{round}: {sent:?}");
        assert!(context.layers().len() <= 8);
        for entry in client.entries() {
            let path = std::str::from_utf8(&entry.path).unwrap();
            if let EntryKind::File(_) = entry.kind {
                let expected = fs::read_to_string(client.path.join(path)).unwrap();
                assert_eq!(text(&context, &home.images, path), Some(expected), "{path}");
            }
        }
        drop(context);
        home = home.reopen();
    }
    let (context, sent) = client.send(home.contexts(), "k");
    assert!(sent.is_empty());
    let in_use = Default::default();
    home.cache.tidy([], &in_use).unwrap();
    assert_eq!(home.images.layers().list().len(), context.layers().len());
}

#[test]
fn hard_links_follow_their_file() {
    requires!(root, overlay);
    let home = Home::new();
    let client = home.client("files");
    client.write("a", "one");
    fs::hard_link(client.path.join("a"), client.path.join("b")).unwrap();
    let (context, sent) = client.send(home.contexts(), "k");
    assert_eq!(sent, ["a"]);
    assert_eq!(text(&context, &home.images, "b").as_deref(), Some("one"));
    // One more name of a file that is there already, and other bytes under all names.
    fs::hard_link(client.path.join("a"), client.path.join("c")).unwrap();
    let (context, sent) = client.send(home.contexts(), "k");
    assert!(sent.is_empty());
    assert_eq!(text(&context, &home.images, "c").as_deref(), Some("one"));
    client.write("a", "second");
    let (context, sent) = client.send(home.contexts(), "k");
    assert_eq!(sent, ["a"]);
    for name in ["a", "b", "c"] {
        assert_eq!(
            text(&context, &home.images, name).as_deref(),
            Some("second")
        );
    }
}

#[test]
fn a_transfer_that_breaks_off_leaves_nothing_and_harms_nothing() {
    requires!(root, overlay);
    let home = Home::new();
    let client = filled(&home);
    let (before, _) = client.send(home.contexts(), "k");
    client.write("a", "changed").write("big", vec![7; 3 << 20]);
    let sync = home.contexts().begin("k").unwrap();
    let entries = client.entries();
    for entry in &entries {
        let _ = sync.entry(entry.clone()).unwrap();
    }
    let index = |path: &str| {
        let found = entries.iter().position(|e| e.path == path.as_bytes());
        found.unwrap()
    };
    // Shorter than it was said to be.
    assert!(sync.file(index("big"), &[7; 100][..]).is_err());
    assert!(sync.file(index("d"), &b""[..]).is_err());
    assert!(sync.finish().is_err());
    let home = home_again(home, before);
    assert_eq!(home.images.layers().list().len(), 1);
    let (context, sent) = client.send(home.contexts(), "k");
    assert_eq!(sent, ["a", "big"]);
    assert_eq!(
        text(&context, &home.images, "a").as_deref(),
        Some("changed")
    );
}

fn home_again(home: Home, context: Context) -> Home {
    drop(context);
    home.reopen()
}

#[test]
fn paths_that_lead_elsewhere_are_refused() {
    requires!(root, overlay);
    let home = Home::new();
    let entry = |path: &str, kind: EntryKind| Entry {
        path: path.as_bytes().to_vec(),
        kind,
        mode: 0o644,
        uid: 0,
        gid: 0,
        mtime: (0, 0),
        xattrs: Vec::new(),
    };
    for path in ["", "/etc", "..", "a/../b", "a//b", ".", "a/.", "a\0b"] {
        let sync = home.contexts().begin("k").unwrap();
        assert!(
            sync.entry(entry(path, EntryKind::Directory)).is_err(),
            "{path}"
        );
    }
    let sync = home.contexts().begin("k").unwrap();
    sync.entry(entry("l", EntryKind::Symlink(b"/etc".to_vec())))
        .unwrap();
    assert!(sync.entry(entry("l/passwd", EntryKind::File(1))).is_err());
    assert!(sync.entry(entry("l", EntryKind::Directory)).is_err());
    let nowhere = EntryKind::HardLink(b"../x".to_vec());
    assert!(sync.entry(entry("h", nowhere)).is_err());
    // In a layer it would hide another file.
    assert!(!sync.entry(entry(".wh.l", EntryKind::File(0))).unwrap());
    let context = sync.finish().unwrap();
    assert_eq!(text(&context, &home.images, ".wh.l"), None);
}

/// Gives bytes only as the test hands them over.
struct Slow(Receiver<Vec<u8>>, Vec<u8>);

impl Read for Slow {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.1.is_empty() {
            self.1 = self.0.recv().unwrap_or_default();
        }
        let n = self.1.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.1[..n]);
        self.1.drain(..n);
        Ok(n)
    }
}

#[test]
fn large_files_come_at_once_without_waiting_for_each_other() {
    requires!(root, overlay);
    let home = Home::new();
    let client = home.client("files");
    const PIECE: usize = 512 << 10;
    client
        .write("x", vec![1; 4 * PIECE])
        .write("y", vec![2; 4 * PIECE])
        .write("z", vec![3; PIECE]);
    let sync = home.contexts().begin("k").unwrap();
    for entry in client.entries() {
        assert!(sync.entry(entry).unwrap());
    }
    std::thread::scope(|scope| {
        let mut senders = Vec::new();
        for index in 0..3 {
            // Nothing waits in between: whoever does not read blocks all.
            let (sender, receiver) = sync_channel(0);
            senders.push(sender);
            let sync = &sync;
            scope.spawn(move || sync.file(index, Slow(receiver, Vec::new())).unwrap());
        }
        for _ in 0..4 {
            for (index, sender) in senders.iter().enumerate().take(2) {
                let byte = u8::try_from(index + 1).unwrap();
                sender.send(vec![byte; PIECE]).unwrap();
            }
        }
        senders[2].send(vec![3; PIECE]).unwrap();
    });
    let context = sync.finish().unwrap();
    for (name, byte, pieces) in [("x", 1, 4), ("y", 2, 4), ("z", 3, 1)] {
        let bytes = context.read(&home.images, name, 8 << 20).unwrap().unwrap();
        assert!(bytes == vec![byte; pieces * PIECE], "{name}");
    }
    let (_, sent) = client.send(home.contexts(), "k");
    assert!(sent.is_empty());
}

#[test]
fn what_is_damaged_or_gone_is_sent_again() {
    requires!(root, overlay);
    let mut home = Home::new();
    let client = filled(&home);
    let (context, _) = client.send(home.contexts(), "k");
    drop(context);
    let place = home.directory.path().join("root/build/contexts");
    let files = || {
        let context = fs::read_dir(&place).unwrap().next().unwrap().unwrap();
        let files = fs::read_dir(context.path()).unwrap();
        let mut files: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        files.sort();
        files
    };
    let manifest = |files: &[std::path::PathBuf]| {
        let manifest = files.iter().find(|path| path.extension().is_none());
        manifest.unwrap().clone()
    };
    for damage in ["half", "gone", "record", "layer"] {
        match damage {
            "half" => {
                let path = manifest(&files());
                let bytes = fs::read(&path).unwrap();
                fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
            }
            "gone" => fs::remove_file(manifest(&files())).unwrap(),
            "record" => fs::write(files()[0].with_file_name("record.json"), "{}").unwrap(),
            _ => {
                let layer = home.images.layers().list()[0].diff_id;
                assert!(home.images.layers().remove(&layer).unwrap());
            }
        }
        home = home.reopen();
        let (context, sent) = client.send(home.contexts(), "k");
        assert_eq!(sent.len(), 4, "{damage}");
        assert_eq!(text(&context, &home.images, "d/b").as_deref(), Some("two"));
        drop(context);
        let (_, sent) = client.send(home.contexts(), "k");
        assert!(sent.is_empty(), "{damage}");
    }
}
