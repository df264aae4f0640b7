//! Writing five layers of some 300 MB to an archive, and reading them from one.

use std::path::Path;

use anyhow::{Context, Result};
use sampan_testing::{Fixture, fixture};

use super::measure::{Contestant, Samples, in_turn, show, time};
use super::peers::{Peer, Peers};
use super::table::Table;

const ROUNDS: usize = 5;

/// `save` to a file.
pub(super) fn save(peers: &Peers, table: &mut Table) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("save-").tempdir()?;
    let archive = fixture(Fixture::FiveLayers).archive();
    let archive = text(&archive)?;
    for peer in peers.all() {
        time(peer.command(&["load", "-q", "-i", archive]))?;
    }
    let samples = each(peers, |peer| {
        let file = directory.path().join(peer.name());
        let taken = time(peer.command(&["save", "-o", text(&file)?, &name()]))?;
        // Podman refuses to write over it.
        std::fs::remove_file(&file)?;
        Ok(taken)
    })?;
    for peer in peers.all() {
        time(peer.command(&["rmi", &name()]))?;
    }
    let title = "`save` of five layers, 300 MB, to a file";
    show(title, &samples);
    table.times(title, &samples);
    Ok(())
}

/// `load` by engines that have nothing of it.
pub(super) fn load(peers: &Peers, table: &mut Table) -> Result<()> {
    let archive = fixture(Fixture::FiveLayers).archive();
    let archive = text(&archive)?;
    let samples = each(peers, |peer| {
        let taken = time(peer.command(&["load", "-q", "-i", archive]))?;
        time(peer.command(&["rmi", &name()]))?;
        // What the removal left to be written is not the next one's to wait for.
        rustix::fs::sync();
        Ok(taken)
    })?;
    let title = "`load` of five layers, 300 MB, from a file";
    show(title, &samples);
    table.times(title, &samples);
    Ok(())
}

fn each(
    peers: &Peers,
    once: impl Fn(Peer<'_>) -> Result<std::time::Duration>,
) -> Result<Vec<Samples>> {
    let (peers, once) = (peers.all(), &once);
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .map(|peer| Contestant {
            name: peer.name(),
            once: Box::new(move || once(*peer)),
        })
        .collect();
    in_turn(&contestants, ROUNDS)
}

/// The name that the archive gives the image.
fn name() -> String {
    format!("{}:latest", Fixture::FiveLayers.name())
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("the path is text")
}
