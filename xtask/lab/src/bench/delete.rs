//! Deleting an image of 20,000 files.

use std::fs;

use anyhow::{Context, Result};
use sampan_testing::run as program;

use super::measure::{Contestant, in_turn, show, time};
use super::peers::Peers;
use super::table::Table;

const ROUNDS: usize = 5;
const FILES: usize = 20_000;
/// Bytes of each file: with this, the image has some 100 MB.
const LENGTH: usize = 5000;
const NAME: &str = "many-files:1";

pub(super) fn run(peers: &Peers, table: &mut Table) -> Result<()> {
    let directory = tempfile::Builder::new().prefix("delete-").tempdir()?;
    let archive = directory.path().join("image.tar");
    make(directory.path(), &archive)?;
    let archive = archive.to_str().context("the path is text")?;
    let peers = peers.all();
    let contestants: Vec<Contestant<'_>> = peers
        .iter()
        .map(|peer| Contestant {
            name: peer.name(),
            once: Box::new(|| {
                time(peer.command(&["load", "-i", archive]))?;
                // What the load left to be written is not the removal's to wait for.
                rustix::fs::sync();
                time(peer.command(&["rmi", NAME]))
            }),
        })
        .collect();
    let samples = in_turn(&contestants, ROUNDS)?;
    let title = "`rmi` of an image of 20,000 files, 100 MB";
    show(title, &samples);
    table.times(title, &samples);
    Ok(())
}

/// Writes an archive in the format of `docker save`.
fn make(directory: &std::path::Path, archive: &std::path::Path) -> Result<()> {
    let tree = directory.join("tree");
    for number in 0..FILES {
        let folder = tree.join(format!("d{}", number / 200));
        fs::create_dir_all(&folder)?;
        let text = format!("{number} ").repeat(LENGTH / 2);
        fs::write(
            folder.join(format!("f{number}")),
            &text.as_bytes()[..LENGTH],
        )?;
    }
    let text = |path: &std::path::Path| path.display().to_string();
    let layer = text(&directory.join("layer.tar"));
    let _ = program("tar", &["-C", &text(&tree), "-cf", &layer, "."]).ok();
    let sum = program("sha256sum", &[&layer]).ok();
    let diff_id = sum.split(' ').next().unwrap_or_default();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    fs::write(directory.join("config.json"), config)?;
    let manifest =
        format!(r#"[{{"Config":"config.json","RepoTags":["{NAME}"],"Layers":["layer.tar"]}}]"#);
    fs::write(directory.join("manifest.json"), manifest)?;
    let parts = ["manifest.json", "config.json", "layer.tar"];
    let (folder, archive) = (text(directory), text(archive));
    let arguments = [&["-C", &folder, "-cf", &archive][..], &parts[..]].concat();
    let _ = program("tar", &arguments).ok();
    Ok(())
}
