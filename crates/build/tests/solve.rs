//! Builds with a sandbox that only notes what it was asked for.
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod support;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::Instant;

use sampan_build::{CacheKind, CancellationToken, Context, Error, Event, PrunePolicy, Settings};
use sampan_images::HeldLayer;
use sampan_kernel::requires;
use support::{Commands, Home, layer};

type Answer = Result<(i32, Option<HeldLayer>), sampan_build::SandboxError>;

fn dockerfile(home: &Home, text: &str) -> Context {
    let client = home.client("files");
    client.write("Dockerfile", text).write("a", "a\n");
    client.send(home.contexts(), "k").0
}

/// Waits as a command does that nobody ends otherwise.
fn until_cancelled(cancel: &CancellationToken) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(cancel.cancelled());
    Err(sampan_build::SandboxError("cancelled".to_owned()))
}

fn cached(events: &[Event]) -> usize {
    let cached = events.iter().filter(|event| **event == Event::Cached);
    cached.count()
}

#[test]
fn stages_run_at_once_and_those_that_nothing_needs_do_not_run() {
    requires!(root, overlay);
    let home = Home::new();
    let context = dockerfile(
        &home,
        "FROM scratch AS one\nRUN one\nFROM scratch AS two\nRUN two\n\
         FROM scratch AS unused\nRUN unused\nFROM one\nCOPY --from=two /two /\nRUN last\n",
    );
    let both = Barrier::new(2);
    let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        if command != "last" {
            // Each waits for the other.
            both.wait();
        }
        Ok((0, layer(&home.images, command, command)))
    });
    let (built, _) = home.build(&context, &commands, Settings::default());
    assert_eq!(built.unwrap().image.layers.len(), 3);
    assert_eq!(commands.take(), ["last", "one", "two"]);
    let (built, events) = home.build(&context, &commands, Settings::default());
    built.unwrap();
    assert!(commands.take().is_empty());
    assert_eq!(cached(&events), 4);
}

#[test]
fn a_failure_ends_the_other_stages_and_what_was_done_stays_cached() {
    requires!(root, overlay);
    let home = Home::new();
    let context = dockerfile(
        &home,
        "FROM scratch AS one\nRUN endless\nFROM scratch AS two\nRUN before\nRUN fails\n\
         FROM one\nCOPY --from=two / /\n",
    );
    let runs = Barrier::new(2);
    let commands = Commands::new(|command: &str, cancel: &CancellationToken| -> Answer {
        match command {
            "endless" => {
                runs.wait();
                until_cancelled(cancel)
            }
            "fails" => {
                runs.wait();
                Ok((3, None))
            }
            _ => Ok((0, layer(&home.images, command, command))),
        }
    });
    let (built, _) = home.build(&context, &commands, Settings::default());
    assert!(matches!(built.unwrap_err(), Error::Command { code: 3, .. }));
    assert_eq!(commands.take(), ["before", "endless", "fails"]);
    let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        Ok((0, layer(&home.images, command, command)))
    });
    let (built, _) = home.build(&context, &commands, Settings::default());
    built.unwrap();
    assert_eq!(commands.take(), ["endless", "fails"]);
}

#[test]
fn what_was_done_before_a_cancel_or_the_end_of_the_engine_stays_cached() {
    requires!(root, overlay);
    let mut home = Home::new();
    let context = dockerfile(&home, "FROM scratch\nCOPY a /\nRUN one\nRUN two\n");
    let cancel = CancellationToken::new();
    {
        let commands = Commands::new(|command: &str, stop: &CancellationToken| -> Answer {
            match command {
                "two" => {
                    cancel.cancel();
                    until_cancelled(stop)
                }
                _ => Ok((0, layer(&home.images, command, command))),
            }
        });
        let (built, _) = home.build_until(&context, &commands, Settings::default(), &cancel);
        assert!(matches!(built.unwrap_err(), Error::Cancelled));
    }
    drop(context);
    home = home.reopen();
    let (context, sent) = home.client("files").send(home.contexts(), "k");
    assert!(sent.is_empty());
    let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        Ok((0, layer(&home.images, command, command)))
    });
    let (built, events) = home.build(&context, &commands, Settings::default());
    built.unwrap();
    assert_eq!(commands.take(), ["two"]);
    assert_eq!(cached(&events), 2);
}

#[test]
fn builds_that_need_the_same_step_run_it_once() {
    requires!(root, overlay);
    let home = Home::new();
    let context = dockerfile(&home, "FROM scratch\nRUN one\n");
    let (came, comes) = channel();
    let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        Ok((0, layer(&home.images, command, command)))
    });
    // The first one's command runs until the other build is on its way.
    let comes = std::sync::Mutex::new(comes);
    let first = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        comes.lock().unwrap().recv().unwrap();
        Ok((0, layer(&home.images, command, command)))
    });
    std::thread::scope(|scope| {
        let slow = scope.spawn(|| home.build(&context, &first, Settings::default()).0.unwrap());
        while first.ran.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        let other = scope.spawn(|| {
            came.send(()).unwrap();
            home.build(&context, &commands, Settings::default())
                .0
                .unwrap()
        });
        assert_eq!(
            slow.join().unwrap().image.id,
            other.join().unwrap().image.id
        );
    });
    assert!(commands.take().is_empty());
}

#[test]
fn steps_with_secrets_are_not_shared_while_they_run() {
    requires!(root, overlay);
    let home = Home::new();
    let file = "FROM scratch\nRUN --mount=type=secret,id=one one\n";
    let context = dockerfile(&home, file);
    // Each runs until the other does, too.
    let both = Barrier::new(2);
    let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        both.wait();
        Ok((0, layer(&home.images, command, command)))
    });
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let build = || home.build(&context, &commands, Settings::default()).0;
            scope.spawn(move || build().unwrap());
        }
    });
    assert_eq!(commands.take(), ["one", "one"]);
    let _ = home
        .build(&context, &commands, Settings::default())
        .0
        .unwrap();
    assert!(commands.take().is_empty());
}

#[test]
fn a_build_that_is_cancelled_takes_nothing_from_another() {
    requires!(root, overlay);
    let home = Home::new();
    let context = dockerfile(&home, "FROM scratch\nRUN one\n");
    let cancel = CancellationToken::new();
    let first = Commands::new(|_: &str, stop: &CancellationToken| until_cancelled(stop));
    let second = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        Ok((0, layer(&home.images, command, command)))
    });
    std::thread::scope(|scope| {
        let one = scope.spawn(|| {
            home.build_until(&context, &first, Settings::default(), &cancel)
                .0
        });
        while first.ran.lock().unwrap().is_empty() {
            std::thread::yield_now();
        }
        cancel.cancel();
        assert!(matches!(one.join().unwrap(), Err(Error::Cancelled)));
    });
    home.build(&context, &second, Settings::default())
        .0
        .unwrap();
    assert_eq!(second.take(), ["one"]);
}

#[test]
fn a_mistake_of_our_own_ends_the_build_and_nobody_waits() {
    requires!(root, overlay);
    let home = Home::new();
    let context = dockerfile(
        &home,
        "FROM scratch AS one\nRUN breaks\nFROM scratch AS two\nRUN endless\n\
         FROM one\nCOPY --from=two / /\nRUN last\n",
    );
    let runs = Barrier::new(2);
    let commands = Commands::new(|command: &str, cancel: &CancellationToken| -> Answer {
        runs.wait();
        assert_ne!(command, "breaks");
        until_cancelled(cancel)
    });
    let (built, _) = home.build(&context, &commands, Settings::default());
    assert!(matches!(built.unwrap_err(), Error::Panicked));
    assert_eq!(commands.take(), ["breaks", "endless"]);
}

#[test]
fn a_linked_copy_is_cached_on_whatever_it_lies() {
    requires!(root, overlay);
    let home = Home::new();
    let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        Ok((0, layer(&home.images, command, command)))
    });
    for (run, hits) in [("one", 0), ("two", 1)] {
        let text = format!("FROM scratch\nRUN {run}\nCOPY --link a /to/\nRUN after\n");
        let context = dockerfile(&home, &text);
        let (built, events) = home.build(&context, &commands, Settings::default());
        assert_eq!(built.unwrap().image.layers.len(), 3);
        assert_eq!(cached(&events), hits, "{run}");
    }
    assert_eq!(commands.take(), ["after", "after", "one", "two"]);
}

#[test]
fn a_build_of_twenty_steps_that_has_not_changed_does_nothing() {
    requires!(root, overlay);
    let home = Home::new();
    let client = home.client("files");
    let mut text = String::from("FROM scratch\n");
    for step in 0..10 {
        text.push_str(&format!("RUN step{step}\nCOPY d{step} /d{step}/\n"));
    }
    client.write("Dockerfile", text);
    // 50 MB in 2,000 files.
    for file in 0..2000 {
        let bytes = [u8::try_from(file % 251).unwrap(); 25_000];
        client.write(&format!("d{}/e{}/f{file}", file % 10, file % 7), bytes);
    }
    let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        Ok((0, layer(&home.images, command, command)))
    });
    let build = || {
        let entries = client.entries();
        let began = Instant::now();
        let sync = home.contexts().begin("k").unwrap();
        let mut wanted = Vec::new();
        for (index, entry) in entries.into_iter().enumerate() {
            let path = entry.path.clone();
            if sync.entry(entry).unwrap() {
                wanted.push((index, String::from_utf8(path).unwrap()));
            }
        }
        for (index, path) in &wanted {
            let file = std::fs::File::open(client.path.join(path)).unwrap();
            sync.file(*index, file).unwrap();
        }
        let context = sync.finish().unwrap();
        let synced = began.elapsed();
        let (built, events) = home.build(&context, &commands, Settings::default());
        println!(
            "{} files sent and kept in {synced:?}, all in {:?}",
            wanted.len(),
            began.elapsed()
        );
        (built.unwrap().image.id, wanted.len(), cached(&events))
    };
    let (id, sent, hits) = build();
    assert_eq!((sent, hits), (2001, 0));
    assert_eq!(commands.take().len(), 10);
    for _ in 0..3 {
        assert_eq!(build(), (id, 0, 20));
    }
    assert!(commands.take().is_empty());
}

#[test]
fn the_same_image_is_made_on_any_machine() {
    requires!(root, overlay);
    let text = "FROM scratch\nWORKDIR /w/x\nCOPY . in/\nCOPY <<E /e\ntext\nE\nRUN one\nENV A=1\n";
    let build = |epoch: Option<&str>, reproducible| {
        let home = Home::new();
        let client = home.client("files");
        client.write("Dockerfile", text).write("d/a", "a");
        let context = client.send(home.contexts(), "k").0;
        let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
            Ok((0, layer(&home.images, command, command)))
        });
        let mut settings = Settings {
            reproducible,
            ..Settings::default()
        };
        let arguments = &mut settings.options.build_args;
        arguments.extend(epoch.map(|e| ("SOURCE_DATE_EPOCH".to_owned(), e.to_owned())));
        let (built, _) = home.build(&context, &commands, settings);
        built.map(|built| built.image)
    };
    assert_eq!(build(None, true).unwrap().id, build(None, true).unwrap().id);
    let (one, two) = (build(Some("1000"), true), build(Some("1000"), true));
    let (one, two) = (one.unwrap(), two.unwrap());
    assert_eq!(one.id, two.id);
    assert_eq!(one.created(), Some("1970-01-01T00:16:40Z"));
    assert_ne!(one.id, build(Some("1001"), true).unwrap().id);
    // The image's times alone: those of copied files stay what they are.
    let (one, two) = (build(Some("1000"), false), build(Some("1000"), false));
    let (one, two) = (one.unwrap(), two.unwrap());
    let created = |image: &sampan_images::Image| -> Vec<_> {
        let history = image.config.history.iter();
        history.map(|entry| entry.created.clone()).collect()
    };
    assert_eq!(created(&one), created(&two));
    assert_ne!(one.id, two.id);
    assert!(build(Some("soon"), false).is_err());
    build(Some(""), false).unwrap();
}

#[test]
fn what_was_used_longest_ago_goes_first_and_what_is_used_stays() {
    requires!(root, overlay);
    let home = Home::new();
    let big = "x".repeat(1 << 20);
    let commands = Commands::new(|command: &str, _: &CancellationToken| -> Answer {
        Ok((0, layer(&home.images, command, &big)))
    });
    let in_use = Default::default();
    let build = |run: &str| {
        let context = dockerfile(&home, &format!("FROM scratch\nRUN {run}\n"));
        let (built, _) = home.build(&context, &commands, Settings::default());
        built.unwrap().image.id
    };
    let ids = ["one", "two", "three"].map(build);
    build("one");
    let records = home.cache.records();
    let (steps, contexts): (Vec<_>, Vec<_>) =
        records.iter().partition(|r| r.kind == CacheKind::Regular);
    assert_eq!((steps.len(), contexts.len()), (3, 1));
    assert!(steps.iter().all(|step| step.shared && step.size >= 1 << 20));
    let one = steps.iter().find(|step| step.description.ends_with("one"));
    assert_eq!(one.unwrap().uses, 2);
    // What images have stays unless all is asked for.
    let policy = PrunePolicy::default();
    let pruned = home.cache.prune(&policy, |_| true, &in_use).unwrap();
    assert_eq!(pruned.records.len(), 1);
    assert_eq!(pruned.records[0].kind, CacheKind::Local);
    for id in ids {
        let options = sampan_images::RemoveOptions::default();
        home.images.remove(&id.to_string(), &options, &[]).unwrap();
    }
    let total: u64 = home.cache.records().iter().map(|r| r.size).sum();
    let policy = PrunePolicy {
        max_used: total - 1,
        ..PrunePolicy::default()
    };
    let pruned = home.cache.prune(&policy, |_| true, &in_use).unwrap();
    assert_eq!(pruned.records.len(), 1);
    assert!(pruned.records[0].description.ends_with("two"));
    assert!(pruned.bytes >= 1 << 20);
    assert_eq!(home.images.layers().list().len(), 2);
    commands.take();
    build("one");
    build("two");
    assert_eq!(commands.take(), ["two"]);
}

#[test]
fn the_same_command_on_other_files_is_another_step() {
    requires!(root, overlay);
    let home = Home::new();
    let ran = AtomicUsize::new(0);
    let wrong = AtomicBool::new(false);
    let commands = Commands::new(|_: &str, _: &CancellationToken| -> Answer {
        ran.fetch_add(1, Ordering::Relaxed);
        if wrong.load(Ordering::Relaxed) {
            return Ok((1, None));
        }
        Ok((0, None))
    });
    let client = home.client("files");
    client.write("Dockerfile", "FROM scratch\nCOPY a /\nRUN one\n");
    for (text, runs) in [("1", 1), ("2", 2), ("1", 2)] {
        client.write("a", text);
        let context = client.send(home.contexts(), "k").0;
        home.build(&context, &commands, Settings::default())
            .0
            .unwrap();
        assert_eq!(ran.load(Ordering::Relaxed), runs, "{text}");
    }
    // With no cache everything is done again, and noted for the next.
    wrong.store(true, Ordering::Relaxed);
    let context = client.send(home.contexts(), "k").0;
    let settings = Settings {
        no_cache: sampan_build::NoCache::Everything,
        ..Settings::default()
    };
    assert!(home.build(&context, &commands, settings).0.is_err());
    home.build(&context, &commands, Settings::default())
        .0
        .unwrap();
}

#[test]
fn owners_are_kept_of_what_comes_from_a_stage_but_not_from_a_client() {
    requires!(root, overlay);
    let home = Home::new();
    let commands = Commands::new(|_: &str, _: &CancellationToken| -> Answer {
        let made = home.images.write_layer(|out| {
            let mut layer = sampan_archive::LayerWriter::new(out);
            let attributes = sampan_archive::Attributes {
                mode: 0o755,
                uid: 5,
                gid: 6,
                ..Default::default()
            };
            layer.directory(b"d", &attributes)?;
            layer.file(b"d/b", &attributes, 1, &b"b"[..])?;
            layer.finish()
        });
        Ok((0, made.unwrap()))
    });
    let client = home.client("files");
    let file = "FROM scratch AS one\nRUN one\nFROM scratch\nCOPY a /\nCOPY --from=one / /\n\
                COPY --from=one --chown=7 /d/b /c\nCOPY --from=one /d /e\n";
    client.write("Dockerfile", file).write("a", "a");
    std::os::unix::fs::chown(client.path.join("a"), Some(3), Some(4)).unwrap();
    let context = client.send(home.contexts(), "k").0;
    let (built, _) = home.build(&context, &commands, Settings::default());
    let mut owners = Vec::new();
    for layer in built.unwrap().image.diff_ids() {
        for entry in home.images.layers().entries(&layer).unwrap() {
            let path = String::from_utf8(entry.path).unwrap();
            owners.push((path, entry.uid, entry.gid));
        }
    }
    owners.retain(|(path, _, _)| !path.is_empty());
    let expected = [
        ("a", 0, 0),
        ("d", 5, 6),
        ("d/b", 5, 6),
        ("c", 7, 7),
        ("e", 0, 0),
        ("e/b", 5, 6),
    ];
    let expected = expected.map(|(path, uid, gid)| (path.to_owned(), uid, gid));
    assert_eq!(owners, expected);
}
