//! Pulling five layers of some 300 MB from a registry on loopback.

use anyhow::Result;
use sampan_testing::{Fixture, Registry, fixture};

use super::measure::{Contestant, in_turn, show, time};
use super::peers::{Peer, Peers};
use super::table::Table;

const ROUNDS: usize = 5;

pub(super) fn run(peers: &Peers, table: &mut Table) -> Result<()> {
    let registry = Registry::start();
    let reference = registry.push(&fixture(Fixture::FiveLayers));
    let peers = peers.all();
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .map(|peer| Contestant {
            name: peer.name(),
            once: Box::new(|| {
                let mut arguments = vec!["pull", "-q"];
                if matches!(peer, Peer::Podman(_)) {
                    arguments.push("--tls-verify=false");
                }
                arguments.push(&reference);
                let taken = time(peer.command(&arguments))?;
                time(peer.command(&["rmi", &reference]))?;
                Ok(taken)
            }),
        })
        .collect();
    let samples = in_turn(&contestants, ROUNDS)?;
    let title = "`pull` of five layers, 300 MB, from loopback";
    show(title, &samples);
    table.times(title, &samples);
    Ok(())
}
