//! One container, and one exec in a running container.

use anyhow::Result;

use super::measure::{Contestant, in_turn, show, time};
use super::peers::{Peer, Peers};

const ROUNDS: usize = 20;

pub(super) fn start(peers: &Peers) -> Result<()> {
    compare(
        peers,
        "run --rm busybox true",
        &["run", "--rm", "busybox", "true"],
    )
}

pub(super) fn exec(peers: &Peers) -> Result<()> {
    for peer in peers.all() {
        time(peer.command(&["run", "-d", "--name", "exec", "busybox", "sleep", "100000"]))?;
    }
    let result = compare(peers, "exec CONTAINER true", &["exec", "exec", "true"]);
    for peer in peers.all() {
        time(peer.command(&["rm", "-f", "exec"]))?;
    }
    result
}

fn compare(peers: &Peers, title: &str, arguments: &[&str]) -> Result<()> {
    let peers = peers.all();
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .map(|peer: &Peer<'_>| Contestant {
            name: peer.name(),
            once: Box::new(|| time(peer.command(arguments))),
        })
        .collect();
    show(title, &in_turn(&contestants, ROUNDS)?);
    Ok(())
}
