//! `cargo xtask test --vm`: what depends on the kernel, on an older one.
//!
//! A small Debian of its own kernel (6.1) is booted by emulation: control groups are the v2 tree
//! alone, EROFS cannot be mounted from files, overlayfs does not stack detached mounts and takes
//! no layers one by one. The test programs are static, so that they run there as they are.

mod base;
mod disk;
mod machine;
mod report;

use std::fs;

use anyhow::Result;
use sampan_testing::Fixture;
use xtask::packages;
use xtask::run::workspace;

/// Tests that are run there together: all programs of a package, or one of them.
struct Group {
    package: &'static str,
    /// One of the package's test programs; all of them where it is empty.
    program: &'static str,
    /// Words in the names of tests; all tests where there are none.
    tests: &'static [&'static str],
    /// Words in the names of tests that are left out.
    left_out: &'static [&'static str],
    /// How long a program may take.
    minutes: u32,
}

const fn package(package: &'static str) -> Group {
    Group {
        package,
        program: "",
        tests: &[],
        left_out: &[],
        minutes: 15,
    }
}

/// End-to-end tests, by words in their names: mostly modules.
const fn end_to_end(tests: &'static [&'static str]) -> Group {
    Group {
        program: "e2e",
        tests,
        ..package("sampan")
    }
}

impl Group {
    const fn without(self, left_out: &'static [&'static str]) -> Self {
        Self { left_out, ..self }
    }

    const fn of_program(self, program: &'static str, tests: &'static [&'static str]) -> Self {
        Self {
            program,
            tests,
            ..self
        }
    }

    const fn within(self, minutes: u32) -> Self {
        Self { minutes, ..self }
    }
}

/// What is run there. Left out of the end-to-end tests are those that depend on no kernel (of the
/// command line, of registries) and `nested`, `services`, `transcripts`, whose images are big.
const TESTED: &[Group] = &[
    package("sampan-kernel"),
    package("sampan-cgroups"),
    package("sampan-shim"),
    // What reads archives is the same on any kernel, and takes long there.
    package("sampan-layers").of_program("sampan_layers", &["overlay::"]),
    package("sampan-layers")
        .of_program("hostile", &[])
        .without(&["mutated"]),
    package("sampan-layers").of_program("store", &[]),
    package("sampan-layers").of_program("worker", &[]),
    // The other three of its four ways are the same as this one there, or skipped.
    package("sampan-layers").of_program("conformance", &["directory::"]),
    end_to_end(&["apparmor::"]),
    end_to_end(&["breakout::"]),
    // A stop that takes as long as was asked for is none on a machine that is slow.
    end_to_end(&["every_flag::"])
        .without(&["stops_take_the_time"])
        .within(25),
    end_to_end(&["users::"]),
    end_to_end(&["runtimes::"]),
    end_to_end(&["devices::"]),
    end_to_end(&["copy::"]),
    // A thousand containers would take half an hour.
    end_to_end(&["failures::"]).without(&["a_thousand"]),
    end_to_end(&["flags::"]),
    end_to_end(&["layers::", "limits::", "inside::"]),
    end_to_end(&["health::", "restarts::"]),
    end_to_end(&["hostile::"]).without(&["build_hostile::"]),
    end_to_end(&["network::", "storage::"]),
    end_to_end(&["kills::", "daemon::"]).without(&["build_kills::"]),
    end_to_end(&["sessions::", "logs::"]),
    package("sampan-runtime"),
    package("sampan-engine"),
    package("sampan-oci-runtime").of_program("", &["lifecycle::", "specification::what"]),
];

/// What the machine has besides a minimal Debian.
const INCLUDED: &str = "linux-image-cloud-amd64,busybox-static,nftables,iproute2,procps,attr,\
                        libcap2-bin,skopeo,docker-registry,ca-certificates,runc,crun,gcc,\
                        libc6-dev,bzip2,xz-utils,zstd,umoci,openssl,curl,apparmor";

/// The images that the end-to-end tests load.
const IMAGES: [Fixture; 2] = [Fixture::Busybox, Fixture::Whiteouts];

/// Builds, boots, tests. `filters` are handed to every test program.
pub(crate) fn test(filters: &[&str]) -> Result<()> {
    packages::install_machine()?;
    let directory = workspace().join("target/vm");
    fs::create_dir_all(&directory)?;
    let base = base::make(&directory)?;
    let disk = disk::pack(&directory, filters)?;
    machine::boot(&base, &disk)
}
