//! Pushing five layers of some 300 MB to a registry on loopback that has none of them.

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
    let peers = peers.all();
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .map(|peer| Contestant {
            name: peer.name(),
            once: Box::new(|| {
                // Loaded each time, so that nobody has the layers packed from the time before.
                time(peer.command(&["load", "-q", "-i", archive]))?;
                let registry = Registry::start();
                let target = format!("{}/pushed:1", registry.address());
                time(peer.command(&["tag", &name, &target]))?;
                let mut arguments = vec!["push", "-q"];
                if matches!(peer, Peer::Podman(_)) {
                    arguments.push("--tls-verify=false");
                }
                arguments.push(&target);
                let taken = time(peer.command(&arguments))?;
                time(peer.command(&["rmi", &name, &target]))?;
                Ok(taken)
            }),
        })
        .collect();
    let samples = in_turn(&contestants, ROUNDS)?;
    let title = "`push` of five layers, 300 MB, to loopback, packed on the way";
    show(title, &samples);
    table.times(title, &samples);
    Ok(())
}
