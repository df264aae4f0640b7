//! Building: what steps cost, what is known already, and much to copy. Against docker's classic
//! builder and buildah.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use sampan_testing::{Fixture, fixture};
use tempfile::TempDir;
use xtask::run::{command, run as execute, workspace};

use super::measure::{Contestant, Samples, in_turn, show, time};
use super::peers::{Peer, Peers};
use super::table::Table;

/// A docker takes some seconds for one.
const COLD: usize = 2;
const CACHED: usize = 5;
const STEPS: usize = 20;
const FILES: usize = 20_000;
const BIG: usize = 500 << 20;
/// The files of the context that does not change, and the bytes of each.
const KEPT: usize = 2000;
const KEPT_SIZE: usize = 25 << 10;
/// Debian packages that need none that a minimal Debian does not have.
const PACKAGES: [&str; 4] = ["make", "jq", "libjq1", "libonig5"];

/// Whether steps may be known from before.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Known {
    Nothing,
    Everything,
}

/// Buildah, on directories of its own.
struct Buildah {
    directory: TempDir,
}

impl Buildah {
    fn start() -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("buildah-").tempdir()?;
        Ok(Self { directory })
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("buildah");
        command
            .arg("--root")
            .arg(self.directory.path().join("root"))
            .arg("--runroot")
            .arg(self.directory.path().join("run"))
            .args(arguments)
            .env("BUILDAH_RUNTIME", "runc");
        command
    }

    fn load(&self, image: Fixture) -> Result<()> {
        let archive = fixture(image).archive();
        let name = format!("docker-archive:{}", archive.display());
        time(self.command(&["pull", "-q", &name]))?;
        Ok(())
    }
}

/// Brings what is fetched from elsewhere.
pub(super) fn prepare() -> Result<()> {
    let directory = packages();
    if directory.is_dir() {
        return Ok(());
    }
    let parts = directory.with_extension("part");
    fs::create_dir_all(&parts)?;
    let mut download = command("apt-get", &["download", "--quiet"]);
    download.args(PACKAGES).current_dir(&parts);
    execute(download)?;
    fs::rename(parts, directory)?;
    let _ = fixture(Fixture::Debian).archive();
    Ok(())
}

fn packages() -> PathBuf {
    workspace().join("target/packages-to-build-with")
}

/// Runs all of it.
pub(super) fn run(peers: &Peers, table: &mut Table) -> Result<()> {
    let buildah = Buildah::start()?;
    buildah.load(Fixture::Busybox)?;
    let bench = Bench { peers, buildah };

    let steps = Directory::new(&many_steps(""))?;
    bench.row(
        table,
        "`build` of 20 RUN steps, nothing known",
        &steps,
        Known::Nothing,
        COLD,
    )?;
    bench.row(
        table,
        "`build` of 20 RUN steps, all known",
        &steps,
        Known::Everything,
        CACHED,
    )?;

    let kept = Directory::new(&many_steps("COPY . /src\n"))?;
    kept.fill("kept", KEPT, KEPT_SIZE)?;
    let title = "`build` of 20 steps, all known, of 50 MB in 2,000 files";
    bench.row(table, title, &kept, Known::Everything, CACHED)?;

    let stages = ["a", "b", "c"]
        .map(|name| format!("FROM busybox AS {name}\nRUN sleep 1 && echo {name} > /{name}\n"));
    let copies = ["a", "b", "c"].map(|name| format!("COPY --from={name} /{name} /{name}\n"));
    let stages = format!("{}FROM busybox\n{}", stages.concat(), copies.concat());
    let stages = Directory::new(&stages)?;
    bench.row(
        table,
        "`build` of 3 stages that sleep 1 s each",
        &stages,
        Known::Nothing,
        COLD,
    )?;

    let many = Directory::new("FROM busybox\nCOPY many /many\n")?;
    many.fill("many", FILES, 100)?;
    bench.row(
        table,
        "`build` with COPY of 20,000 files",
        &many,
        Known::Nothing,
        COLD,
    )?;

    let big = Directory::new("FROM busybox\nCOPY big /big\n")?;
    big.big()?;
    bench.row(
        table,
        "`build` with COPY of 500 MB in one file",
        &big,
        Known::Nothing,
        COLD,
    )?;

    bench.load_debian()?;
    let install = Directory::new(
        "FROM debian\nCOPY packages /packages\n\
         RUN apt-get install -y -qq --no-install-recommends /packages/*.deb\n",
    )?;
    install.packages()?;
    let title = "`build` with apt-get install of `make` and `jq`, from files";
    bench.row(table, title, &install, Known::Nothing, COLD)
}

fn many_steps(first: &str) -> String {
    let steps = (0..STEPS).map(|step| format!("RUN echo {step} > /file{step}\n"));
    format!("FROM busybox\n{first}{}", steps.collect::<String>())
}

struct Bench<'a> {
    peers: &'a Peers,
    buildah: Buildah,
}

impl Bench<'_> {
    fn row(
        &self,
        table: &mut Table,
        title: &str,
        directory: &Directory,
        known: Known,
        rounds: usize,
    ) -> Result<()> {
        let path = directory.path()?;
        let peers = self.peers();
        let mut contestants: Vec<Contestant<'_>> = peers
            .iter()
            .map(|peer| Contestant {
                name: peer.name(),
                once: Box::new(|| {
                    let mut arguments = vec!["build", "-q", "-t", "built"];
                    if known == Known::Nothing {
                        arguments.push("--no-cache");
                    }
                    arguments.push(path);
                    time(peer.command(&arguments))
                }),
            })
            .collect();
        contestants.push(Contestant {
            name: "buildah",
            once: Box::new(|| {
                let how = match known {
                    Known::Nothing => "--no-cache",
                    Known::Everything => "--layers",
                };
                let arguments = ["bud", "-q", "--pull=never", how, "-t", "built", path];
                let taken: Duration = time(self.buildah.command(&arguments))?;
                Ok(taken)
            }),
        });
        let samples: Vec<Samples> = in_turn(&contestants, rounds)?;
        show(title, &samples);
        table.times(title, &samples);
        Ok(())
    }

    /// Podman builds as buildah does.
    fn peers(&self) -> [Peer<'_>; 2] {
        let [sampan, docker, _] = self.peers.all();
        [sampan, docker]
    }

    fn load_debian(&self) -> Result<()> {
        let archive = fixture(Fixture::Debian).archive();
        let archive = archive.to_str().context("the path is text")?;
        for peer in self.peers() {
            time(peer.command(&["load", "-q", "-i", archive]))?;
        }
        self.buildah.load(Fixture::Debian)
    }
}

/// What is built from.
struct Directory(TempDir);

impl Directory {
    fn new(dockerfile: &str) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("context-").tempdir()?;
        fs::write(directory.path().join("Dockerfile"), dockerfile)?;
        Ok(Self(directory))
    }

    fn path(&self) -> Result<&str> {
        self.0.path().to_str().context("the path is text")
    }

    /// Makes files that do not pack well.
    fn fill(&self, name: &str, files: usize, size: usize) -> Result<()> {
        let mut noise = Noise::default();
        for number in 0..files {
            let directory = self.0.path().join(name).join((number / 100).to_string());
            fs::create_dir_all(&directory)?;
            fs::write(directory.join(number.to_string()), noise.bytes(size))?;
        }
        Ok(())
    }

    fn big(&self) -> Result<()> {
        let mut noise = Noise::default();
        let mut file = fs::File::create(self.0.path().join("big"))?;
        for _ in 0..BIG >> 20 {
            file.write_all(&noise.bytes(1 << 20))?;
        }
        Ok(())
    }

    fn packages(&self) -> Result<()> {
        let to = self.0.path().join("packages");
        fs::create_dir(&to)?;
        for entry in fs::read_dir(packages())? {
            let from: PathBuf = entry?.path();
            let name: &Path = from.file_name().context("a file has a name")?.as_ref();
            fs::copy(&from, to.join(name))?;
        }
        Ok(())
    }
}

/// Bytes without a pattern, the same each time: xorshift64.
struct Noise(u64);

impl Default for Noise {
    fn default() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }
}

impl Noise {
    fn bytes(&mut self, length: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(length + 8);
        while bytes.len() < length {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            bytes.extend_from_slice(&self.0.to_le_bytes());
        }
        bytes.truncate(length);
        bytes
    }
}
