//! Starts containers of an image of Debian's static busybox one after the other, in an engine of
//! its own, and prints how long each part took: `starts ROOT SHIM COUNT NETWORK`.
#![allow(clippy::unwrap_used)] // a measurement that cannot go on ends

use std::time::{Duration, Instant};

use sampan_engine::{Config, ContainerConfig, CreateContainer, Engine, HostConfig, WaitCondition};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, root, shim, count, network] = &arguments[..] else {
        panic!("usage: starts ROOT SHIM COUNT NETWORK");
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(run(root, shim, count.parse().unwrap(), network));
}

async fn run(root: &str, shim: &str, count: usize, network: &str) {
    let began = Instant::now();
    let engine = Engine::open(Config::new(
        format!("{root}/root"),
        format!("{root}/run"),
        shim,
    ))
    .await
    .unwrap();
    println!("open {:?}", began.elapsed());
    let mut parts: Vec<[Duration; 3]> = Vec::new();
    for _ in 0..count {
        let began = Instant::now();
        let request = CreateContainer {
            config: ContainerConfig {
                image: "busybox".into(),
                cmd: Some(vec!["/bin/true".into()]),
                ..ContainerConfig::default()
            },
            host: HostConfig {
                auto_remove: true,
                network_mode: network.parse().unwrap(),
                ..HostConfig::default()
            },
            ..CreateContainer::default()
        };
        let id = engine.containers().create(request).await.unwrap().id;
        let wait = engine
            .containers()
            .wait(id.as_str(), WaitCondition::Removed)
            .await
            .unwrap();
        let created = began.elapsed();
        engine.containers().start(id.as_str()).await.unwrap();
        let started = began.elapsed();
        wait.outcome().await.unwrap();
        parts.push([created, started - created, began.elapsed() - started]);
    }
    for (name, part) in ["create", "start", "end"].into_iter().zip(0..) {
        let mut times: Vec<Duration> = parts.iter().map(|times| times[part]).collect();
        times.sort();
        println!(
            "{name:7} min {:?} median {:?} max {:?}",
            times[0],
            times[count / 2],
            times[count - 1]
        );
    }
    engine.close().await;
}
