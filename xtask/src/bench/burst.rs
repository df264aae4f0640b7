//! Fifty starts at once.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Result, ensure};

use super::measure::{Contestant, in_turn, show};
use super::peers::Peers;
use super::table::Table;

const STARTS: usize = 50;
const ROUNDS: usize = 3;

pub(super) fn run(peers: &Peers, table: &mut Table) -> Result<()> {
    let peers = peers.all();
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .map(|peer| Contestant {
            name: peer.name(),
            once: Box::new(|| {
                let start = Instant::now();
                let children: Vec<_> = (0..STARTS)
                    .map(|_| spawn(peer.command(&["run", "--rm", "busybox", "true"])))
                    .collect::<Result<_>>()?;
                for mut child in children {
                    ensure!(child.wait()?.success(), "a start failed");
                }
                Ok(start.elapsed())
            }),
        })
        .collect();
    let samples = in_turn(&contestants, ROUNDS)?;
    let title = format!("{STARTS} times `run --rm busybox true` at once");
    show(&title, &samples);
    table.times(&title, &samples);
    Ok(())
}

fn spawn(mut command: Command) -> Result<std::process::Child> {
    Ok(command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?)
}
