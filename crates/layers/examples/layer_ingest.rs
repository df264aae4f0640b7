//! Takes the tar on standard input into the store at `argv[1]` and prints its
//! diff ID when it is durable. The store's tests kill it.

#![allow(clippy::print_stdout)]

use std::path::Path;

use sampan_layers::{Driver, LayerStore, Options};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = std::env::args_os().nth(1).ok_or("no store given")?;
    let options = Options {
        driver: Driver::TarIndex,
        ..Options::default()
    };
    let store = LayerStore::open(Path::new(&root), options)?;
    let mut ingest = store.ingest()?;
    std::io::copy(&mut std::io::stdin().lock(), &mut ingest)?;
    println!("{}", ingest.commit(None)?.diff_id);
    Ok(())
}
