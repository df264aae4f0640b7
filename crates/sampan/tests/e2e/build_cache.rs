//! Caches of builds that other builders read: in registries, and in images.

use std::fs;
use std::path::{Path, PathBuf};

use sampan_testing::{Login, Registry};

use crate::SAMPAN;
use crate::buildkit::Builder;

/// What commands make differs each time they run.
const RANDOM: &str = "head -c 12 /dev/urandom | od -An -tx1";

fn two_stages() -> String {
    format!(
        "FROM busybox AS tools\n\
         RUN head -c 8000000 /dev/urandom > /big && {RANDOM} > /small\n\
         RUN true\n\
         FROM busybox\n\
         WORKDIR /work\n\
         COPY text .\n\
         RUN {RANDOM} > random\n\
         COPY --from=tools /small /small\n\
         RUN {RANDOM} >> random\n"
    )
}

fn one_stage() -> String {
    format!("FROM busybox\nRUN {RANDOM} > /a\nCOPY text /\nRUN {RANDOM} > /b\nCMD [\"true\"]\n")
}

fn context(builder: &Builder, file: &str) -> PathBuf {
    builder.context("context", &[("Dockerfile", file), ("text", "some\n")])
}

/// The bytes that an engine's layers take.
fn layers(builder: &Builder) -> u64 {
    fn size(path: &Path) -> u64 {
        let metadata = path.symlink_metadata().unwrap();
        match metadata.is_dir() {
            true => fs::read_dir(path)
                .unwrap()
                .map(|entry| size(&entry.unwrap().path()))
                .sum(),
            false => metadata.len(),
        }
    }
    size(&builder.engine.root().join("layers"))
}

#[test]
fn a_cache_of_another_engine_saves_all_commands_and_fetches_only_what_the_image_has() {
    for registry in [Registry::start(), Registry::ours(SAMPAN)] {
        let (Some(first), Some(second)) = (Builder::start(), Builder::start()) else {
            return;
        };
        let reference = format!("{}/cache:1", registry.address());
        let to = format!("type=registry,ref={reference},mode=max");
        let directory = context(&first, &two_stages());
        let told = first.build(&directory, &["-t", "x", "--cache-to", &to]);
        assert!(told.contains("writing cache manifest sha256:"), "{told}");
        let before = layers(&second);
        let directory = context(&second, &two_stages());
        let more = ["-t", "x", "--cache-from", &reference];
        let told = second.build(&directory, &more);
        assert_eq!(told.matches("CACHED").count(), 7, "{told}");
        for image in ["{{.Id}}", "{{.RootFS.Layers}}"] {
            assert_eq!(first.inspect("x", image), second.inspect("x", image));
        }
        assert_eq!(
            first.run("x", "cat /work/random /small /work/text"),
            second.run("x", "cat /work/random /small /work/text")
        );
        assert!(layers(&second) - before < 4_000_000);
        // What was fetched is known from now on.
        drop(registry);
        let told = second.build(&directory, &["-t", "y"]);
        assert!(told.contains("CACHED"), "{told}");
    }
}

#[test]
fn caches_in_registries_are_made_and_used_without_dockers_client() {
    let registry = Registry::ours(SAMPAN);
    let (first, second) = (crate::engine_with_busybox(), crate::engine_with_busybox());
    let reference = format!("{}/cache:1", registry.address());
    let files = [("Dockerfile", two_stages()), ("text", "some\n".to_owned())];
    let files: Vec<_> = files
        .iter()
        .map(|(name, text)| (*name, text.as_str()))
        .collect();
    let run = |engine: &sampan_testing::TestEngine| {
        let read = "cat /work/random /small /work/text";
        engine.sampan(&["run", "--rm", "x", "sh", "-c", read]).ok()
    };
    for compression in ["gzip", "zstd", "uncompressed"] {
        let here = crate::build::context(&first, "context", &files);
        let to = format!("type=registry,ref={reference},mode=max,compression={compression}");
        let more = ["--no-cache", "--cache-to", &to];
        let told = crate::build::sampan_build(&first, "x", &here, &more).ok();
        assert!(told.contains("exporting cache to registry"), "{told}");
        let there = crate::build::context(&second, "context", &files);
        let _ = second.sampan(&["builder", "prune", "-af"]).ok();
        let more = ["--cache-from", &reference];
        let told = crate::build::sampan_build(&second, "x", &there, &more).ok();
        assert_eq!(told.matches("CACHED").count(), 7, "{compression}: {told}");
        assert_eq!(run(&first), run(&second));
    }
}

#[test]
fn an_image_that_has_its_cache_in_it_saves_its_commands() {
    let registry = Registry::start();
    let (Some(first), Some(second)) = (Builder::start(), Builder::start()) else {
        return;
    };
    let name = format!("{}/image:1", registry.address());
    let directory = context(&first, &one_stage());
    let more = ["-t", &name, "--push", "--cache-to", "type=inline"];
    first.build(&directory, &more);
    let directory = context(&second, &one_stage());
    let from = format!("type=registry,ref={name}");
    let told = second.build(&directory, &["-t", "x", "--cache-from", &from]);
    assert_eq!(told.matches("CACHED").count(), 3, "{told}");
    assert_eq!(first.run(&name, "cat /a /b"), second.run("x", "cat /a /b"));
    // The classic way: images that were pulled before.
    let Some(third) = Builder::start() else {
        return;
    };
    let _ = third.engine.sampan(&["pull", &name]).ok();
    let directory = context(&third, &one_stage());
    let mut build = third.command(&["build", "-t", "x", "--cache-from", &name]);
    build.arg(&directory).env("DOCKER_BUILDKIT", "0");
    let output = build.output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert_eq!(told.matches("Using cache").count(), 3, "{told}");
    assert_eq!(first.run(&name, "cat /a /b"), third.run("x", "cat /a /b"));
}

#[test]
fn a_cache_that_is_not_what_it_says_makes_a_build_slower_and_nothing_else() {
    let registry = Registry::start();
    let (Some(first), Some(second)) = (Builder::start(), Builder::start()) else {
        return;
    };
    let reference = format!("{}/cache:1", registry.address());
    let to = format!("type=registry,ref={reference}");
    let directory = context(&first, &one_stage());
    first.build(&directory, &["-t", "x", "--cache-to", &to]);
    damage_layers(&registry.storage());
    let directory = context(&second, &one_stage());
    let told = second.build(&directory, &["-t", "x", "--cache-from", &reference]);
    assert!(told.contains("cannot be used: layer"), "{told}");
    let read = "cat /a /b /text";
    assert_ne!(first.run("x", read), second.run("x", read));
    // One that is not there, or is none.
    let name = format!("{}/image:1", registry.address());
    second.build(&directory, &["-t", &name, "--push"]);
    for (from, why) in [
        (format!("{}/none:1", registry.address()), "not found"),
        (name, "the image has no cache in it"),
    ] {
        let told = second.build(&directory, &["--cache-from", &from]);
        assert!(
            told.contains(&format!("importing the cache {from}")),
            "{told}"
        );
        assert!(told.contains(why), "{told}");
    }
}

/// Changes every blob that is packed.
fn damage_layers(directory: &Path) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            damage_layers(&path);
            continue;
        }
        let mut bytes = fs::read(&path).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
        }
    }
}

#[test]
fn caches_that_cannot_be_made_are_refused() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let directory = context(&builder, "FROM scratch\nCOPY text /\n");
    for (to, why) in [
        (
            "type=local,dest=cache,image-manifest=false",
            "image-manifest=false",
        ),
        (
            "type=registry,ref=127.0.0.1:1/x,compression=estargz",
            "compression=estargz",
        ),
        ("type=registry,ref=127.0.0.1:1/x,mode=some", "mode=some"),
        ("type=inline,mode=max", "mode=max"),
    ] {
        let ran = builder.try_build(&directory, &["--cache-to", to]);
        assert_ne!(ran.code, 0, "{to}");
        assert!(ran.stderr.contains(why), "{to}: {}", ran.stderr);
    }
    let registry = Registry::with_login(Login {
        user: "me".to_owned(),
        password: "secret".to_owned(),
    });
    let to = format!("type=registry,ref={}/cache", registry.address());
    let ran = builder.try_build(&directory, &["--cache-to", &to]);
    assert_ne!(ran.code, 0);
    let to = format!("{to},ignore-error=true");
    builder.build(&directory, &["-t", "x", "--cache-to", &to]);
}

#[test]
fn cache_mounts_go_from_one_engine_to_another() {
    let (first, second) = (crate::engine_with_busybox(), crate::engine_with_busybox());
    let build = |engine: &sampan_testing::TestEngine, command: &str| {
        let file = format!("FROM busybox\nRUN --mount=type=cache,id=things,target=/c {command}\n");
        engine.sampan_with_input(&["build", "-q", "--no-cache", "-"], file.as_bytes())
    };
    let make = "mkdir -p /c/d && echo text > /c/d/a && ln -s d/a /c/l && chown 5:6 /c/d/a";
    let _ = build(&first, make).ok();
    let listed = first.sampan(&["builder", "cache", "ls"]).ok();
    assert!(listed.ends_with("things"), "{listed}");
    let tar = first.scratch().join("mount.tar");
    let tar = tar.to_str().unwrap();
    let _ = first
        .sampan(&["builder", "cache", "export", "-o", tar, "things"])
        .ok();
    let import = ["builder", "cache", "import", "-i", tar, "things"];
    for _ in 0..2 {
        let _ = second.sampan(&import).ok();
        let look = "test \"$(cat /c/l)\" = text && test \"$(stat -c %u:%g /c/d/a)\" = 5:6 \
                    && test ! -e /c/more && touch /c/more";
        let _ = build(&second, look).ok();
    }
    let ran = first.sampan(&["builder", "cache", "export", "-o", tar, "nothing"]);
    assert!(
        ran.stderr.contains("no such cache mount: nothing"),
        "{}",
        ran.stderr
    );
    let ran = second.sampan_with_input(&["builder", "cache", "import", "things"], b"no tar");
    assert_ne!(ran.code, 0);
    assert!(
        second
            .sampan(&["builder", "cache", "ls"])
            .ok()
            .ends_with("things")
    );
}
