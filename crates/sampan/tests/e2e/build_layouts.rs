//! Caches and images in directories of the client, as OCI layouts.

use std::fs;
use std::path::Path;

use sampan_testing::run;

use crate::buildkit::Builder;

/// What commands make differs each time they run.
const FILE: &str = "FROM busybox AS tools\n\
    RUN head -c 12 /dev/urandom | od -An -tx1 > /small\n\
    FROM busybox\n\
    COPY text /\n\
    RUN head -c 12 /dev/urandom | od -An -tx1 > /random\n\
    COPY --from=tools /small /small\n";
const READ: &str = "cat /text /random /small";

/// The first bytes of the blobs in a layout.
fn beginnings(layout: &Path) -> Vec<Vec<u8>> {
    let blobs = fs::read_dir(layout.join("blobs/sha256")).unwrap();
    let blobs = blobs.map(|entry| fs::read(entry.unwrap().path()).unwrap());
    blobs
        .map(|bytes| bytes[..bytes.len().min(4)].to_vec())
        .collect()
}

fn damage_layers(layout: &Path) {
    for entry in fs::read_dir(layout.join("blobs/sha256")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if bytes.starts_with(&[0x1f, 0x8b]) {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            // BuildKit's client makes its blobs read-only.
            fs::remove_file(&path).unwrap();
            fs::write(&path, bytes).unwrap();
        }
    }
}

/// Builds with one of the clients.
fn build(builder: &Builder, client: &str, directory: &Path, more: &[&str]) -> String {
    if client == "docker" {
        return builder.build(directory, more);
    }
    let arguments = [
        &["build", "--progress", "plain"],
        more,
        &[directory.to_str().unwrap()],
    ];
    let ran = builder.engine.sampan(&arguments.concat());
    let told = ran.stderr.clone();
    let _ = ran.ok();
    told
}

#[test]
fn a_cache_in_a_directory_saves_the_commands_of_another_engine() {
    for (writer, reader) in [("docker", "sampan"), ("sampan", "docker")] {
        let (Some(first), Some(second)) = (Builder::start(), Builder::start()) else {
            return;
        };
        let files = [("Dockerfile", FILE), ("text", "some\n")];
        let here = first.context("context", &files);
        let there = second.context("context", &files);
        let layout = first.engine.scratch().join("cache");
        let at = layout.display();
        let to = format!("type=local,dest={at},mode=max");
        let told = build(&first, writer, &here, &["-t", "x", "--cache-to", &to]);
        assert!(
            told.contains("exporting cache to client directory"),
            "{told}"
        );
        assert!(told.contains("writing cache manifest sha256:"), "{told}");
        assert!(layout.join("oci-layout").is_file() && layout.join("index.json").is_file());
        let from = format!("type=local,src={at}");
        let told = build(&second, reader, &there, &["-t", "x", "--cache-from", &from]);
        assert_eq!(told.matches("CACHED").count(), 4, "{told}");
        assert_eq!(first.run("x", READ), second.run("x", READ));
        // A second cache in the same place, under another name and packed in another way.
        let more = format!("{to},tag=other,compression=zstd,force-compression=true");
        build(&first, writer, &here, &["-t", "x", "--cache-to", &more]);
        let zstd = [0x28, 0xb5, 0x2f, 0xfd];
        assert!(beginnings(&layout).iter().any(|start| start[..] == zstd));
        let index = fs::read_to_string(layout.join("index.json")).unwrap();
        assert!(
            index.contains("latest") && index.contains("other"),
            "{index}"
        );
        second.engine.remove_all();
        let _ = second.engine.sampan(&["rmi", "x"]).ok();
        let _ = second.engine.sampan(&["builder", "prune", "-af"]).ok();
        let from = format!("{from},tag=other");
        let told = build(&second, reader, &there, &["-t", "x", "--cache-from", &from]);
        assert_eq!(told.matches("CACHED").count(), 4, "{told}");
        assert_eq!(first.run("x", READ), second.run("x", READ));
    }
}

#[test]
fn a_cache_in_a_directory_that_is_not_what_it_says_is_not_believed() {
    let (Some(first), Some(second)) = (Builder::start(), Builder::start()) else {
        return;
    };
    let files = [("Dockerfile", FILE), ("text", "some\n")];
    let here = first.context("context", &files);
    let there = second.context("context", &files);
    let layout = first.engine.scratch().join("cache");
    let to = format!("type=local,dest={}", layout.display());
    build(&first, "docker", &here, &["-t", "x", "--cache-to", &to]);
    damage_layers(&layout);
    let from = format!("type=local,src={}", layout.display());
    let told = build(
        &second,
        "docker",
        &there,
        &["-t", "x", "--cache-from", &from],
    );
    assert!(told.contains("cannot be used: layer"), "{told}");
    assert_ne!(first.run("x", READ), second.run("x", READ));
    // One that is not there, or is none, makes a build slower and nothing else.
    let empty = second.directory("empty");
    let none = format!("type=local,src={}", empty.display());
    for client in ["docker", "sampan"] {
        let told = build(&second, client, &there, &["--cache-from", &none]);
        assert!(told.contains("local cache import at "), "{client}: {told}");
    }
    let zeros = format!("{from},digest=sha256:{}", "0".repeat(64));
    let told = build(&second, "sampan", &there, &["--cache-from", &zeros]);
    assert!(told.contains("importing the cache"), "{told}");
}

#[test]
fn an_image_in_a_directory_is_a_context() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let made = builder.context(
        "made",
        &[("Dockerfile", "FROM busybox\nENV A=b\nRUN echo x > /x\n")],
    );
    let tar = builder.engine.scratch().join("image.tar");
    let output = format!("type=oci,dest={}", tar.display());
    builder.build(&made, &["-t", "made:1", "--output", &output]);
    let layout = builder.directory("layout");
    let (tar, at) = (tar.to_str().unwrap(), layout.to_str().unwrap());
    let _ = run("tar", &["-xf", tar, "-C", at]).ok();
    let images = || builder.engine.sampan(&["images", "-aq"]).ok();
    let before = images();
    let file = "FROM base\nCOPY --from=base /x /copied\nRUN echo $A > /env\n";
    let directory = builder.context("uses", &[("Dockerfile", file)]);
    let given = format!("base=oci-layout://{at}:1");
    for client in ["docker", "sampan"] {
        let more = ["--no-cache", "-t", "used", "--build-context", &given];
        build(&builder, client, &directory, &more);
        assert_eq!(builder.run("used", "cat /x /copied /env"), "x\nx\nb");
        let _ = builder.engine.sampan(&["rmi", "used"]).ok();
        assert_eq!(images(), before, "{client}");
    }
    let missing = format!("base=oci-layout://{at}:none");
    let ran = builder.engine.sampan(&[
        "build",
        "--build-context",
        &missing,
        directory.to_str().unwrap(),
    ]);
    assert!(ran.failed(1).contains("could not be resolved"));
}
