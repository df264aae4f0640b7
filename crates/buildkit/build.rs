//! Compiles the interface definitions, without `protoc`.

use std::path::Path;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo::rerun-if-changed=proto");
    let mut files: Vec<_> = std::fs::read_dir(root)?
        .map(|entry| Ok(entry?.path()))
        .collect::<std::io::Result<_>>()?;
    files.retain(|path| path.extension().is_some_and(|kind| kind == "proto"));
    files.sort();
    let set = protox::compile(&files, [root])?;
    tonic_prost_build::configure()
        .build_transport(false)
        .bytes(".fsutil.types.Packet.data")
        .bytes(".moby.buildkit.v1.BytesMessage.data")
        .bytes(".containerd.services.content.v1")
        .include_file("mod.rs")
        .compile_fds(set)?;
    Ok(())
}
