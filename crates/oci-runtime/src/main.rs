//! `sampan-runtime`: the command line that podman, containerd and Docker call an OCI runtime by.

use std::process::ExitCode;

fn main() -> ExitCode {
    sampan_oci_runtime::main("sampan-runtime", std::env::args_os().skip(1).collect())
}
