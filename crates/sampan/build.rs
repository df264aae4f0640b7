//! Builds the program of the bundled `hello-world` image: one small static
//! executable, which `include_bytes!` takes up.

use std::env;
use std::path::PathBuf;
use std::process::{Command, exit};

fn main() {
    println!("cargo::rerun-if-changed=hello-world/main.rs");
    let variable = |name| env::var(name).unwrap_or_default();
    let output = PathBuf::from(variable("OUT_DIR")).join("hello-world");
    let status = Command::new(variable("RUSTC"))
        .args([
            "hello-world/main.rs",
            "--edition=2024",
            "--crate-name=hello_world",
        ])
        .args(["--target", &variable("TARGET")])
        .args([
            "-C",
            "opt-level=s",
            "-C",
            "panic=abort",
            "-C",
            "strip=symbols",
        ])
        .args(["-C", "relocation-model=static", "-C", "link-arg=-nostdlib"])
        .args(["-C", "link-arg=-static", "-C", "link-arg=-no-pie"])
        .arg("-o")
        .arg(output)
        .status();
    if !status.is_ok_and(|status| status.success()) {
        eprintln!("cannot build the hello-world program");
        exit(1);
    }
}
