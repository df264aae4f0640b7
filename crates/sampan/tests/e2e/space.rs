//! Images at rest: listing, removing and pruning them, what they take, and whether they are whole.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;

use sampan_oci::Digest;
use sampan_testing::{Ran, Registry, TestEngine, run, until};

use crate::{engine, engine_with_busybox};

/// One of the two clients, talking to an engine.
type Client<'e> = (&'static str, Box<dyn Fn(&[&str]) -> Ran + 'e>);

fn clients(engine: &TestEngine) -> [Client<'_>; 2] {
    [
        ("sampan", Box::new(|arguments| engine.sampan(arguments))),
        ("docker", Box::new(|arguments| engine.docker(arguments))),
    ]
}

/// An image made by hand: a layer for each list of files, which are a name and a length each.
struct Made<'a> {
    name: Option<&'a str>,
    created: &'a str,
    label: &'a str,
    layers: &'a [&'a [(&'a str, usize)]],
}

impl Made<'_> {
    /// Writes it in the format of `docker save`.
    fn write(&self, archive: &Path) {
        let directory = tempfile::tempdir().unwrap();
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for (number, files) in self.layers.iter().enumerate() {
            let tree = directory.path().join(format!("tree{number}"));
            fs::create_dir(&tree).unwrap();
            for (name, length) in *files {
                let path = tree.join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                // Differs from file to file, and the same every time.
                let text = format!("{name} {length}\n").repeat(length / 4 + 1);
                fs::write(path, &text.as_bytes()[..*length]).unwrap();
            }
            let tar = directory.path().join(format!("{number}.tar"));
            let _ = run(
                "tar",
                &[
                    "--sort=name",
                    "--mtime=@0",
                    "--owner=0",
                    "--group=0",
                    "--format=gnu",
                    "-C",
                    tree.to_str().unwrap(),
                    "-cf",
                    tar.to_str().unwrap(),
                    ".",
                ],
            )
            .ok();
            diff_ids.push(format!("\"{}\"", Digest::of(&fs::read(&tar).unwrap())));
            layers.push(format!("\"{number}.tar\""));
        }
        let config = format!(
            r#"{{"architecture":"amd64","os":"linux","created":"{}","config":{{"Labels":{{"stage":"{}"}}}},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
            self.created,
            self.label,
            diff_ids.join(",")
        );
        fs::write(directory.path().join("config.json"), config).unwrap();
        let names = match self.name {
            Some(name) => format!("[\"{name}\"]"),
            None => "null".to_owned(),
        };
        let manifest = format!(
            r#"[{{"Config":"config.json","RepoTags":{names},"Layers":[{}]}}]"#,
            layers.join(",")
        );
        fs::write(directory.path().join("manifest.json"), manifest).unwrap();
        let mut arguments = vec!["-C", directory.path().to_str().unwrap(), "-cf"];
        arguments.extend([archive.to_str().unwrap(), "manifest.json", "config.json"]);
        let tars: Vec<String> = (0..self.layers.len()).map(|n| format!("{n}.tar")).collect();
        arguments.extend(tars.iter().map(String::as_str));
        let _ = run("tar", &arguments).ok();
    }

    fn load(&self, engine: &TestEngine) {
        let archive = engine.scratch().join("made.tar");
        self.write(&archive);
        let _ = engine
            .sampan(&["load", "-q", "-i", archive.to_str().unwrap()])
            .ok();
    }
}

fn image<'a>(name: &'a str, created: &'a str, layers: &'a [&'a [(&'a str, usize)]]) -> Made<'a> {
    Made {
        name: Some(name),
        created,
        label: "none",
        layers,
    }
}

fn du(path: &Path) -> u64 {
    let arguments = ["--summarize", "--block-size=1", path.to_str().unwrap()];
    let said = run("du", &arguments).ok();
    said.split_whitespace().next().unwrap().parse().unwrap()
}

const NAMES: &str = "{{.Repository}}:{{.Tag}}";

/// The transcript of a person who tidies up databases.
fn tidy_up(engine: &TestEngine, registry: &Registry, client: &dyn Fn(&[&str]) -> Ran) -> String {
    const BASE: &[(&str, usize)] = &[("base", 50_000)];
    for (name, created, label, own) in [
        ("redis:3.0", "2016-01-01T00:00:00Z", "a", ("r30", 1000)),
        ("redis:3.2", "2016-06-01T00:00:00Z", "b", ("r32", 2000)),
        ("mongo:3.2", "2016-09-01T00:00:00Z", "a", ("m32", 3000)),
        ("mongo:3.4", "2017-01-01T00:00:00Z", "b", ("m34", 4000)),
    ] {
        Made {
            name: Some(name),
            created,
            label,
            layers: &[BASE, &[own]],
        }
        .load(engine);
    }
    let list = |arguments: &[&str]| {
        let all = [&["image", "ls", "--format", NAMES], arguments].concat();
        client(&all).ok()
    };
    for (arguments, wanted) in [
        (&[][..], "mongo:3.4\nmongo:3.2\nredis:3.2\nredis:3.0"),
        (&["-f", "since=mongo:3.2"], "mongo:3.4"),
        (&["-f", "before=mongo:3.2"], "redis:3.2\nredis:3.0"),
        (
            &["-f", "since=redis:3.0", "-f", "before=mongo:3.4"],
            "mongo:3.2\nredis:3.2",
        ),
        (&["redis"], "redis:3.2\nredis:3.0"),
        (&["redis:3.2"], "redis:3.2"),
        (&["-f", "label=stage=a"], "mongo:3.2\nredis:3.0"),
        (&["-f", "label=stage=a", "redis"], "redis:3.0"),
        (&["-f", "reference=m*:3.[0-3]"], "mongo:3.2"),
        (&["-f", "until=2016-07-01"], "redis:3.2\nredis:3.0"),
        (&["-f", "dangling=true"], ""),
    ] {
        assert_eq!(list(arguments), wanted, "{arguments:?}");
    }
    let mut said = String::new();
    let mut note = |ran: Ran| {
        let text = ran.ok();
        said.push_str(&text);
        said.push('\n');
        text
    };
    let _ = note(client(&[
        "images",
        "--digests",
        "--no-trunc",
        "--format",
        "{{.ID}} {{.Digest}} {{.Size}}",
    ]));
    // Deleted from the top down to the layer that mongo needs, too.
    let redis = client(&["image", "ls", "-q", "redis"]).ok();
    let ids: Vec<&str> = redis.lines().collect();
    let removed = note(client(&[&["image", "rm"], ids.as_slice()].concat()));
    let steps: Vec<&str> = removed
        .lines()
        .map(|line| line.split(' ').next().unwrap())
        .collect();
    assert_eq!(
        steps,
        [
            "Untagged:",
            "Deleted:",
            "Deleted:",
            "Untagged:",
            "Deleted:",
            "Deleted:"
        ],
        "{removed}"
    );
    let before = client(&["image", "ls", "-q", "-f", "before=mongo:3.4"]).ok();
    let _ = note(client(&["image", "rm", before.trim()]));
    assert_eq!(list(&[]), "mongo:3.4");
    let _ = note(client(&["rmi", "mongo:3.4"]));

    // The tag moves at the registry: the next pull leaves the old image without it.
    let name = format!("{}/redis:latest", registry.address());
    let archive = engine.scratch().join("pushed.tar");
    let mut ids = Vec::new();
    for (created, own) in [
        ("2018-01-01T00:00:00Z", ("old", 1000)),
        ("2018-02-01T00:00:00Z", ("new", 2000)),
    ] {
        image("redis:latest", created, &[BASE, &[own]]).write(&archive);
        let source = format!("docker-archive:{}", archive.display());
        let target = format!("docker://{name}");
        let flags = [
            "copy",
            "--quiet",
            "--dest-tls-verify=false",
            &source,
            &target,
        ];
        let _ = run("skopeo", &flags).ok();
        let _ = client(&["pull", "-q", &name]).ok();
        ids.push(client(&["image", "ls", "-q", &name]).ok());
    }
    let shown = note(client(&[
        "image",
        "ls",
        "-a",
        "--format",
        "{{.ID}} {{.Tag}}",
    ]));
    let wanted = format!("{} latest\n{} <none>", ids[1], ids[0]);
    assert_eq!(shown, wanted);
    assert_eq!(
        client(&["images", "-q", "-f", "dangling=true"]).ok(),
        ids[0]
    );
    let pruned = note(client(&["image", "prune", "-f"]));
    assert!(pruned.contains("Deleted Images:\nuntagged: "), "{pruned}");
    assert!(pruned.ends_with("Total reclaimed space: 1kB"), "{pruned}");
    assert_eq!(client(&["images", "-q"]).ok(), ids[1]);
    let _ = note(client(&["rmi", &name]));
    assert_eq!(client(&["images", "-aq"]).ok(), "");
    said
}

#[test]
fn images_are_filtered_replaced_and_removed_in_batches() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine();
    let registry = Registry::start();
    let said: Vec<String> = clients(&engine)
        .iter()
        .map(|(_, client)| tidy_up(&engine, &registry, client.as_ref()))
        .collect();
    assert_eq!(said[0], said[1], "sampan (left) and docker differ");
}

#[test]
fn what_is_used_is_not_removed() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let id = engine.sampan(&["images", "-q"]).ok();
    let refused = |client: &dyn Fn(&[&str]) -> Ran, arguments: &[&str], parts: &[&str]| {
        let ran = client(arguments);
        assert_eq!(ran.code, 1, "{ran:?}");
        for part in parts {
            assert!(ran.stderr.contains(part), "{part:?} is missing: {ran:?}");
        }
        assert!(ran.stdout.is_empty(), "nothing is untagged: {ran:?}");
    };
    for (name, client) in &clients(&engine) {
        let client = client.as_ref();
        let _ = client(&["run", "--name", "stopped", "busybox", "true"]).ok();
        refused(
            client,
            &["rmi", "busybox"],
            &[
                "conflict: unable to remove repository reference \"busybox\" (must force) - container",
            ],
        );
        refused(
            client,
            &["rmi", &id],
            &["(must be forced) - image is being used by stopped container"],
        );
        let _ = client(&["rm", "stopped"]).ok();
        let _ = client(&["run", "-d", "--name", "running", "busybox", "sleep", "1000"]).ok();
        for force in [&["rmi", "-f", &id][..], &["rmi", "-f", "busybox"]] {
            refused(
                client,
                force,
                &["(cannot be forced) - image is being used by running container"],
            );
        }
        let _ = client(&["rm", "-f", "running"]).ok();
        let _ = client(&["tag", "busybox", "other:1"]).ok();
        refused(
            client,
            &["rmi", &id],
            &[
                "(must be forced) - image is referenced in multiple repositories",
                "busybox:latest, other:1",
            ],
        );
        if *name == "sampan" {
            let hint = client(&["rmi", &id]).stderr;
            assert!(hint.contains("hint: "), "{hint}");
        }
        refused(
            client,
            &["rmi", "--platform", "linux/s390x", "other:1"],
            &["does not provide the specified platform"],
        );
        assert_eq!(client(&["rmi", "other:1"]).ok(), "Untagged: other:1");
        refused(
            client,
            &["rmi", "nosuch"],
            &["No such image: nosuch:latest"],
        );
        assert_eq!(client(&["rmi", "-f", "nosuch"]).code, 0, "{name}");
    }
    let _ = engine.docker(&["tag", "busybox", "other:1"]).ok();
    let said = engine.docker(&["rmi", "-f", &id]).ok();
    assert!(said.starts_with("Untagged: busybox:latest\nUntagged: other:1\nDeleted: "));
}

#[test]
fn prunes_ask_and_tell_what_came_back() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    let prepare = || {
        let script = "head -c 10000 /dev/zero > /written; head -c 20000 /dev/zero > /data/kept";
        for name in ["one", "two"] {
            let label = format!("name={name}");
            let volume = format!("volume-{name}:/data");
            let arguments = ["run", "--name", name, "--label", &label, "-v", &volume];
            let _ = engine
                .sampan(&[&arguments[..], &["busybox", "sh", "-c", script]].concat())
                .ok();
        }
        let anonymous = [
            "run", "--name", "three", "-v", "/data", "busybox", "sh", "-c", script,
        ];
        let _ = engine.sampan(&anonymous).ok();
        image("unused:1", "2016-01-01T00:00:00Z", &[&[("f", 30_000)]]).load(&engine);
        Made {
            name: None,
            ..image("", "2016-01-02T00:00:00Z", &[&[("g", 40_000)]])
        }
        .load(&engine);
    };
    let ends = |ran: Ran, space: &str| {
        let said = ran.ok();
        let wanted = format!("Total reclaimed space: {space}");
        assert!(said.ends_with(&wanted), "{said}");
        said
    };
    for (name, client) in &clients(&engine) {
        prepare();
        let asked = client(&["container", "prune"]).ok();
        assert!(
            asked.starts_with("WARNING! This will remove all stopped containers.\nAre you sure"),
            "{name}: {asked}"
        );
        assert_eq!(engine.sampan(&["ps", "-aq"]).ok().lines().count(), 3);
        let filtered = ["container", "prune", "-f", "--filter", "label=name=one"];
        let said = ends(client(&filtered), "10kB");
        assert!(said.starts_with("Deleted Containers:\n"), "{said}");
        ends(
            client(&["container", "prune", "-f", "--filter", "until=24h"]),
            "0B",
        );
        ends(client(&["volume", "prune", "-f"]), "0B");
        ends(client(&["container", "prune", "-f"]), "20kB");
        let said = ends(client(&["volume", "prune", "-f"]), "20kB");
        assert!(said.starts_with("Deleted Volumes:\n"), "{said}");
        ends(
            client(&["volume", "prune", "-f", "--filter", "label=x"]),
            "0B",
        );
        let said = ends(client(&["volume", "prune", "-af"]), "40kB");
        assert!(
            said.starts_with("Deleted Volumes:\nvolume-one\nvolume-two\n"),
            "{said}"
        );
        ends(
            client(&["image", "prune", "-f", "--filter", "until=2016-01-01"]),
            "0B",
        );
        ends(client(&["image", "prune", "-f"]), "40kB");
        let all = ["image", "prune", "-af", "--filter", "until=2017-01-01"];
        let said = ends(client(&all), "30kB");
        assert!(said.contains("untagged: unused:1\n"), "{said}");
        let _ = client(&["network", "prune", "-f"]).ok();
        prepare();
        let asked = client(&["system", "prune", "--volumes"]).ok();
        assert!(
            asked.contains("  - all dangling images\n"),
            "{name}: {asked}"
        );
        ends(client(&["system", "prune", "-f"]), "70kB");
        ends(client(&["system", "prune", "-f", "--volumes"]), "20kB");
        assert!(engine.sampan(&["images"]).ok().contains("unused"));
        let _ = engine.sampan(&["rmi", "unused:1"]).ok();
        let _ = engine
            .sampan(&["volume", "rm", "volume-one", "volume-two"])
            .ok();
    }
    let said = engine
        .sampan_with_input(&["image", "prune", "-a"], b"y\n")
        .ok();
    assert!(said.contains("untagged: busybox:latest"), "{said}");
    let events = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "-f",
        "event=prune",
    ];
    let told = engine.sampan(&events).ok();
    for kind in ["container prune", "volume prune", "image prune"] {
        assert!(told.contains(kind), "{kind} is missing: {told}");
    }
    assert!(told.contains("reclaimed=40000"), "{told}");
}

#[test]
fn the_parts_of_disk_usage_are_what_du_sees() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    const BASE: &[(&str, usize)] = &[("base", 500_000), ("dir/more", 5000)];
    let engine = engine_with_busybox();
    image(
        "first:1",
        "2020-01-01T00:00:00Z",
        &[BASE, &[("one", 70_000)]],
    )
    .load(&engine);
    image(
        "second:1",
        "2020-01-02T00:00:00Z",
        &[BASE, &[("two", 90_000)]],
    )
    .load(&engine);
    image("third:1", "2020-01-03T00:00:00Z", &[BASE]).load(&engine);
    let script = "head -c 300000 /dev/zero | tr '\\0' x > /written; cp /written /data/kept";
    let kept = [
        "run",
        "--name",
        "user",
        "-v",
        "data:/data",
        "busybox",
        "sh",
        "-c",
        script,
    ];
    let _ = engine.sampan(&kept).ok();
    let _ = engine
        .sampan(&["run", "-d", "--name", "busy", "busybox", "sleep", "1000"])
        .ok();
    let disk = || {
        let path = "/v1.51/system/df?sampan=1";
        let socket = engine.socket().display().to_string();
        let url = format!("http://sampan{path}");
        let said = run("curl", &["-sS", "--unix-socket", &socket, &url]).ok();
        serde_json::from_str::<serde_json::Value>(&said).unwrap()
    };
    // The engine may still be writing of what just happened.
    let mut found = disk();
    until("nothing is written any more", || {
        let before = std::mem::replace(&mut found, disk());
        found["Sampan"]["Disk"] == before["Sampan"]["Disk"]
    });
    let parts = &found["Sampan"]["Disk"];
    let part = |name: &str| parts[name].as_u64().unwrap();
    let root = engine.root();
    assert_eq!(part("Total"), du(&root));
    assert_eq!(part("Layers"), du(&root.join("layers")));
    assert_eq!(part("Blobs"), du(&root.join("content")));
    assert_eq!(part("Volumes"), du(&root.join("volumes")));
    let sum = ["Layers", "Blobs", "Containers", "Volumes", "Other"].map(part);
    assert_eq!(part("Total"), sum.iter().sum::<u64>());
    let images = found["Images"].as_array().unwrap();
    let of = |tag: &str, field: &str| {
        let image = images.iter().find(|image| image["RepoTags"][0] == *tag);
        image.unwrap()[field].as_i64().unwrap()
    };
    assert_eq!(of("first:1", "Size"), 575_000);
    assert_eq!(of("first:1", "SharedSize"), 505_000);
    assert_eq!(of("third:1", "SharedSize"), 505_000);
    assert_eq!(of("busybox:latest", "Containers"), 2);
    let busybox = of("busybox:latest", "Size");
    assert_eq!(found["LayersSize"].as_i64().unwrap(), 665_000 + busybox);
    let container = &found["Containers"].as_array().unwrap()[1];
    assert_eq!(container["SizeRw"], 300_000);
    assert_eq!(found["Volumes"][0]["UsageData"]["Size"], 300_000);
    assert_eq!(found["Volumes"][0]["UsageData"]["RefCount"], 1);

    let ours = engine
        .sampan(&[
            "system",
            "df",
            "--format",
            "{{.Type}} {{.TotalCount}} {{.Active}} {{.Reclaimable}}",
        ])
        .ok();
    for line in [
        "Images 4 1 665kB",
        "Containers 2 1 300kB",
        "Local Volumes 1 1 0B (0%)",
        "Build Cache 0 0 0B",
    ] {
        assert!(ours.contains(line), "{line:?} is missing: {ours}");
    }
    let verbose = engine.sampan(&["system", "df", "-v"]).ok();
    for part in [
        "KEPT BY",
        "container busy, container user, tag busybox:latest",
        "container user",
        "it runs",
    ] {
        assert!(verbose.contains(part), "{part:?} is missing: {verbose}");
    }
    let theirs = engine.docker(&["system", "df"]).ok();
    assert!(
        theirs.contains("Local Volumes   1         1         300kB"),
        "{theirs}"
    );
    let theirs = engine.docker(&["system", "df", "-v"]).ok();
    assert!(theirs.contains("505kB"), "{theirs}");
    let pruned = engine.docker(&["image", "prune", "-af"]).ok();
    assert!(pruned.ends_with("Total reclaimed space: 665kB"), "{pruned}");
}

#[test]
fn the_collector_says_what_goes_and_why_the_rest_stays() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = engine_with_busybox();
    image("named:1", "2020-01-01T00:00:00Z", &[&[("a", 50_000)]]).load(&engine);
    let nameless = Made {
        name: None,
        ..image("", "2020-01-02T00:00:00Z", &[&[("b", 60_000)]])
    };
    nameless.load(&engine);
    let _ = engine.sampan(&["create", "--name", "user", "busybox"]).ok();
    let images = || engine.sampan(&["images", "-q"]).ok().lines().count();
    let dry = engine
        .sampan(&["image", "gc", "--dry-run", "--to", "0", "--min-age", "0s"])
        .ok();
    assert_eq!(images(), 3, "a dry run changes nothing");
    for part in ["remove", "<none>", "was made of it", "it has a tag"] {
        assert!(dry.contains(part), "{part:?} is missing: {dry}");
    }
    let recent = engine.sampan(&["image", "gc", "--to", "0"]).ok();
    assert!(recent.contains("it was used lately"), "{recent}");
    assert_eq!(images(), 3);
    let _ = engine
        .sampan(&["image", "gc", "--to", "0", "--min-age", "0s"])
        .ok();
    assert_eq!(images(), 2);
    let json = [
        "image",
        "gc",
        "--to",
        "0",
        "--min-age",
        "0s",
        "--tagged",
        "--format",
        "json",
    ];
    let said: serde_json::Value = serde_json::from_str(&engine.sampan(&json).ok()).unwrap();
    assert_eq!(said["Removed"][0]["Names"][0], "named:1");
    assert!(said["Freed"].as_u64().unwrap() > 50_000);
    assert_eq!(images(), 1);
    assert_eq!(engine.sampan(&["start", "-a", "user"]).code, 0);
    let idle = engine.sampan(&["image", "gc"]).ok();
    assert!(
        idle.contains("Budget: from 90% of the file system down to 80%"),
        "{idle}"
    );
}

#[test]
fn images_above_their_budget_go_by_themselves() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = TestEngine::start_with(
        crate::SAMPAN,
        &[
            "--image-gc-high=400k",
            "--image-gc-low=300k",
            "--image-gc-min-age=0s",
        ],
    );
    image("named:1", "2020-01-01T00:00:00Z", &[&[("a", 200_000)]]).load(&engine);
    for name in ["b", "c", "d"] {
        Made {
            name: None,
            ..image("", "2020-01-02T00:00:00Z", &[&[(name, 200_000)]])
        }
        .load(&engine);
    }
    until("the nameless images have gone", || {
        engine.sampan(&["images", "-q"]).ok().lines().count() == 1
    });
    assert_eq!(
        engine.sampan(&["images", "--format", NAMES]).ok(),
        "named:1"
    );
    // Records go before the layers.
    until("their space is back", || {
        du(&engine.root().join("layers")) < 400 << 10
    });
}

#[test]
fn tree_diff_and_verify_read_the_layers_themselves() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    const BASE: &[(&str, usize)] = &[("etc/base", 5000), ("same", 10)];
    let engine = engine();
    image("old:1", "2020-01-01T00:00:00Z", &[BASE]).load(&engine);
    let change: &[(&str, usize)] = &[("etc/base", 6000), ("etc/.wh.gone", 0), ("new", 300)];
    image("new:1", "2020-01-02T00:00:00Z", &[BASE, change]).load(&engine);
    let tree = engine.sampan(&["image", "tree", "new:1"]).ok();
    for part in [
        "new:1",
        "shared with old:1",
        "C -      6kB  /etc/base",
        "A -     300B  /new",
    ] {
        assert!(tree.contains(part), "{part:?} is missing: {tree}");
    }
    let diff = engine.sampan(&["image", "diff", "old:1", "new:1"]).ok();
    assert_eq!(diff, "C /etc/base (5kB -> 6kB)\nA /new (300B)");
    let json = engine
        .sampan(&["image", "diff", "--format", "json", "new:1", "old:1"])
        .ok();
    assert!(
        json.contains(r#""Path":"/new","Change":"deleted""#),
        "{json}"
    );

    let whole = engine.sampan(&["image", "verify", "--all"]);
    assert_eq!(whole.code, 0, "{whole:?}");
    let id = engine
        .sampan(&[
            "image",
            "inspect",
            "-f",
            "{{index .RootFS.Layers 1}}",
            "new:1",
        ])
        .ok();
    let path = format!("layers/{}/layer.tar", &id["sha256:".len()..]);
    let tar = fs::File::options()
        .read(true)
        .write(true)
        .open(engine.root().join(path))
        .unwrap();
    let mut byte = [0];
    tar.read_exact_at(&mut byte, 2000).unwrap();
    tar.write_all_at(&[byte[0] ^ 1], 2000).unwrap();
    let damaged = engine.sampan(&["image", "verify", "new:1"]);
    assert_eq!(damaged.code, 1, "{damaged:?}");
    assert!(
        damaged.stdout.contains(&format!("layer {id}: ")),
        "{damaged:?}"
    );
    assert_eq!(engine.sampan(&["image", "verify", "old:1"]).code, 0);
    let all = engine.sampan(&["image", "verify", "-a", "--format", "json"]);
    assert_eq!(all.code, 1);
    assert!(
        all.stdout
            .contains("the tar is not the one that was stored"),
        "{all:?}"
    );
}
