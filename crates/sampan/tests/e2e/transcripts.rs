//! Sessions as books show them, typed with both clients. What needs a registry has our own.

use sampan_testing::{Fixture, Registry, fixture};

use crate::images::{
    CLIENTS, Client, commit, count, digest_at, id, json, layered, layers, pushed_digest,
};
use crate::{SAMPAN, engine, engine_with_busybox};

#[test]
fn hello_world_is_pulled_run_and_removed() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::ours(SAMPAN);
    for (who, client) in CLIENTS {
        // Our own image, from a registry that stands for the world's.
        let engine = engine();
        let _ = client(&engine, &["pull", "hello-world"]).ok();
        let name = format!("{}/{who}/hello-world", registry.address());
        let _ = client(&engine, &["tag", "hello-world", &name]).ok();
        let digest = pushed_digest(&client(&engine, &["push", &name]).ok());
        let _ = client(&engine, &["rmi", "hello-world", &name]).ok();
        let said = client(&engine, &["pull", &name]).ok();
        assert!(said.contains("Pull complete"), "{who}: {said}");
        assert!(said.contains(&format!("Digest: {digest}")), "{who}: {said}");
        let newer = format!("Status: Downloaded newer image for {name}:latest");
        assert!(said.contains(&newer), "{who}: {said}");
        let hello = client(&engine, &["run", &name]).ok();
        assert!(hello.contains("Hello from Sampan!"), "{who}: {hello}");
        engine.remove_all();
        let image = id(&engine, &name);
        let layer = layers(&engine, &name)[0].clone();
        let removed = client(&engine, &["rmi", &name]).ok();
        let expected = format!(
            "Untagged: {name}:latest\nUntagged: {name}@{digest}\nDeleted: {image}\nDeleted: {layer}"
        );
        assert_eq!(removed, expected, "{who}");
    }
}

#[test]
fn a_pull_shows_short_layer_ids_and_run_pulls_by_itself() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::ours(SAMPAN);
    let reference = registry.push(&fixture(Fixture::Nginx));
    let digest = digest_at(&reference);
    for (who, client) in CLIENTS {
        let engine = engine();
        let said = client(&engine, &["pull", &reference]).ok();
        let complete: Vec<&str> = said
            .lines()
            .filter_map(|line| line.strip_suffix(": Pull complete"))
            .collect();
        assert_eq!(
            complete.len(),
            layers(&engine, &reference).len(),
            "{who}: {said}"
        );
        let short = |id: &&str| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
        assert!(complete.iter().all(short), "{who}: {said}");
        assert!(said.contains(&format!("Digest: {digest}")), "{who}: {said}");
        let _ = client(&engine, &["rmi", &reference]).ok();
        let ran = client(&engine, &["run", "-d", &reference, "sleep", "3600"]);
        let unable = format!("Unable to find image '{reference}' locally");
        assert!(ran.stderr.contains(&unable), "{who}: {ran:?}");
        let _ = ran.ok();
        let root = client(
            &engine,
            &["inspect", "--format", "{{json .RootFS}}", &reference],
        )
        .ok();
        let root = json(&root);
        assert_eq!(root["Type"], "layers", "{who}");
        assert_eq!(
            root["Layers"].as_array().unwrap().len(),
            complete.len(),
            "{who}"
        );
    }
}

#[test]
fn a_commit_adds_one_layer_and_a_push_sends_only_that() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    for (who, client) in CLIENTS {
        let registry = Registry::ours(SAMPAN);
        let engine = engine_with_busybox();
        layered(&engine, client, 6, "app:v1");
        let base = layers(&engine, "app:v1");
        assert_eq!(base.len(), 7, "{who}");
        let v1 = format!("{}/me/app:v1", registry.address());
        let v2 = format!("{}/me/app:v2", registry.address());
        let _ = client(&engine, &["tag", "app:v1", &v1]).ok();
        let said = client(&engine, &["push", &v1]).ok();
        let repository = format!("{}/me/app", registry.address());
        assert!(
            said.starts_with(&format!("The push refers to repository [{repository}]")),
            "{who}: {said}"
        );
        assert_eq!(count(&said, ": Pushed"), 7, "{who}: {said}");
        let first = pushed_digest(&said);
        assert_eq!(digest_at(&v1), first, "{who}");

        let _ = commit(&engine, client, "app:v1", "touch /new-file", &v2);
        let top = layers(&engine, &v2);
        assert_eq!(top[..7], base[..], "{who}");
        assert_eq!(top.len(), 8, "{who}");
        let said = client(&engine, &["push", &v2]).ok();
        assert_eq!(count(&said, ": Pushed"), 1, "{who}: {said}");
        assert_eq!(count(&said, ": Layer already exists"), 7, "{who}: {said}");
        assert!(said.contains("\nv2: digest: sha256:"), "{who}: {said}");
        let second = pushed_digest(&said);
        // Pushed again, and pulled and pushed, it stays the same.
        let again = client(&engine, &["push", &v2]).ok();
        assert_eq!(count(&again, ": Layer already exists"), 8, "{who}: {again}");
        assert_eq!(pushed_digest(&again), second, "{who}");
        let before = id(&engine, &v2);
        for image in ["app:v1", &v1, &v2] {
            let _ = engine.sampan(&["rmi", image]).ok();
        }
        let _ = client(&engine, &["pull", &v2]).ok();
        assert_eq!(id(&engine, &v2), before, "{who}");
        let again = client(&engine, &["push", &v2]).ok();
        assert_eq!(pushed_digest(&again), second, "{who}");
        let listed = client(&engine, &["run", "--rm", &v2, "ls", "/"]).ok();
        assert!(listed.contains("new-file"), "{who}: {listed}");
    }
}

#[test]
fn an_image_is_saved_here_and_loaded_there() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let image = fixture(Fixture::Debian);
    let here = engine();
    let archive = image.archive().display().to_string();
    let _ = here.sampan(&["load", "-i", &archive]).ok();
    for (who, client) in CLIENTS {
        let file = here.scratch().join("debian.tar").display().to_string();
        let _ = client(&here, &["save", "debian", "-o", &file]).ok();
        let there = engine();
        let said = client(&there, &["load", "-i", &file]).ok();
        assert!(
            said.contains("Loaded image: debian:latest"),
            "{who}: {said}"
        );
        assert_eq!(
            id(&there, "debian:latest"),
            id(&here, "debian:latest"),
            "{who}"
        );
    }
}

/// The names that a listing has, in its order.
fn names(engine: &sampan_testing::TestEngine, client: Client, arguments: &[&str]) -> Vec<String> {
    let format = ["images", "--format", "{{.Repository}}:{{.Tag}}"];
    let listed = client(engine, &[&format[..], arguments].concat()).ok();
    listed.lines().map(str::to_owned).collect()
}

#[test]
fn listings_are_narrowed_by_age_and_a_moved_tag_leaves_none_behind() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let registry = Registry::ours(SAMPAN);
    for (who, client) in CLIENTS {
        let (there, here) = (engine_with_busybox(), engine());
        let name = |image: &str| format!("{}/{who}/{image}", registry.address());
        let (mongo, redis) = (name("mongo:3.2"), name("redis:alpine"));
        for image in [&mongo, &redis] {
            let _ = commit(
                &there,
                client,
                "busybox",
                &format!("echo {image} > /is"),
                image,
            );
            let _ = client(&there, &["push", image]).ok();
            let _ = client(&here, &["pull", image]).ok();
        }
        let since = format!("since={mongo}");
        assert_eq!(
            names(&here, client, &["-f", &since]),
            [redis.as_str()],
            "{who}"
        );
        let before = format!("before={redis}");
        assert_eq!(
            names(&here, client, &["-f", &before]),
            [mongo.as_str()],
            "{who}"
        );
        let repository = redis.trim_end_matches(":alpine");
        assert_eq!(
            names(&here, client, &[repository]),
            [redis.as_str()],
            "{who}"
        );
        assert_eq!(names(&here, client, &[&mongo]), [mongo.as_str()], "{who}");

        // The tag moves there; here the next pull takes it from the old image.
        let old = id(&here, &redis);
        let _ = commit(&there, client, &redis, "echo newer > /is", &redis);
        let _ = client(&there, &["push", &redis]).ok();
        let said = client(&here, &["pull", &redis]).ok();
        let newer = format!("Status: Downloaded newer image for {redis}");
        assert!(said.contains(&newer), "{who}: {said}");
        let said = client(&here, &["pull", &redis]).ok();
        let same = format!("Status: Image is up to date for {redis}");
        assert!(said.contains(&same), "{who}: {said}");
        let dangling = ["images", "-q", "--no-trunc", "-f", "dangling=true"];
        assert_eq!(client(&here, &dangling).ok(), old, "{who}");
        assert_eq!(
            names(&here, client, &["-f", "dangling=true"]),
            [format!("{repository}:<none>")],
            "{who}"
        );
        let ran = client(&here, &["run", "--rm", &redis, "cat", "/is"]).ok();
        assert_eq!(ran, "newer", "{who}");

        // Whole lists are removed by what they print.
        let all = client(&here, &["images", "-q", repository]).ok();
        let both: Vec<&str> = all.lines().collect();
        assert_eq!(both.len(), 2, "{who}: {all}");
        let removed = client(&here, &[&["image", "rm"][..], &both].concat()).ok();
        assert!(
            removed.contains(&format!("Deleted: {old}")),
            "{who}: {removed}"
        );
        assert_eq!(names(&here, client, &[]), [mongo.as_str()], "{who}");
    }
}
