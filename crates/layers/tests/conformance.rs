//! What a layer store promises, for both drivers.

#![allow(clippy::unwrap_used)]

mod tarball;
mod view;

use std::ffi::OsString;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode};
use sampan_kernel::requires;
use sampan_layers::{
    Driver, Durability, InitEntry, Layer, LayerMount, LayerStore, Mounts, Options, Worker, Writable,
};
use sampan_oci::{DiffId, Digest};
use tarball::{Header, Tarball};
use view::{Kind, View};

/// Both drivers run every test below, with the mounts where this kernel can
/// have them and where any kernel can.
macro_rules! for_both_drivers {
    ($($name:ident),+ $(,)?) => {
        mod tar_index {
            $(#[test] fn $name() {
                sampan_kernel::requires!(root, overlay, erofs_file_backed);
                super::$name(&super::Bench::new(super::Driver::TarIndex, super::Mounts::Auto));
            })+
        }
        mod directory {
            $(#[test] fn $name() {
                sampan_kernel::requires!(root, overlay);
                super::$name(&super::Bench::new(super::Driver::Directory, super::Mounts::Auto));
            })+
        }
        mod tar_index_attached {
            $(#[test] fn $name() {
                sampan_kernel::requires!(root, overlay, erofs_file_backed);
                super::$name(&super::Bench::new(super::Driver::TarIndex, super::Mounts::Attached));
            })+
        }
        mod directory_attached {
            $(#[test] fn $name() {
                sampan_kernel::requires!(root, overlay);
                super::$name(&super::Bench::new(super::Driver::Directory, super::Mounts::Attached));
            })+
        }
    };
}

for_both_drivers!(
    content_modes_owners_and_times,
    extended_attributes,
    attributes_that_an_image_must_not_set_are_dropped,
    hard_links_share_an_inode,
    long_names_and_targets,
    sparse_files_in_all_forms,
    ragged_sparse_files,
    duplicates_the_last_one_counts,
    missing_parents_are_made,
    paths_are_cleaned_and_links_followed_inside,
    device_nodes_and_fifos,
    big_directories_list_and_find_every_name,
    big_files_and_files_of_every_size_around_a_block,
    an_empty_layer,
    whiteouts_hide_lower_files,
    opaque_directories_hide_lower_content,
    a_directory_that_is_whited_out_and_made_anew_is_opaque,
    an_opaque_top_hides_all_lower_layers,
    files_and_directories_replace_each_other_across_layers,
    a_layer_may_occur_twice,
    the_root_is_writable_and_the_layers_are_not,
    directories_of_layers_can_be_renamed,
    a_root_without_layers_and_one_without_a_writable_part,
    an_init_layer_lies_above_the_layers,
    a_hundred_layers,
    what_gnu_tar_packs_comes_back,
    the_tar_comes_back_byte_for_byte,
);

struct Bench {
    tmp: tempfile::TempDir,
    store: LayerStore,
}

impl Bench {
    fn new(driver: Driver, mounts: Mounts) -> Self {
        let tmp = tempfile::tempdir().unwrap();
        let options = Options {
            driver,
            worker: worker(),
            mounts,
            ..Options::default()
        };
        let store = LayerStore::open(tmp.path(), options).unwrap();
        Self { tmp, store }
    }

    fn ingest(&self, tar: &[u8]) -> Layer {
        let mut ingest = self.store.ingest().unwrap();
        // In pieces that match nothing.
        for piece in tar.chunks(777_777) {
            ingest.write_all(piece).unwrap();
        }
        let expected = DiffId(Digest::of(tar));
        ingest.commit(Some(&expected)).unwrap()
    }

    fn mount(&self, tar: &[u8]) -> LayerMount {
        let layer = self.ingest(tar);
        self.store.mount(&layer.diff_id).unwrap()
    }

    fn view(&self, tar: &[u8]) -> View {
        view::of(self.mount(tar))
    }

    /// Layers given bottom first, merged.
    fn merged(&self, tars: &[&[u8]]) -> OwnedFd {
        let mounts: Vec<_> = tars.iter().map(|tar| self.mount(tar)).collect();
        self.store
            .overlay(&mounts, None, None, Durability::Durable)
            .unwrap()
    }

    fn writable(&self) -> Writable {
        let (upper, work) = (self.tmp.path().join("upper"), self.tmp.path().join("work"));
        std::fs::create_dir(&upper).unwrap();
        std::fs::create_dir(&work).unwrap();
        Writable { upper, work }
    }
}

/// The example beside this test's executable.
fn worker() -> Worker {
    let test = std::env::current_exe().unwrap();
    let path = test
        .parent()
        .and_then(Path::parent)
        .unwrap()
        .join("examples/layer_worker");
    assert!(path.exists(), "{} is not built", path.display());
    Worker::Program {
        path,
        arguments: Vec::<OsString>::new(),
    }
}

fn names(view: &View) -> Vec<&str> {
    view.keys().map(String::as_str).collect()
}

fn read(root: impl std::os::fd::AsFd, path: &str) -> String {
    std::fs::read_to_string(view::path_of(root).join(path)).unwrap()
}

fn digest(kind: &Kind) -> Digest {
    match kind {
        Kind::File { digest, .. } => *digest,
        other => panic!("{other:?} is no file"),
    }
}

fn content_modes_owners_and_times(bench: &Bench) {
    let tar = Tarball::new()
        .header(&Header::new(b'5', "./").mode(0o700).owner(5, 6).mtime(50))
        .header(
            &Header::new(b'5', "bin/")
                .mode(0o1777)
                .owner(1, 2)
                .mtime(100),
        )
        .member(
            Header::new(b'0', "bin/su")
                .mode(0o106_755)
                .owner(0, 4_000_000_000),
            b"#!/bin/sh\n",
        )
        .pax(&[
            ("mtime", b"1234567890.123456789"),
            ("uid", b"4294967294"),
            ("gid", b"3000000"),
        ])
        .file("bin/precise", "x")
        .pax(&[("mtime", b"-2.5")])
        .file("bin/before-1970", "")
        .header(&Header::new(b'0', "bin/far").mtime(8_000_000_000))
        .symlink("bin/sh", "su")
        .end();
    let view = bench.view(&tar);
    assert_eq!(
        names(&view),
        [
            ".",
            "bin",
            "bin/before-1970",
            "bin/far",
            "bin/precise",
            "bin/sh",
            "bin/su"
        ]
    );
    let entry = |name: &str| {
        let e = &view[name];
        (e.mode, e.uid, e.gid, e.mtime)
    };
    assert_eq!(entry("."), (0o700, 5, 6, (50, 0)));
    assert_eq!(entry("bin"), (0o1777, 1, 2, (100, 0)));
    assert_eq!(
        entry("bin/su"),
        (0o6755, 0, 4_000_000_000, (1_700_000_000, 0))
    );
    assert_eq!(
        entry("bin/precise"),
        (
            0o644,
            4_294_967_294,
            3_000_000,
            (1_234_567_890, 123_456_789)
        )
    );
    assert_eq!(entry("bin/before-1970").3, (-3, 500_000_000));
    assert_eq!(entry("bin/far").3, (8_000_000_000, 0));
    assert_eq!(view["bin/sh"].kind, Kind::Symlink(b"su".to_vec()));
    assert_eq!(view["bin/sh"].mtime, (1_700_000_000, 0));
    assert_eq!(digest(&view["bin/su"].kind), Digest::of(b"#!/bin/sh\n"));
    assert_eq!(bench.store.list()[0].size, 11);
    assert_eq!(bench.store.list()[0].entries, 7);
}

fn extended_attributes(bench: &Bench) {
    let capability =
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    let acl = [2u32.to_le_bytes().as_slice(), &acl_entries()].concat();
    let many: Vec<(String, Vec<u8>)> = (0..40)
        .map(|i| {
            (
                format!("SCHILY.xattr.user.many.{i}"),
                vec![i; 3 * usize::from(i)],
            )
        })
        .collect();
    let many: Vec<(&str, &[u8])> = many.iter().map(|(k, v)| (k.as_str(), &v[..])).collect();
    let tar = Tarball::new()
        .pax(&[
            ("SCHILY.xattr.security.capability", capability),
            ("SCHILY.xattr.user.text", b"a value"),
            ("SCHILY.xattr.user.empty", b""),
            ("SCHILY.xattr.trusted.thing", b"\x00\xff\n="),
            ("SCHILY.xattr.system.posix_acl_access", &acl),
            ("SCHILY.xattr.nonsense", b"dropped"),
        ])
        .member(Header::new(b'0', "ping").mode(0o755), b"ELF")
        .pax(&many)
        .file("many", "")
        .pax(&[
            ("SCHILY.xattr.user.on", b"directory"),
            ("SCHILY.xattr.system.posix_acl_default", &acl),
        ])
        .dir("dir")
        .pax(&[("LIBARCHIVE.xattr.user.b64", b"aGVsbG8=")])
        .file("dir/libarchive", "")
        .pax(&[("SCHILY.xattr.trusted.link", b"on a link")])
        .symlink("link", "ping")
        .pax(&[("SCHILY.xattr.trusted.fifo", b"on a fifo")])
        .header(&Header::new(b'6', "fifo"))
        .end();
    let view = bench.view(&tar);
    let of = |name: &str| {
        view[name]
            .xattrs
            .iter()
            .map(|(k, v)| (k.as_str(), v.as_slice()))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        of("ping"),
        [
            ("security.capability", &capability[..]),
            ("system.posix_acl_access", &acl),
            ("trusted.thing", b"\x00\xff\n="),
            ("user.empty", b""),
            ("user.text", b"a value"),
        ]
    );
    assert_eq!(view["many"].xattrs.len(), 40);
    assert_eq!(view["many"].xattrs["user.many.39"], vec![39; 117]);
    assert_eq!(view["dir"].xattrs["user.on"], b"directory");
    assert_eq!(view["dir"].xattrs["system.posix_acl_default"], acl);
    assert_eq!(of("dir/libarchive"), [("user.b64", &b"hello"[..])]);
    assert_eq!(of("link"), [("trusted.link", &b"on a link"[..])]);
    assert_eq!(of("fifo"), [("trusted.fifo", &b"on a fifo"[..])]);
}

/// user::rwx, user:1000:r--, group::r-x, mask::r-x, other::r-x
fn acl_entries() -> Vec<u8> {
    [
        (1u16, 7u16, u32::MAX),
        (2, 4, 1000),
        (4, 5, u32::MAX),
        (16, 5, u32::MAX),
        (32, 5, u32::MAX),
    ]
    .iter()
    .flat_map(|(tag, bits, id)| {
        [
            &tag.to_le_bytes()[..],
            &bits.to_le_bytes(),
            &id.to_le_bytes(),
        ]
        .concat()
    })
    .collect()
}

fn attributes_that_an_image_must_not_set_are_dropped(bench: &Bench) {
    let tar = Tarball::new()
        .pax(&[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.trusted.overlay.redirect", b"/etc"),
            ("SCHILY.xattr.trusted.overlay.metacopy", b""),
            ("SCHILY.xattr.user.overlay.opaque", b"y"),
            (
                "SCHILY.xattr.security.selinux",
                b"system_u:object_r:etc_t:s0",
            ),
            ("LIBARCHIVE.xattr.trusted%2Eoverlay%2Eopaque", b"eQ=="),
        ])
        .dir("dir")
        .pax(&[("SCHILY.xattr.trusted.overlay.whiteout", b"")])
        .file("dir/file", "")
        .pax(&[
            ("SCHILY.xattr.security.capability", &capability(1000)),
            ("SCHILY.xattr.user.overlay.redirect", b"/dir/file"),
        ])
        .file("dir/another-root", "")
        .end();
    let view = bench.view(&tar);
    assert!(view.values().all(|e| e.xattrs.is_empty()), "{view:?}");
    let tar = Tarball::new()
        .pax(&[("SCHILY.xattr.security.capability", &capability(0))])
        .file("own-root", "")
        .end();
    let view = bench.view(&tar);
    assert!(view["own-root"].xattrs.contains_key("security.capability"));
}

/// CAP_NET_RAW, effective, in the user namespaces of this root.
fn capability(root: u32) -> Vec<u8> {
    let mut value = vec![1, 0, 0, 3, 0, 0x20, 0, 0];
    value.resize(20, 0);
    value.extend(root.to_le_bytes());
    value
}

fn hard_links_share_an_inode(bench: &Bench) {
    let tar = Tarball::new()
        .file("a", "shared")
        .dir("d")
        .hard_link("d/b", "a")
        .hard_link("d/c", "./d/b")
        .symlink("s", "nowhere")
        .hard_link("s2", "/s")
        .header(&Header::new(b'6', "fifo"))
        .hard_link("fifo2", "fifo")
        // A link with a size has no data behind it.
        .header(&Header::new(b'1', "sized").link("a").size(6))
        .file("last", "behind")
        .end();
    let mount = bench.mount(&tar);
    let view = view::of(&mount);
    for name in ["a", "d/b", "d/c", "sized"] {
        assert_eq!(view[name].links, 4, "{name}");
        assert_eq!(read(&mount, name), "shared");
    }
    assert_eq!(read(&mount, "last"), "behind");
    assert_eq!(view["s2"].kind, Kind::Symlink(b"nowhere".to_vec()));
    assert_eq!((view["s"].links, view["fifo"].links), (2, 2));
    assert_eq!(view["d"].links, 2);
    let inode = |name: &str| {
        std::fs::symlink_metadata(view::path_of(&mount).join(name))
            .unwrap()
            .ino()
    };
    assert_eq!(inode("a"), inode("d/c"));
    assert_eq!(bench.store.list()[0].size, 12);
}

fn long_names_and_targets(bench: &Bench) {
    let long = format!(
        "{}/{}/{}",
        "a".repeat(200),
        "b".repeat(255),
        "c".repeat(150)
    );
    let gnu = format!("{}/{}", "g".repeat(250), "h".repeat(250));
    let target = "t/".repeat(2000);
    let short = "s".repeat(450);
    let mut prefixed = Header::new(b'0', "name").block();
    prefixed[345..345 + 6].copy_from_slice(b"prefix");
    tarball::sum(&mut prefixed);
    let tar = Tarball::new()
        .pax(&[("path", long.as_bytes())])
        .file("replaced", "pax")
        .gnu_long(b'L', &gnu)
        .member(Header::new(b'0', "replaced").gnu(), b"gnu")
        .pax(&[("path", b"long-link"), ("linkpath", target.as_bytes())])
        .symlink("replaced", "replaced")
        .gnu_long(b'K', &short)
        .header(&Header::new(b'2', "medium-link").link("replaced").gnu())
        .raw(&prefixed)
        .pax(&[("path", "ümlaut/日本語\\x".as_bytes())])
        .file("replaced", "utf-8")
        .file(b"latin-\xe9\xff", "bytes")
        .pax(&[("comment", b"nothing of interest"), ("path", b"")])
        .file("kept", "")
        .end();
    let mount = bench.mount(&tar);
    assert_eq!(read(&mount, &long), "pax");
    assert_eq!(read(&mount, &gnu), "gnu");
    assert_eq!(read(&mount, "ümlaut/日本語\\x"), "utf-8");
    let view = view::of(&mount);
    assert_eq!(view["long-link"].kind, Kind::Symlink(target.into_bytes()));
    assert_eq!(view["medium-link"].kind, Kind::Symlink(short.into_bytes()));
    assert!(view.contains_key("prefix/name") && view.contains_key("kept"));
    assert!(view.contains_key("latin-\\xe9\\xff"), "{:?}", names(&view));
    assert!(!view.contains_key("replaced"));
}

fn expanded(size: usize, pieces: &[(usize, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (at, piece) in pieces {
        bytes[*at..at + piece.len()].copy_from_slice(piece);
    }
    bytes
}

fn sparse_files_in_all_forms(bench: &Bench) {
    let (first, second) = (vec![b'1'; 4096], vec![b'2'; 1000]);
    let pieces: [(usize, &[u8]); 2] = [(8192, &first), (1_000_000 - 1000, &second)];
    let data = [&first[..], &second].concat();
    let whole = expanded(1_000_000, &pieces);
    let map = format!("8192,4096,{},1000", 1_000_000 - 1000);
    let map_1_0 = format!("2\n8192\n4096\n{}\n1000\n", 1_000_000 - 1000);
    let mut map_block = map_1_0.into_bytes();
    map_block.resize(512, 0);
    let offset = (1_000_000 - 1000).to_string();

    let mut old = Header::new(b'S', "old-gnu")
        .gnu()
        .size(data.len() as u64)
        .block();
    for (i, (at, length)) in [(8192, 4096), (999_000, 1000), (1_000_000, 0)]
        .iter()
        .enumerate()
    {
        old[386 + 24 * i..][..12].copy_from_slice(&tarball::number(*at, 12));
        old[386 + 24 * i + 12..][..12].copy_from_slice(&tarball::number(*length, 12));
    }
    old[483..495].copy_from_slice(&tarball::number(1_000_000, 12));
    tarball::sum(&mut old);

    let tar = Tarball::new()
        .pax(&[
            ("GNU.sparse.size", b"1000000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.offset", b"8192"),
            ("GNU.sparse.numbytes", b"4096"),
            ("GNU.sparse.offset", offset.as_bytes()),
            ("GNU.sparse.numbytes", b"1000"),
        ])
        .file("pax-0.0", &data)
        .pax(&[
            ("GNU.sparse.size", b"1000000"),
            ("GNU.sparse.numblocks", b"2"),
            ("GNU.sparse.map", map.as_bytes()),
            ("GNU.sparse.name", b"pax-0.1"),
        ])
        .file("GNUSparseFile.1/pax-0.1", &data)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"pax-1.0"),
            ("GNU.sparse.realsize", b"1000000"),
        ])
        .file("GNUSparseFile.1/pax-1.0", [&map_block[..], &data].concat())
        .raw(&old)
        .data(&data)
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"only-a-hole"),
            ("GNU.sparse.realsize", b"123456789"),
        ])
        .file("x", [b"1\n123456789\n0\n".as_slice(), &[0; 498]].concat())
        .file("behind", "all is in step")
        .end();
    let mount = bench.mount(&tar);
    for name in ["pax-0.0", "pax-0.1", "pax-1.0", "old-gnu"] {
        let found = std::fs::read(view::path_of(&mount).join(name)).unwrap();
        assert!(found == whole, "{name}");
    }
    let hole = std::fs::metadata(view::path_of(&mount).join("only-a-hole")).unwrap();
    assert_eq!(hole.size(), 123_456_789);
    assert_eq!(read(&mount, "behind"), "all is in step");
    assert!(!view::of(&mount).contains_key("x"));
}

fn ragged_sparse_files(bench: &Bench) {
    // Pieces of odd lengths at odd places, which no block address can name.
    let mut map = Vec::new();
    let mut data = Vec::new();
    let mut whole = vec![0; 3_000_017];
    let mut at = 3;
    for i in 1..200usize {
        let length = (i * 37) % 1500;
        map.push(format!("{at},{length}"));
        let piece: Vec<u8> = (0..length).map(|n| (n * i % 251) as u8 + 1).collect();
        whole[at..at + length].copy_from_slice(&piece);
        data.extend(piece);
        at += length + (i * 613) % 27_000;
    }
    assert!(at < whole.len());
    let map = map.join(",");
    let tar = Tarball::new()
        .pax(&[
            ("GNU.sparse.size", b"3000017"),
            ("GNU.sparse.map", map.as_bytes()),
        ])
        .file("ragged", &data)
        // A terabyte with three small islands.
        .pax(&[
            ("GNU.sparse.size", b"1099511627776"),
            ("GNU.sparse.map", b"1,5,549755813888,4,1099511627771,5"),
        ])
        .file("huge", "firstmid!lastx")
        .end();
    let mount = bench.mount(&tar);
    let found = std::fs::read(view::path_of(&mount).join("ragged")).unwrap();
    assert!(found == whole);
    let huge = std::fs::File::open(view::path_of(&mount).join("huge")).unwrap();
    let at = |offset: u64, length: usize| {
        let mut bytes = vec![0; length];
        huge.read_exact_at(&mut bytes, offset).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    assert_eq!(at(0, 8), "\0first\0\0");
    assert_eq!(at(549_755_813_887, 6), "\0mid!\0");
    assert_eq!(at(1_099_511_627_770, 6), "\0lastx");
    assert_eq!(huge.metadata().unwrap().size(), 1 << 40);
    assert_eq!(at(777 << 30, 4), "\0\0\0\0");
}

fn duplicates_the_last_one_counts(bench: &Bench) {
    let tar = Tarball::new()
        .file("file", "first")
        .hard_link("other-name", "file")
        .member(Header::new(b'0', "file").mode(0o600), b"second")
        .dir("dir")
        .file("dir/child", "stays")
        .header(&Header::new(b'5', "dir").mode(0o711).owner(7, 7))
        .dir("becomes-file")
        .file("becomes-file/child", "goes")
        .file("becomes-file", "now a file")
        .file("becomes-dir", "goes")
        .dir("becomes-dir")
        .file("becomes-dir/child", "comes")
        .symlink("becomes-real", "dir")
        .dir("becomes-real")
        .file("becomes-real/child", "its own")
        .end();
    let mount = bench.mount(&tar);
    let view = view::of(&mount);
    assert_eq!(
        (read(&mount, "file"), view["file"].mode),
        ("second".into(), 0o600)
    );
    assert_eq!(
        (read(&mount, "other-name"), view["other-name"].links),
        ("first".into(), 1)
    );
    assert_eq!((view["dir"].mode, view["dir"].uid), (0o711, 7));
    assert_eq!(read(&mount, "dir/child"), "stays");
    assert_eq!(read(&mount, "becomes-file"), "now a file");
    assert_eq!(read(&mount, "becomes-dir/child"), "comes");
    assert_eq!(read(&mount, "becomes-real/child"), "its own");
    assert_eq!(view["."].links, 5);
    assert_eq!(view.len(), 10);
}

fn missing_parents_are_made(bench: &Bench) {
    let tar = Tarball::new()
        .file("a/b/c", "deep")
        .header(&Header::new(b'5', "a/b").mode(0o700).owner(3, 3))
        .end();
    let view = bench.view(&tar);
    let of = |name: &str| (view[name].mode, view[name].uid, view[name].mtime.0);
    assert_eq!(of("."), (0o755, 0, 0));
    assert_eq!(of("a"), (0o755, 0, 0));
    assert_eq!(of("a/b"), (0o700, 3, 1_700_000_000));
}

fn paths_are_cleaned_and_links_followed_inside(bench: &Bench) {
    let tar = Tarball::new()
        .file("/absolute", "1")
        .file("./dotted/./x//y", "2")
        .file("up/../sideways", "3")
        .file("/../../top", "4")
        .symlink("lib", "usr/lib")
        .dir("usr/lib")
        .file("lib/libc", "5")
        .symlink("abs", "/usr/lib")
        .file("abs/libm", "6")
        .symlink("usr/out", "../../../../../usr")
        .file("usr/out/tool", "7")
        .symlink("dangling", "/not/yet/there")
        .file("dangling/now", "8")
        .symlink("self", ".")
        .file("self/self/self/me", "9")
        .file("trailing/slash/", "10")
        .file("back\\slash\\..\\..\\x", "11")
        .file("dots./...", "12")
        .end();
    let mount = bench.mount(&tar);
    let view = view::of(&mount);
    for (path, content) in [
        ("absolute", "1"),
        ("dotted/x/y", "2"),
        ("sideways", "3"),
        ("top", "4"),
        ("usr/lib/libc", "5"),
        ("usr/lib/libm", "6"),
        ("usr/tool", "7"),
        ("not/yet/there/now", "8"),
        ("me", "9"),
        ("trailing/slash", "10"),
        ("dots./...", "12"),
    ] {
        assert_eq!(read(&mount, path), content, "{path}");
        assert!(matches!(view[path].kind, Kind::File { .. }));
    }
    assert!(view.contains_key("back\\\\slash\\\\..\\\\..\\\\x"));
    assert!(!view.contains_key("up"));
}

fn device_nodes_and_fifos(bench: &Bench) {
    let tar = Tarball::new()
        .header(&Header::new(b'3', "null").mode(0o666).device(1, 3))
        .header(
            &Header::new(b'4', "disk")
                .mode(0o660)
                .owner(0, 6)
                .device(259, 1_048_575),
        )
        .header(&Header::new(b'6', "pipe").mode(0o620))
        .header(&Header::new(b'3', "high").device(4095, 300))
        .end();
    let mount = bench.mount(&tar);
    let view = view::of(&mount);
    assert_eq!(view["null"].kind, Kind::Character(1, 3));
    assert_eq!(view["disk"].kind, Kind::Block(259, 1_048_575));
    assert_eq!((view["disk"].mode, view["disk"].gid), (0o660, 6));
    assert_eq!(
        (&view["pipe"].kind, view["pipe"].mode),
        (&Kind::Fifo, 0o620)
    );
    assert_eq!(view["high"].kind, Kind::Character(4095, 300));
    let root = bench
        .store
        .overlay(&[mount], None, None, Durability::Durable)
        .unwrap();
    let null = std::fs::OpenOptions::new()
        .write(true)
        .open(view::path_of(&root).join("null"));
    null.unwrap().write_all(b"into nothing").unwrap();
}

fn big_directories_list_and_find_every_name(bench: &Bench) {
    let mut tar = Tarball::new();
    for i in 0..1000 {
        // Lengths and first bytes of all kinds, `.` and `..` among them.
        let name = match i % 5 {
            0 => format!("big/{i}"),
            1 => format!("big/.hidden{i}"),
            2 => format!("big/!{i}{}", "n".repeat(i / 5)),
            3 => format!("big/-{}{i}", "é".repeat(i / 10)),
            _ => format!("big/..{i}"),
        };
        tar = tar
            .pax(&[("path", name.as_bytes())])
            .file("x", i.to_string());
    }
    for n in 0..60 {
        tar = (0..n).fold(tar, |tar, i| tar.file(format!("of-{n}/{i}"), ""));
    }
    let mount = bench.mount(&tar.end());
    let view = view::of(&mount);
    let big = view.keys().filter(|k| k.starts_with("big/")).count();
    assert_eq!(big, 1000);
    assert_eq!(read(&mount, "big/995"), "995");
    assert_eq!(read(&mount, &format!("big/!997{}", "n".repeat(199))), "997");
    for n in 1..60 {
        let prefix = format!("of-{n}/");
        assert_eq!(view.keys().filter(|k| k.starts_with(&prefix)).count(), n);
    }
    assert!(!view::path_of(&mount).join("big/absent").exists());
    assert!(!view::path_of(&mount).join("big/zzz").exists());
    assert!(!view::path_of(&mount).join("big/ ").exists());
}

fn big_files_and_files_of_every_size_around_a_block(bench: &Bench) {
    let big: Vec<u8> = (0u32..40_000_000)
        .map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut tar = Tarball::new().file("big", &big);
    let sizes = [
        0, 1, 511, 512, 513, 1023, 1024, 1025, 4095, 4096, 4097, 65_535, 65_537,
    ];
    for size in sizes {
        tar = tar.file(format!("of-{size}"), &big[size..2 * size]);
    }
    let mount = bench.mount(&tar.end());
    let view = view::of(&mount);
    assert_eq!(digest(&view["big"].kind), Digest::of(&big));
    for size in sizes {
        let found = digest(&view[&format!("of-{size}")].kind);
        assert_eq!(found, Digest::of(&big[size..2 * size]), "{size}");
    }
    // In the middle, mapped, and behind the end.
    let file = std::fs::File::open(view::path_of(&mount).join("big")).unwrap();
    let mut part = vec![0; 10_000];
    file.read_exact_at(&mut part, 33_333_333).unwrap();
    assert!(part == big[33_333_333..33_343_333]);
    assert_eq!(file.read_at(&mut part, 40_000_000).unwrap(), 0);
}

fn an_empty_layer(bench: &Bench) {
    let ended = Tarball::new().end();
    assert_eq!(names(&bench.view(&ended)), ["."]);
    let nothing = bench.ingest(b"");
    assert_eq!((nothing.size, nothing.tar_size), (0, 0));
    assert_eq!(
        names(&view::of(bench.store.mount(&nothing.diff_id).unwrap())),
        ["."]
    );
}

fn whiteouts_hide_lower_files(bench: &Bench) {
    let lower = Tarball::new()
        .file("gone", "1")
        .file("stays", "2")
        .dir("dir")
        .file("dir/gone", "3")
        .file("dir/stays", "4")
        .dir("tree")
        .file("tree/deep/file", "5")
        .symlink("link", "stays")
        .file("replaced", "old")
        .end();
    let upper = Tarball::new()
        .file(".wh.gone", "")
        .file("dir/.wh.gone", "")
        .file(".wh.tree", "")
        .file(".wh.link", "")
        .file(".wh.never-was", "")
        // Only lower layers are meant, in whatever order.
        .file("replaced", "new")
        .file(".wh.replaced", "")
        .file(".wh.early", "")
        .file("early", "here")
        // Bookkeeping of another storage driver.
        .file(".wh..wh.plnk/1.2", "")
        .file(".wh..wh.aufs", "")
        .end();
    let merged = bench.merged(&[&lower, &upper]);
    let view = view::of(&merged);
    assert_eq!(
        names(&view),
        [".", "dir", "dir/stays", "early", "replaced", "stays"]
    );
    assert_eq!(read(&merged, "replaced"), "new");
    let raw = bench.view(&upper);
    assert_eq!(raw["gone"].kind, Kind::Character(0, 0));
    assert!(!raw.contains_key(".wh..wh.plnk"));
}

fn opaque_directories_hide_lower_content(bench: &Bench) {
    let lower = Tarball::new()
        .file("dir/lower", "1")
        .file("dir/sub/lower", "2")
        .file("dir/sub/deep/x", "3")
        .file("other/lower", "4")
        .end();
    let upper = Tarball::new()
        .dir("dir")
        .file("dir/upper", "5")
        .file("dir/sub/upper", "6")
        .file("dir/.wh..wh..opq", "")
        .file("other/upper", "7")
        .end();
    let merged = bench.merged(&[&lower, &upper]);
    assert_eq!(
        names(&view::of(&merged)),
        [
            ".",
            "dir",
            "dir/sub",
            "dir/sub/upper",
            "dir/upper",
            "other",
            "other/lower",
            "other/upper"
        ]
    );
}

fn a_directory_that_is_whited_out_and_made_anew_is_opaque(bench: &Bench) {
    let lower = Tarball::new()
        .file("dir/lower", "1")
        .file("dir2/lower", "1")
        .end();
    let upper = Tarball::new()
        .file(".wh.dir", "")
        .dir("dir")
        .file("dir/upper", "2")
        .file("dir2/upper", "2")
        .file(".wh.dir2", "")
        .end();
    let merged = bench.merged(&[&lower, &upper]);
    assert_eq!(
        names(&view::of(&merged)),
        [".", "dir", "dir/upper", "dir2", "dir2/upper"]
    );
}

fn an_opaque_top_hides_all_lower_layers(bench: &Bench) {
    let lower = Tarball::new().file("lower", "1").end();
    let upper = Tarball::new()
        .file(".wh..wh..opq", "")
        .file("upper", "2")
        .end();
    let top = Tarball::new().file("top", "3").end();
    let merged = bench.merged(&[&lower, &upper, &top]);
    assert_eq!(names(&view::of(&merged)), [".", "top", "upper"]);
}

fn files_and_directories_replace_each_other_across_layers(bench: &Bench) {
    let first = Tarball::new()
        .file("x", "file")
        .dir("y")
        .file("y/child", "1")
        .symlink("z", "y")
        .end();
    let second = Tarball::new()
        .dir("x")
        .file("x/child", "2")
        .file("y", "file")
        .dir("z")
        .file("z/own", "4")
        .end();
    let third = Tarball::new()
        .file("x", "file again")
        .dir("y")
        .file("y/other", "3")
        .end();
    let merged = bench.merged(&[&first, &second]);
    assert_eq!(
        names(&view::of(&merged)),
        [".", "x", "x/child", "y", "z", "z/own"]
    );
    assert_eq!(read(&merged, "y"), "file");
    let merged = bench.merged(&[&first, &second, &third]);
    assert_eq!(
        names(&view::of(&merged)),
        [".", "x", "y", "y/other", "z", "z/own"]
    );
    assert_eq!(read(&merged, "x"), "file again");
}

fn a_layer_may_occur_twice(bench: &Bench) {
    let one = Tarball::new().file("a", "1").file("b", "1").end();
    let two = Tarball::new()
        .file("a", "2")
        .file(".wh.b", "")
        .file("c", "2")
        .end();
    let merged = bench.merged(&[&one, &two, &one]);
    assert_eq!(names(&view::of(&merged)), [".", "a", "b", "c"]);
    assert_eq!(read(&merged, "a"), "1");
}

fn the_root_is_writable_and_the_layers_are_not(bench: &Bench) {
    let lower = Tarball::new()
        .file("dir/file", "lower")
        .file("dir/gone", "lower")
        .end();
    let mount = bench.mount(&lower);
    let writable = bench.writable();
    for durability in [Durability::Volatile, Durability::Durable] {
        if durability == Durability::Durable {
            // What volatile left behind bars a second use, by the kernel's rule.
            std::fs::remove_dir_all(&writable.work).unwrap();
            std::fs::create_dir(&writable.work).unwrap();
        }
        let root = bench
            .store
            .overlay(
                std::slice::from_ref(&mount),
                None,
                Some(&writable),
                durability,
            )
            .unwrap();
        let path = view::path_of(&root);
        std::fs::write(path.join("dir/file"), "changed").unwrap();
        std::fs::write(path.join("new"), "new").unwrap();
        let _ = std::fs::remove_file(path.join("dir/gone"));
        assert_eq!(read(&root, "dir/file"), "changed");
        assert_eq!(names(&view::of(&root)), [".", "dir", "dir/file", "new"]);
    }
    assert_eq!(
        names(&view::of_path(&writable.upper)),
        [".", "dir", "dir/file", "dir/gone", "new"]
    );
    assert_eq!(read(&mount, "dir/file"), "lower");
}

fn directories_of_layers_can_be_renamed(bench: &Bench) {
    let lower = Tarball::new().file("dir/sub/file", "moved").end();
    let mount = bench.mount(&lower);
    let writable = bench.writable();
    let root = bench
        .store
        .overlay(&[mount], None, Some(&writable), Durability::Durable)
        .unwrap();
    let path = view::path_of(&root);
    std::fs::rename(path.join("dir"), path.join("elsewhere")).unwrap();
    std::fs::write(path.join("elsewhere/sub/second"), "").unwrap();
    assert_eq!(read(&root, "elsewhere/sub/file"), "moved");
    assert!(!path.join("dir").exists());
}

fn a_root_without_layers_and_one_without_a_writable_part(bench: &Bench) {
    let writable = bench.writable();
    let root = bench
        .store
        .overlay(&[], None, Some(&writable), Durability::Volatile)
        .unwrap();
    std::fs::write(view::path_of(&root).join("file"), "alone").unwrap();
    assert_eq!(names(&view::of(&root)), [".", "file"]);
    let mount = bench.mount(&Tarball::new().file("file", "1").end());
    let root = bench
        .store
        .overlay(&[mount], None, None, Durability::Durable)
        .unwrap();
    assert_eq!(read(&root, "file"), "1");
    assert!(std::fs::write(view::path_of(&root).join("file"), "2").is_err());
    assert!(std::fs::write(view::path_of(&root).join("other"), "2").is_err());
}

fn an_init_layer_lies_above_the_layers(bench: &Bench) {
    const ENTRIES: [InitEntry; 4] = [
        InitEntry::Directory("dev"),
        InitEntry::Directory("proc"),
        InitEntry::File("etc/hosts"),
        InitEntry::Symlink("etc/mtab", "/proc/mounts"),
    ];
    let etc = Header::new(b'5', "etc").mode(0o2750).owner(7, 8);
    let etc = etc.mtime(1_234_567_890);
    let lower = Tarball::new()
        .header(&etc)
        .file("etc/hosts", "theirs")
        .file("etc/passwd", "p")
        .header(&Header::new(b'2', "dev").link("/etc"))
        .end();
    let mounts = [bench.mount(&lower)];
    let init = bench.store.init_layer(&mounts, &ENTRIES).unwrap();
    let writable = bench.writable();
    let writable = Some(&writable);
    let root = bench
        .store
        .overlay(&mounts, Some(&init), writable, Durability::Durable);
    let root = root.unwrap();
    let seen = view::of(&root);
    assert_eq!(
        names(&seen),
        [
            ".",
            "dev",
            "etc",
            "etc/hosts",
            "etc/mtab",
            "etc/passwd",
            "proc"
        ]
    );
    assert_eq!(read(&root, "etc/hosts"), "");
    assert_eq!(read(&root, "etc/passwd"), "p");
    assert_eq!(seen["dev"].kind, Kind::Directory);
    assert_eq!(seen["etc/mtab"].kind, Kind::Symlink("/proc/mounts".into()));
    let etc = &seen["etc"];
    assert_eq!((etc.mode, etc.uid, etc.gid), (0o2750, 7, 8));
    assert_eq!(etc.mtime, (1_234_567_890, 0));
    assert_eq!(
        names(&view::of_path(&bench.tmp.path().join("upper"))),
        ["."]
    );
    // The next container has the same one.
    let inode = |fd: &dyn std::os::fd::AsFd| rustix::fs::fstat(fd).map(|s| (s.st_dev, s.st_ino));
    let again = bench.store.init_layer(&mounts, &ENTRIES).unwrap();
    assert_eq!(inode(&init), inode(&again));
    let link = Header::new(b'2', "etc").link("/elsewhere");
    let linked = [bench.mount(&Tarball::new().header(&link).file("elsewhere/x", "").end())];
    let init = bench.store.init_layer(&linked, &ENTRIES).unwrap();
    let root = bench
        .store
        .overlay(&linked, Some(&init), None, Durability::Durable);
    let seen = view::of(root.unwrap());
    assert_eq!(seen["etc"].kind, Kind::Directory);
    assert!(!seen.contains_key("elsewhere/hosts"));
}

fn a_hundred_layers(bench: &Bench) {
    let tars: Vec<_> = (0..100)
        .map(|i| {
            Tarball::new()
                .file(format!("layer-{i}"), i.to_string())
                .file("common", i.to_string())
                .end()
        })
        .collect();
    let tars: Vec<&[u8]> = tars.iter().map(Vec::as_slice).collect();
    let merged = bench.merged(&tars);
    assert_eq!(view::of(&merged).len(), 102);
    assert_eq!(read(&merged, "common"), "99");
    assert_eq!(read(&merged, "layer-0"), "0");
}

/// A tree with something of everything.
fn sample_tree(top: &Path) {
    std::fs::create_dir_all(top.join("usr/share/doc")).unwrap();
    std::fs::write(top.join("usr/file"), vec![7; 100_000]).unwrap();
    std::fs::hard_link(top.join("usr/file"), top.join("usr/share/linked")).unwrap();
    symlink("../usr/file", top.join("usr/symlink")).unwrap();
    symlink("x".repeat(300), top.join("long-symlink")).unwrap();
    std::fs::write(top.join(format!("usr/{}", "long".repeat(60))), "long").unwrap();
    let deep = top.join(vec!["deeper"; 40].join("/"));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("file"), "deep").unwrap();
    rustix::fs::mknodat(CWD, top.join("fifo"), FileType::Fifo, Mode::RWXU, 0).unwrap();
    let device = rustix::fs::makedev(1, 5);
    rustix::fs::mknodat(
        CWD,
        top.join("zero"),
        FileType::CharacterDevice,
        Mode::RWXU,
        device,
    )
    .unwrap();
    let sparse = std::fs::File::create(top.join("sparse")).unwrap();
    sparse.set_len(50_000_000).unwrap();
    sparse.write_all_at(b"island", 10_000_000).unwrap();
    sparse.write_all_at(&[9; 5000], 30_000_000).unwrap();
    let times = rustix::fs::Timespec {
        tv_sec: 1_111_111_111,
        tv_nsec: 222_333_444,
    };
    let times = rustix::fs::Timestamps {
        last_access: times,
        last_modification: times,
    };
    for path in ["usr/file", "usr/share", "fifo"] {
        rustix::fs::utimensat(CWD, top.join(path), &times, rustix::fs::AtFlags::empty()).unwrap();
    }
    rustix::fs::chown(
        top.join("usr/share/doc"),
        Some(rustix::fs::Uid::from_raw(3_000_000_000)),
        None,
    )
    .unwrap();
    rustix::fs::setxattr(
        top.join("usr/file"),
        "user.colour",
        b"green",
        rustix::fs::XattrFlags::empty(),
    )
    .unwrap();
}

fn what_gnu_tar_packs_comes_back(bench: &Bench) {
    let source = bench.tmp.path().join("source");
    sample_tree(&source);
    let expected = view::of_path(&source);
    for (format, arguments) in [
        (
            "pax",
            &["--format=pax", "--xattrs", "--xattrs-include=*"][..],
        ),
        (
            "pax sparse 1.0",
            &["--format=pax", "--sparse", "--xattrs", "--xattrs-include=*"],
        ),
        (
            "pax sparse 0.1",
            &["--format=pax", "--sparse", "--sparse-version=0.1"],
        ),
        (
            "pax sparse 0.0",
            &["--format=pax", "--sparse", "--sparse-version=0.0"],
        ),
        ("gnu", &["--format=gnu"]),
        ("gnu sparse", &["--format=gnu", "--sparse"]),
    ] {
        let output = std::process::Command::new("tar")
            .arg("-C")
            .arg(&source)
            .args(arguments)
            .args(["-cf", "-", "."])
            .output()
            .unwrap();
        assert!(output.status.success(), "{format}");
        let mut found = bench.view(&output.stdout);
        let mut expected = expected.clone();
        for entry in expected.values_mut().chain(found.values_mut()) {
            if !format.starts_with("pax") {
                entry.mtime.1 = 0;
            }
            if !arguments.contains(&"--xattrs") {
                entry.xattrs.clear();
            }
        }
        assert_eq!(found, expected, "{format}");
    }
}

fn the_tar_comes_back_byte_for_byte(bench: &Bench) {
    // Behind the end blocks there may be anything; it counts for the digest.
    let tar = Tarball::new()
        .file("a", "1")
        .raw(&[0; 1024])
        .raw(b"trailing")
        .end();
    let layer = bench.ingest(&tar);
    let path = bench.tmp.path().join("copy");
    let mut copy = std::fs::File::create(&path).unwrap();
    std::io::copy(
        &mut bench.store.open_tar(&layer.diff_id).unwrap(),
        &mut copy,
    )
    .unwrap();
    assert!(std::fs::read(&path).unwrap() == tar);
    bench.store.verify(&layer.diff_id).unwrap();
    assert_eq!(layer.tar_size, tar.len() as u64);
}

#[test]
fn a_layer_of_one_driver_serves_the_other() {
    requires!(root, overlay, erofs_file_backed);
    let tmp = tempfile::tempdir().unwrap();
    let tar = Tarball::new().file("file", "1").file("dir/.wh.x", "").end();
    let open = |driver| {
        let options = Options {
            driver,
            ..Options::default()
        };
        LayerStore::open(tmp.path(), options).unwrap()
    };
    let store = open(Driver::TarIndex);
    let mut ingest = store.ingest().unwrap();
    ingest.write_all(&tar).unwrap();
    let layer = ingest.commit(None).unwrap();
    let expected = view::of(store.mount(&layer.diff_id).unwrap());
    drop(store);
    let store = open(Driver::Directory);
    let mut found = view::of(store.mount(&layer.diff_id).unwrap());
    // Whiteouts share an inode in one and not in the other.
    for entry in found.values_mut().chain(&mut expected.clone().values_mut()) {
        entry.links = 0;
    }
    assert_eq!(names(&found), names(&expected));
    drop(store);
    let store = open(Driver::Auto);
    assert_eq!(store.driver().unwrap(), Driver::TarIndex);
    store.mount(&layer.diff_id).unwrap();
    assert!(store.quarantined().is_empty());
    let _ = PathBuf::new();
}
