//! Pushing five layers of some 300 MB to a registry on loopback that has none of them.

use std::time::Duration;

use anyhow::{Context, Result};
use sampan_testing::{Fixture, Registry, fixture};

use super::measure::{Contestant, in_turn, show, time};
use super::peers::{Peer, Peers};
use super::table::Table;

const ROUNDS: usize = 3;

pub(super) fn run(peers: &Peers, table: &mut Table) -> Result<()> {
    let archive = fixture(Fixture::FiveLayers).archive();
    let archive = archive.to_str().context("the path is text")?;
    let name = format!("{}:latest", Fixture::FiveLayers.name());
    // Loaded each time, so that nobody has the layers packed from the time before.
    let loaded = |peer: Peer<'_>| {
        time(peer.command(&["load", "-q", "-i", archive]))?;
        push_on(peer, &name)
    };
    let title = "`push` of five layers, 300 MB, to loopback, packed on the way";
    row(peers, table, title, &loaded)?;

    let registry = Registry::start();
    let reference = registry.push(&fixture(Fixture::FiveLayers));
    let pulled = |peer: Peer<'_>| {
        time(peer.command(&with_registry(peer, "pull", &reference)))?;
        push_on(peer, &reference)
    };
    let title = "`push` of the same image, pulled before, to another registry";
    row(peers, table, title, &pulled)
}

fn row(
    peers: &Peers,
    table: &mut Table,
    title: &str,
    once: &dyn Fn(Peer<'_>) -> Result<Duration>,
) -> Result<()> {
    let peers = peers.all();
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .map(|peer| Contestant {
            name: peer.name(),
            once: Box::new(|| once(*peer)),
        })
        .collect();
    let samples = in_turn(&contestants, ROUNDS)?;
    show(title, &samples);
    table.times(title, &samples);
    Ok(())
}

/// Pushes an image to a registry of its own, and removes it.
fn push_on(peer: Peer<'_>, name: &str) -> Result<Duration> {
    let registry = Registry::start();
    let target = format!("{}/pushed:1", registry.address());
    time(peer.command(&["tag", name, &target]))?;
    let taken = time(peer.command(&with_registry(peer, "push", &target)))?;
    time(peer.command(&["rmi", name, &target]))?;
    Ok(taken)
}

fn with_registry<'a>(peer: Peer<'_>, command: &'a str, reference: &'a str) -> Vec<&'a str> {
    let mut arguments = vec![command, "-q"];
    if matches!(peer, Peer::Podman(_)) {
        arguments.push("--tls-verify=false");
    }
    arguments.push(reference);
    arguments
}
