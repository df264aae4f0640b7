//! Builds through the engine, with commands that really run.
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

mod harness;

use std::io::Cursor;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use harness::{Host, SOON, import, shim};
use sampan_archive::{Attributes, LayerWriter};
use sampan_engine::building::{CancellationToken, Event, NoCache, Settings};
use sampan_engine::images::{Budget, Image, Mark, Policy};
use sampan_engine::{BuildRequest, CollectorConfig, Config, Engine, Sent};

const FILE: &str = "FROM busybox\nWORKDIR /made\nCOPY a sub/\n\
    RUN mkdir -p d/e && echo one > d/one && ln d/one two && ln -s d link && rm -r sub && \
        head -c 3000000 /dev/zero > sparse && touch /etc/made\n\
    RUN rm two && echo more >> d/one && mv d moved\nENV A=1\n";

/// A tar of these files, as a client sends it at this time.
fn tar(files: &[(&str, &str)], time: i64) -> Cursor<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut tar = LayerWriter::new(&mut bytes);
    let attributes = Attributes {
        mode: 0o644,
        mtime: (time, 0),
        ..Attributes::default()
    };
    for (path, text) in files {
        let size = text.len() as u64;
        tar.file(path.as_bytes(), &attributes, size, text.as_bytes())
            .unwrap();
    }
    tar.finish().unwrap();
    Cursor::new(bytes)
}

async fn build(engine: &Engine, time: i64, settings: Settings) -> (Arc<Image>, usize) {
    build_of(engine, FILE, time, settings).await
}

async fn build_of(
    engine: &Engine,
    file: &str,
    time: i64,
    settings: Settings,
) -> (Arc<Image>, usize) {
    let cached = Arc::new(Mutex::new(0));
    let counted = cached.clone();
    let request = BuildRequest {
        settings,
        ..BuildRequest::default()
    };
    let image = engine
        .builds()
        .build(
            Sent::Archive(Box::new(tar(&[("Dockerfile", file), ("a", "a\n")], time))),
            request,
            move |_, event| {
                if event == Event::Cached {
                    *counted.lock().unwrap() += 1;
                }
            },
            CancellationToken::new(),
        )
        .await
        .unwrap();
    let cached = *cached.lock().unwrap();
    (image, cached)
}

fn reproducible() -> Settings {
    let mut settings = Settings {
        reproducible: true,
        ..Settings::default()
    };
    let epoch = ("SOURCE_DATE_EPOCH".to_owned(), "1700000000".to_owned());
    settings.options.build_args.extend([epoch]);
    settings
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_the_same_whoever_builds_it() {
    needs_host!();
    let mut ids = Vec::new();
    for time in [1_800_000_000, 1_900_000_000] {
        let host = Host::new();
        let engine = host.with_busybox().await;
        let (image, cached) = build(&engine, time, reproducible()).await;
        assert_eq!(cached, 0);
        // Also when it is done again on the same root.
        let settings = Settings {
            no_cache: NoCache::Everything,
            ..reproducible()
        };
        let (again, cached) = build(&engine, time, settings).await;
        assert_eq!((again.id, cached), (image.id, 0));
        ids.push((image.id, image.diff_ids()[1..].to_vec()));
        engine.close().await;
        host.assert_nothing_left();
    }
    // The base was imported at another time; all that was built on it is the same.
    assert_eq!(ids[0].1, ids[1].1);
}

#[tokio::test(flavor = "multi_thread")]
async fn times_of_files_do_not_count_and_what_has_not_changed_is_not_read() {
    needs_host!();
    let host = Host::new();
    let engine = host.with_busybox().await;
    let (image, cached) = build(&engine, 1_000, Settings::default()).await;
    assert_eq!(cached, 0);
    for time in [1_000, 2_000] {
        let (again, cached) = build(&engine, time, Settings::default()).await;
        assert_eq!((again.id, cached), (image.id, 4), "{time}");
    }
    engine.close().await;
    host.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_space_is_short_the_steps_of_nameless_images_go_with_them() {
    needs_host!();
    let host = Host::new();
    let mut config = Config::new(host.root(), host.run(), shim().unwrap());
    config.collector = CollectorConfig {
        budget: Some(Budget {
            high: Mark::Bytes(1),
            low: Mark::Bytes(1),
        }),
        policy: Policy {
            tagged: false,
            min_age: Duration::ZERO,
        },
        cache: None,
    };
    let engine = Engine::open(config).await.unwrap();
    import(&engine, "busybox", &[]).await;
    let named = Settings {
        names: vec!["kept:1".parse().unwrap()],
        ..Settings::default()
    };
    let file = |what: &str| format!("FROM busybox\nRUN echo {what} > /{what}\n");
    let (kept, _) = build_of(&engine, &file("kept"), 0, named).await;
    let (nameless, _) = build_of(&engine, &file("nameless"), 0, Settings::default()).await;
    let deadline = Instant::now() + SOON;
    let records = loop {
        let records = engine.builds().cache().await.unwrap();
        let images = engine.images().space().await.unwrap().images;
        if !images.iter().any(|image| image.image.id == nameless.id) {
            assert!(images.iter().any(|image| image.image.id == kept.id));
            break records;
        }
        assert!(Instant::now() < deadline, "it stays: {records:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(records.len(), 1);
    assert!(records[0].description.ends_with("> /kept"));
    engine.close().await;
    host.assert_nothing_left();
}
