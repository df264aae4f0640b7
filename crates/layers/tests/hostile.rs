//! Layers made to break something: each is refused with a clear error or does
//! no harm, in bounded time and memory.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)]

mod tarball;
mod view;

use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sampan_kernel::requires;
use sampan_kernel::requires::Feature;
use sampan_layers::{
    Driver, Error, ErrorKind, Layer, LayerStore, Limits, Options, Reason, TarError,
};
use sampan_oci::Digest;
use tarball::{Header, Tarball, number, record, sum};

fn store(limits: Limits) -> (tempfile::TempDir, LayerStore) {
    let tmp = tempfile::tempdir().unwrap();
    let options = Options {
        driver: Driver::TarIndex,
        limits,
        ..Options::default()
    };
    let store = LayerStore::open(tmp.path(), options).unwrap();
    (tmp, store)
}

fn ingest(store: &LayerStore, tar: &[u8]) -> Result<Layer, Error> {
    let mut ingest = store.ingest()?;
    ingest.push(tar)?;
    ingest.commit(None)
}

/// The error, its cause included, and nothing left in the store.
fn refusal(tar: &[u8]) -> (Error, String) {
    let (tmp, store) = store(Limits::default());
    let error = ingest(&store, tar).expect_err("this layer must be refused");
    assert_eq!(error.kind(), ErrorKind::Invalid, "{error:?}");
    let cause = std::error::Error::source(&error).map(ToString::to_string);
    let left: Vec<_> = std::fs::read_dir(tmp.path().join("layers"))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|name| name != "lock")
        .collect();
    assert!(left.is_empty(), "{left:?}");
    (error, cause.unwrap_or_default())
}

fn is_member(tar: &[u8], expected: impl Fn(&Reason) -> bool) {
    let (error, _) = refusal(tar);
    match &error {
        Error::Member { reason, .. } if expected(reason) => {}
        other => panic!("{other:?}"),
    }
}

fn is_tar(tar: &[u8], expected: &TarError) {
    let (error, _) = refusal(tar);
    match &error {
        Error::Tar { source, .. } if source == expected => {}
        other => panic!("{other:?}, not {expected:?}"),
    }
}

#[test]
fn paths_that_leave_the_layer_are_refused() {
    for path in ["../x", "a/../../x", "..", "./..", "a/../../../etc/passwd"] {
        is_member(&Tarball::new().file(path, "x").end(), |r| {
            matches!(r, Reason::Escapes)
        });
        is_member(&Tarball::new().dir(path).end(), |r| {
            matches!(r, Reason::Escapes)
        });
        let link = Tarball::new().hard_link("shadow", path).end();
        is_member(&link, |r| matches!(r, Reason::Escapes));
    }
    is_member(
        &Tarball::new()
            .file(".wh.../x", "")
            .file("../.wh.x", "")
            .end(),
        |r| matches!(r, Reason::Escapes),
    );
}

#[test]
fn the_top_stays_a_directory() {
    for path in ["", ".", "/", "./", "a/.."] {
        is_member(&Tarball::new().file(path, "x").end(), |r| {
            matches!(r, Reason::RootNotDirectory)
        });
        is_member(&Tarball::new().symlink(path, "/").end(), |r| {
            matches!(r, Reason::RootNotDirectory)
        });
    }
    is_member(
        &Tarball::new().file("a", "").hard_link("/", "a").end(),
        |r| matches!(r, Reason::RootNotDirectory),
    );
}

#[test]
fn long_names_are_refused() {
    let name = "n".repeat(256);
    let path = "p/".repeat(2048) + "x";
    let named = |path: &str| {
        Tarball::new()
            .pax(&[("path", path.as_bytes())])
            .file("x", "")
            .end()
    };
    is_member(&named(&name), |r| matches!(r, Reason::NameTooLong));
    is_member(&named(&format!("a/{name}/b")), |r| {
        matches!(r, Reason::NameTooLong)
    });
    is_member(&named(&path), |r| matches!(r, Reason::PathTooLong));
    let target = Tarball::new()
        .pax(&[("linkpath", "t".repeat(5000).as_bytes())])
        .symlink("x", "x")
        .end();
    is_member(&target, |r| matches!(r, Reason::PathTooLong));
    // Also where a link leads.
    let through = Tarball::new()
        .pax(&[("linkpath", name.as_bytes())])
        .symlink("link", "x")
        .file("link/file", "")
        .end();
    is_member(&through, |r| matches!(r, Reason::NameTooLong));
}

#[test]
fn links_to_what_is_not_there_are_refused() {
    let missing = |r: &Reason| matches!(r, Reason::TargetMissing);
    is_member(&Tarball::new().hard_link("x", "/etc/shadow").end(), missing);
    is_member(
        &Tarball::new().hard_link("b", "a").file("a", "").end(),
        missing,
    );
    is_member(&Tarball::new().hard_link("a", "a").end(), missing);
    let host = Tarball::new()
        .symlink("e", "/../../../etc")
        .hard_link("x", "e/shadow")
        .end();
    is_member(&host, missing);
    is_member(
        &Tarball::new().file("a", "").hard_link("a", "a").end(),
        |r| matches!(r, Reason::LinkToItself),
    );
    is_member(&Tarball::new().dir("d").hard_link("x", "d").end(), |r| {
        matches!(r, Reason::LinkToDirectory)
    });
    is_member(&Tarball::new().dir("d").hard_link("x", "/").end(), |r| {
        matches!(r, Reason::LinkToDirectory)
    });
    is_member(&Tarball::new().symlink("x", "").end(), |r| {
        matches!(r, Reason::EmptyTarget)
    });
}

#[test]
fn parents_that_are_no_directories_are_refused() {
    let no_directory = |r: &Reason| matches!(r, Reason::ParentNotDirectory);
    is_member(
        &Tarball::new().file("f", "").file("f/x", "").end(),
        no_directory,
    );
    is_member(
        &Tarball::new()
            .header(&Header::new(b'6', "f"))
            .dir("f/x/y")
            .end(),
        no_directory,
    );
    let by_link = Tarball::new()
        .file("f", "")
        .symlink("l", "f")
        .file("l/x", "")
        .end();
    is_member(&by_link, no_directory);
    for (target, other) in [("l", "l"), ("m/x", "l/x"), ("./l", "m")] {
        let circle = Tarball::new()
            .symlink("l", target)
            .symlink("m", other)
            .file("l/x", "")
            .end();
        is_member(&circle, |r| {
            matches!(r, Reason::TooManyLinks | Reason::NameTooLong)
        });
    }
}

#[test]
fn whiteouts_of_nothing_are_refused() {
    for path in [".wh.", ".wh..", ".wh...", "a/.wh.", "a/.wh.."] {
        is_member(&Tarball::new().file(path, "").end(), |r| {
            matches!(r, Reason::WhiteoutOfNothing)
        });
    }
}

#[test]
fn strange_names_are_names_and_nothing_more() {
    requires!(root, erofs_file_backed);
    let names: [&[u8]; 19] = [
        b"...",
        b"a.",
        b".. ",
        b" ..",
        b"..;",
        b"..\\..\\x",
        b"C:\\x",
        b"\\\\host\\share",
        b"..%2f..%2fx",
        b"~",
        b"-rf",
        b"\x1b[2J",
        b"line\nbreak",
        b"\x7f",
        b"..\xc0\xaf..\xc0\xafx",
        b"\xff\xfe",
        "..\u{2215}x".as_bytes(),
        "\u{ff0e}\u{ff0e}".as_bytes(),
        "\u{202e}txt.exe".as_bytes(),
    ];
    let tar = names.iter().fold(Tarball::new(), |tar, name| {
        tar.pax(&[("path", name)]).file("x", "content")
    });
    let (_tmp, store) = store(Limits::default());
    let layer = ingest(&store, &tar.end()).unwrap();
    let mount = store.mount(&layer.diff_id).unwrap();
    let found: BTreeSet<Vec<u8>> = std::fs::read_dir(view::path_of(&mount))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_vec())
        .collect();
    let expected: BTreeSet<Vec<u8>> = names.iter().map(|name| name.to_vec()).collect();
    assert_eq!(found, expected);
}

#[test]
fn whiteouts_stay_in_their_layer() {
    requires!(root, erofs_file_backed);
    let tar = Tarball::new()
        .symlink("out", "/../../../etc")
        .file("out/.wh.passwd", "")
        .file("/../../.wh.top", "")
        // A directory of that name, as Docker has it.
        .file(".wh../x", "1")
        .file(".wh..wh.", "bookkeeping")
        .file(".wh.d/.wh..wh..opq", "")
        .end();
    let (_tmp, store) = store(Limits::default());
    let layer = ingest(&store, &tar).unwrap();
    let view = view::of(store.mount(&layer.diff_id).unwrap());
    assert_eq!(view["etc/passwd"].kind, view::Kind::Character(0, 0));
    assert_eq!(view["top"].kind, view::Kind::Character(0, 0));
    assert!(view.contains_key(".wh../x"));
    assert!(!view.contains_key(".wh..wh."));
}

#[test]
fn a_hard_link_to_a_file_of_a_lower_layer_is_refused() {
    let (_tmp, store) = store(Limits::default());
    ingest(&store, &Tarball::new().file("etc/shadow", "secret").end()).unwrap();
    let upper = Tarball::new().hard_link("x", "etc/shadow").end();
    let error = ingest(&store, &upper).unwrap_err();
    assert!(
        matches!(
            error,
            Error::Member {
                reason: Reason::TargetMissing,
                ..
            }
        ),
        "{error:?}"
    );
}

#[test]
fn numbers_out_of_range_are_refused() {
    let pax = |key: &str, value: &str| {
        Tarball::new()
            .pax(&[(key, value.as_bytes())])
            .file("f", "x")
            .end()
    };
    is_tar(&pax("size", "-1"), &TarError::Number("size"));
    is_tar(
        &pax("size", "99999999999999999999"),
        &TarError::Number("size"),
    );
    is_tar(&pax("size", "0x10"), &TarError::Number("size"));
    // The owner "nobody at all" would leave root's.
    is_tar(&pax("uid", "4294967295"), &TarError::Number("uid"));
    is_tar(&pax("uid", "4294967296"), &TarError::Number("uid"));
    is_tar(&pax("uid", "-1"), &TarError::Number("uid"));
    is_tar(
        &pax("gid", "18446744073709551616"),
        &TarError::Number("gid"),
    );
    is_tar(&pax("mtime", "1e9"), &TarError::Number("mtime"));
    is_tar(
        &pax("mtime", "99999999999999999999"),
        &TarError::Number("mtime"),
    );
    let header = |header: Header| Tarball::new().header(&header).end();
    is_tar(
        &header(Header::new(b'0', "f").owner(u64::from(u32::MAX), 0)),
        &TarError::Number("uid"),
    );
    is_tar(
        &header(Header::new(b'3', "f").device(4096, 0)),
        &TarError::Number("device number"),
    );
    is_tar(
        &header(Header::new(b'3', "f").device(0, 1 << 20)),
        &TarError::Number("device number"),
    );
    let mut negative = Header::new(b'0', "f").block();
    negative[124..136].fill(0xff);
    sum(&mut negative);
    is_tar(
        &Tarball::new().raw(&negative).end(),
        &TarError::Number("size"),
    );
    let mut text = Header::new(b'0', "f").block();
    text[108..116].copy_from_slice(b"root\0\0\0\0");
    sum(&mut text);
    is_tar(&Tarball::new().raw(&text).end(), &TarError::Number("uid"));
}

#[test]
fn a_size_beyond_the_archive_is_a_truncated_one() {
    for size in ["1025", "9223372036854775807"] {
        let tar = Tarball::new()
            .pax(&[("size", size.as_bytes())])
            .file("f", "x")
            .raw(&[0; 512]);
        let (error, _) = refusal(&tar.0);
        assert!(
            matches!(
                error,
                Error::Tar {
                    source: TarError::Truncated,
                    ..
                } | Error::Member {
                    reason: Reason::FileTooLarge,
                    ..
                }
            ),
            "{error:?}"
        );
    }
    is_member(
        &Tarball::new()
            .pax(&[("size", b"17592186044417")])
            .file("f", "")
            .end(),
        |r| matches!(r, Reason::FileTooLarge),
    );
}

#[test]
fn the_pax_size_counts_so_nothing_is_smuggled_in_the_difference() {
    // A reader that used the header's size would find a member in the data.
    let inner = Tarball::new().file("smuggled", "evil").0;
    let length = inner.len().to_string();
    let tar = Tarball::new()
        .pax(&[("size", length.as_bytes())])
        .header(&Header::new(b'0', "outer").size(0))
        .data(&inner)
        .file("after", "")
        .end();
    let (_tmp, store) = store(Limits::default());
    let layer = ingest(&store, &tar).unwrap();
    assert_eq!((layer.entries, layer.size), (3, inner.len() as u64));
}

#[test]
fn malformed_archives_are_refused() {
    let good = Tarball::new().file("a", "1").file("b", "2").end();
    let mut bad = good.clone();
    bad[0] ^= 1;
    is_tar(&bad, &TarError::Checksum);
    is_tar(
        b"this is no tar at all, and not even a whole block",
        &TarError::Truncated,
    );
    is_tar(&[b'x'; 512], &TarError::Checksum);
    is_tar(&good[..512], &TarError::Truncated);
    is_tar(&good[..1100], &TarError::Truncated);
    let lone = Tarball::new()
        .file("a", "")
        .raw(&[0; 512])
        .file("b", "")
        .end();
    is_tar(&lone, &TarError::Malformed("end of the archive"));
    is_tar(
        &Tarball::new().pax(&[("path", b"x")]).end(),
        &TarError::Truncated,
    );
    is_tar(&Tarball::new().gnu_long(b'L', "x").0, &TarError::Truncated);
    for flag in *b"VMNDIAXZ89~\x01" {
        let tar = Tarball::new().header(&Header::new(flag, "x")).end();
        is_tar(&tar, &TarError::Type(char::from(flag)));
    }
    is_tar(
        &Tarball::new().pax(&[("path", b"a\0b")]).file("x", "").end(),
        &TarError::Malformed("PAX record"),
    );
    is_tar(
        &Tarball::new()
            .member(Header::new(b'x', "p"), b"30 path=short\n")
            .file("x", "")
            .end(),
        &TarError::Malformed("PAX record"),
    );
    let (_tmp, store) = store(Limits::default());
    let mut ingest = store.ingest().unwrap();
    ingest.push(&good).unwrap();
    let behind = vec![0; 1 << 20];
    let error = (0..65).find_map(|_| ingest.push(&behind).err()).unwrap();
    assert!(
        matches!(
            error,
            Error::Tar {
                source: TarError::Behind,
                ..
            }
        ),
        "{error:?}"
    );
    let huge = Header::new(b'x', "p").size(2 << 20);
    is_tar(
        &Tarball::new().header(&huge).end(),
        &TarError::ExtensionSize(2 << 20),
    );
    let endless = Header::new(b'L', "p").size(1 << 40);
    is_tar(
        &Tarball::new().header(&endless).end(),
        &TarError::ExtensionSize(1 << 40),
    );
}

#[test]
fn archives_that_docker_takes_are_taken() {
    let (_tmp, store) = store(Limits::default());
    let whole = Tarball::new().file("a", "1");
    let entries = |tar: &[u8]| ingest(&store, tar).unwrap().entries;
    // No end blocks, one of them, no padding at the very end.
    assert_eq!(entries(&whole.0), 2);
    assert_eq!(entries(&[&whole.0[..], &[0; 512]].concat()), 2);
    assert_eq!(entries(&whole.0[..513]), 2);
    // A second archive behind the first is of no effect.
    let second = Tarball::new().file("b", "2").end();
    assert_eq!(entries(&[whole.clone().end(), second].concat()), 2);
    // Global headers are of no effect.
    let global = Tarball::new()
        .pax_global(&[("path", b"evil"), ("size", b"5"), ("comment", b"0123")])
        .file("a", "1")
        .file("b", "1")
        .end();
    assert_eq!(entries(&global), 3);
    // Signed checksums, and types only the oldest tars have.
    let mut signed = Header::new(b'0', b"caf\xe9").block();
    signed[148..156].fill(b' ');
    let total: i64 = signed.iter().map(|b| i64::from(b.cast_signed())).sum();
    signed[148..156].copy_from_slice(format!("{total:06o}\0 ").as_bytes());
    assert_eq!(entries(&Tarball::new().raw(&signed).end()), 2);
    let old = Tarball::new()
        .header(&Header {
            magic: b"\0\0\0\0\0\0\0\0",
            ..Header::new(0, "dir/")
        })
        .header(&Header::new(b'7', "dir/contiguous"))
        .end();
    assert_eq!(entries(&old), 3);
}

#[test]
fn sparse_maps_that_lie_are_refused() {
    let map = |map: &str, size: &str, data: &[u8]| {
        Tarball::new()
            .pax(&[
                ("GNU.sparse.map", map.as_bytes()),
                ("GNU.sparse.size", size.as_bytes()),
            ])
            .file("s", data)
            .end()
    };
    for (pieces, size, data) in [
        ("0,4", "3", &b"1234"[..]),
        ("4,4,0,4", "8", b"12345678"),
        ("0,4,2,4", "8", b"12345678"),
        ("0,4", "8", b"123"),
        ("0,4", "8", b"12345"),
        ("0,4,", "8", b"1234"),
        ("0", "8", b""),
        ("-1,4", "8", b"1234"),
        (
            "9223372036854775807,9223372036854775807",
            "9223372036854775807",
            b"",
        ),
        ("x,y", "8", b""),
    ] {
        is_tar(&map(pieces, size, data), &TarError::SparseMap);
    }
    let version = Tarball::new()
        .pax(&[("GNU.sparse.major", b"2"), ("GNU.sparse.minor", b"0")])
        .file("s", "")
        .end();
    is_tar(&version, &TarError::Malformed("sparse version"));
    let unended = Tarball::new()
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"8"),
        ])
        .file("s", [b'1'; 600])
        .end();
    is_tar(&unended, &TarError::SparseMap);
    let directory = Tarball::new()
        .pax(&[("GNU.sparse.map", b"0,0")])
        .dir("d")
        .end();
    is_tar(&directory, &TarError::SparseMap);
    let mut many = Header::new(b'S', "s").gnu().size(0).block();
    many[482] = 1;
    many[483..495].copy_from_slice(&number(8, 12));
    sum(&mut many);
    is_tar(&Tarball::new().raw(&many).0, &TarError::Truncated);
}

#[test]
fn attributes_beyond_bounds_are_refused() {
    let xattr = |name: &str, size: usize| {
        let key = format!("SCHILY.xattr.{name}");
        Tarball::new()
            .pax(&[(&key, &vec![b'v'; size])])
            .file("f", "")
            .end()
    };
    let large = |r: &Reason| matches!(r, Reason::XattrTooLarge);
    is_member(&xattr("user.large", 65_536), large);
    is_member(&xattr(&format!("user.{}", "n".repeat(251)), 1), large);
    let (_tmp, store) = store(Limits::default());
    ingest(&store, &xattr("user.large", 65_535)).unwrap();
    let many: Vec<u8> = (0..8)
        .flat_map(|i| record(&format!("SCHILY.xattr.user.{i}"), &[b'v'; 40_000]))
        .collect();
    is_member(
        &Tarball::new()
            .member(Header::new(b'x', "p"), &many)
            .file("f", "")
            .end(),
        large,
    );
}

#[test]
fn floods_of_attributes_are_bounded() {
    let start = Instant::now();
    let attributes = |count: usize, size: usize| -> Vec<u8> {
        (0..count)
            .flat_map(|i| record(&format!("SCHILY.xattr.user.{i}"), &vec![b'v'; size]))
            .collect()
    };
    let (_tmp, store) = store(Limits::default());
    // A hundred thousand on one file are more than its header may have.
    let one = Tarball::new()
        .member(Header::new(b'x', "p"), &attributes(100_000, 1))
        .file("f", "")
        .end();
    let error = ingest(&store, &one).unwrap_err();
    assert!(matches!(error, Error::Tar { .. }), "{error:?}");
    // As many on a thousand files.
    let hundred = attributes(100, 1);
    let many = (0..1000).fold(Tarball::new(), |tar, i| {
        tar.member(Header::new(b'x', "p"), &hundred)
            .file(i.to_string(), "")
    });
    let layer = ingest(&store, &many.end()).unwrap();
    assert_eq!(layer.entries, 1001);
    // Large ones, until there are too many of them.
    let mut ingest = store.ingest().unwrap();
    let large = attributes(3, 60_000);
    let file = Tarball::new()
        .member(Header::new(b'x', "p"), &large)
        .file("f", "")
        .0;
    let error = (0..10_000).find_map(|_| ingest.push(&file).err()).unwrap();
    assert!(matches!(error, Error::TooMuchMetadata { .. }), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(600));
}

#[test]
fn a_large_attribute_is_readable() {
    requires!(root, erofs_file_backed);
    let (_tmp, store) = store(Limits::default());
    let value: Vec<u8> = (0u32..65_535).map(|i| (i % 251) as u8).collect();
    let tar = Tarball::new()
        .pax(&[
            ("SCHILY.xattr.user.large", &value),
            ("SCHILY.xattr.user.small", b"s"),
        ])
        .file("f", "content")
        .pax(&[("SCHILY.xattr.trusted.large", &value[..600])])
        .symlink("l", "t".repeat(99))
        .end();
    let layer = ingest(&store, &tar).unwrap();
    let view = view::of(store.mount(&layer.diff_id).unwrap());
    assert!(view["f"].xattrs["user.large"] == value);
    assert_eq!(view["f"].xattrs["user.small"], b"s");
    assert_eq!(view["l"].kind, view::Kind::Symlink(vec![b't'; 99]));
    assert!(view["l"].xattrs["trusted.large"] == value[..600]);
}

#[test]
fn bounds_of_a_layer_hold() {
    let small = Limits {
        entries: 100,
        metadata: 10_000,
        sparse: 10_000,
    };
    let (_tmp, store) = store(small);
    let files = |n| (0..n).fold(Tarball::new(), |tar, i| tar.file(i.to_string(), ""));
    ingest(&store, &files(99).end()).unwrap();
    let error = ingest(&store, &files(100).end()).unwrap_err();
    assert!(matches!(error, Error::TooManyEntries { limit: 100 }));
    // One member may make many directories.
    let deep = "d/".repeat(150);
    let tar = Tarball::new()
        .pax(&[("path", deep.as_bytes())])
        .dir("x")
        .end();
    assert!(matches!(
        ingest(&store, &tar).unwrap_err(),
        Error::TooManyEntries { .. }
    ));
    let links = (0..400).fold(Tarball::new().file("a", ""), |tar, i| {
        tar.hard_link(format!("l{i}"), "a")
    });
    let error = ingest(&store, &links.end()).unwrap_err();
    assert!(matches!(error, Error::TooMuchMetadata { limit: 10_000 }));
    let whiteouts = (0..400).fold(Tarball::new(), |tar, i| tar.file(format!(".wh.{i}"), ""));
    let error = ingest(&store, &whiteouts.end()).unwrap_err();
    assert!(matches!(error, Error::TooMuchMetadata { .. }));
    let pieces: Vec<String> = (0..100).map(|i| format!("{},1", i * 100_000)).collect();
    let ragged = Tarball::new()
        .pax(&[
            ("GNU.sparse.map", pieces.join(",").as_bytes()),
            ("GNU.sparse.size", b"10000000"),
        ])
        .file("s", [b'x'; 100])
        .end();
    assert!(matches!(
        ingest(&store, &ragged).unwrap_err(),
        Error::TooFragmented
    ));
    assert_eq!(store.list().len(), 1);
}

#[test]
fn an_error_is_told_by_io_write_too_and_stays() {
    let (_tmp, store) = store(Limits::default());
    let mut ingest = store.ingest().unwrap();
    let error = ingest
        .write_all(&Tarball::new().file("../x", "").end())
        .unwrap_err();
    let error = Error::from_io(error).unwrap();
    assert!(matches!(error, Error::Member { .. }));
    assert!(ingest.write_all(b"more").is_err());
    assert!(matches!(ingest.commit(None).unwrap_err(), Error::Aborted));
}

#[test]
fn a_deep_tree_and_a_terabyte_of_nothing_cost_little() {
    requires!(root, erofs_file_backed);
    let (_tmp, store) = store(Limits::default());
    let start = Instant::now();
    // Each link leads a path's length further down.
    let down = "d/".repeat(2000);
    let mut tar = Tarball::new().pax(&[("path", down.as_bytes())]).dir("x");
    for level in 0..3 {
        let target = format!("{}{}", if level == 0 { "/" } else { "/link0/" }, down);
        tar = tar
            .pax(&[("linkpath", target.as_bytes())])
            .symlink(format!("link{level}"), "x")
            .pax(&[("path", format!("link{level}/{down}").as_bytes())])
            .dir("x");
    }
    let tar = tar
        .pax(&[
            ("GNU.sparse.map", b"0,0"),
            ("GNU.sparse.size", b"17592186044416"),
        ])
        .file("sixteen-terabytes", "")
        .end();
    let layer = ingest(&store, &tar).unwrap();
    assert_eq!(layer.size, 1 << 44);
    let _mount = store.mount(&layer.diff_id).unwrap();
    assert!(
        start.elapsed() < Duration::from_secs(60),
        "{:?}",
        start.elapsed()
    );
}

#[test]
fn a_million_entries_in_one_directory_are_taken() {
    requires!(root, erofs_file_backed);
    let (tmp, store) = store(Limits::default());
    let start = Instant::now();
    let mut ingest = store.ingest().unwrap();
    let mut header = Header::new(b'0', "");
    for i in 0..1_000_000 {
        header.path = format!("d/{i:07}").into_bytes();
        ingest.push(&header.block()).unwrap();
    }
    let layer = ingest.commit(None).unwrap();
    assert_eq!(layer.entries, 1_000_002);
    let mount = store.mount(&layer.diff_id).unwrap();
    let path = view::path_of(&mount).join("d");
    assert!(path.join("0999999").exists() && !path.join("1000000").exists());
    assert_eq!(std::fs::read_dir(path).unwrap().count(), 1_000_000);
    let index = tmp
        .path()
        .join("layers")
        .join(layer.diff_id.hex())
        .join("index.erofs");
    let size = std::fs::metadata(index).unwrap().len();
    println!(
        "a million entries: {:?}, index {size} bytes",
        start.elapsed()
    );
    assert!(size < 100 << 20);
    assert!(start.elapsed() < Duration::from_secs(600));
}

/// Whatever is done to a tar, the parser answers, and what it takes mounts.
#[test]
fn mutated_archives_never_panic() {
    let sample = sample();
    let (_tmp, store) = store(Limits {
        entries: 10_000,
        metadata: 1 << 20,
        sparse: 1 << 20,
    });
    let edits = prop::collection::vec((0..sample.len(), any::<u8>(), 0..4u8), 1..6);
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 250,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let mountable = Feature::erofs_file_backed.missing().is_none();
    runner
        .run(&edits, |edits| {
            let mut tar = sample.clone();
            for (at, value, how) in edits {
                match how {
                    0 => tar[at] = value,
                    1 => tar[at] ^= 1 << (value % 8),
                    // Digits are what lengths are made of.
                    2 => tar[at] = b'0' + value % 10,
                    _ => {
                        let from = usize::from(value) % 40 * 512;
                        if from + 512 <= tar.len() {
                            tar.copy_within(from..from + 512, at / 512 * 512);
                        }
                    }
                }
            }
            fix_checksums(&mut tar);
            if let Ok(layer) = ingest(&store, &tar)
                && mountable
            {
                let mount = store.mount(&layer.diff_id).unwrap();
                let view = view_of_small(&mount);
                prop_assert!(view as u64 <= layer.entries + 1000);
                drop(mount);
                store.remove(&layer.diff_id).unwrap();
            }
            Ok(())
        })
        .unwrap();
}

/// Counts entries without reading files, which may claim terabytes.
fn view_of_small(mount: impl std::os::fd::AsFd) -> usize {
    fn walk(path: &std::path::Path) -> usize {
        std::fs::read_dir(path)
            .unwrap()
            .map(|entry| {
                let entry = entry.unwrap();
                let kind = entry.metadata().unwrap().file_type();
                view::xattrs(&entry.path());
                1 + if kind.is_dir() {
                    walk(&entry.path())
                } else {
                    0
                }
            })
            .sum()
    }
    walk(&view::path_of(mount).join("."))
}

fn sample() -> Vec<u8> {
    let mut old = Header::new(b'S', "old").gnu().size(600).block();
    old[386..398].copy_from_slice(&number(512, 12));
    old[398..410].copy_from_slice(&number(600, 12));
    old[483..495].copy_from_slice(&number(100_000, 12));
    sum(&mut old);
    Tarball::new()
        .dir("d")
        .file("d/f", [b'x'; 700])
        .pax(&[
            ("path", b"d/pax"),
            ("size", b"5"),
            ("mtime", b"12.5"),
            ("SCHILY.xattr.user.a", b"b"),
        ])
        .file("x", "12345")
        .gnu_long(b'L', "d/long/name")
        .member(Header::new(b'0', "x").gnu(), b"y")
        .symlink("d/s", "f")
        .hard_link("h", "d/f")
        .raw(&old)
        .data(&[b'o'; 600])
        .pax(&[
            ("GNU.sparse.map", b"10,3,5000,4"),
            ("GNU.sparse.size", b"9000"),
        ])
        .file("s1", "1234567")
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"70000"),
        ])
        .file(
            "s2",
            [b"1\n60000\n5\n".as_slice(), &[0; 502], b"abcde"].concat(),
        )
        .file("d/.wh.gone", "")
        .file("d/.wh..wh..opq", "")
        .header(&Header::new(b'3', "c").device(1, 3))
        .file("last", Digest::of(b"").to_string())
        .end()
}

/// Makes mutated headers pass the first check, so that the others are met.
fn fix_checksums(tar: &mut [u8]) {
    for block in tar.chunks_exact_mut(512) {
        let block: &mut [u8; 512] = block.try_into().unwrap();
        if &block[257..262] == b"ustar" {
            sum(block);
        }
    }
}
