use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sampan_network::NetworkNames;

use crate::command::run;

/// Network namespaces that an engine keeps ready for containers to come.
const READY: usize = 3;

/// What an engine may have on the machine: mounts, cgroups, interfaces,
/// firewall tables, namespaces and processes. Everything that belongs to an engine bears
/// its run directory or the name derived from it.
#[derive(Clone, Debug)]
pub struct Ledger {
    run_directory: PathBuf,
    name: String,
}

impl Ledger {
    /// The ledger of the engine of `run_directory`.
    #[must_use]
    pub fn open(run_directory: &Path) -> Self {
        let names = NetworkNames::for_run_root(run_directory);
        Self {
            run_directory: run_directory.to_owned(),
            name: names.instance().to_owned(),
        }
    }

    /// The name of the engine's bridge, table and cgroups.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything of the engine that is on the machine now, a line each.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        let mut entries = self.mounts();
        entries.extend(self.cgroups());
        entries.extend(self.network());
        entries.extend(self.processes());
        entries
    }

    /// What containers add to an engine that runs: all but the engine's own
    /// bridge, table, cgroup parents and processes, and the starts that it keeps prepared.
    #[must_use]
    pub fn of_containers(&self) -> Vec<String> {
        let directory = self.run_directory.display().to_string();
        let own = |entry: &String| {
            // The keeper and the engine name their directory, nothing in a container does.
            entry.starts_with("process") && entry.contains(&directory)
                // Before Linux 6.15 layers stay attached while the engine runs.
                || entry.starts_with("mount") && entry.contains("/root/layers/mounts")
                || entry == &format!("interface {}", self.name)
                || entry == &format!("table {}", self.name)
                || entry.ends_with(&format!("/{}", self.name))
                || entry.ends_with(&format!("/{}/shims", self.name))
        };
        // Before what belongs to them: what is prepared meanwhile is seen the next time.
        let prepared = self.prepared();
        let mut entries = self.entries();
        entries.extend(self.files());
        entries.retain(|entry| !own(entry) && !prepared.iter().any(|id| entry.contains(id)));
        // A network interface does not tell whose it is.
        let mut spare = prepared.len();
        entries.retain(|entry| {
            let is_spare = spare > 0 && entry.starts_with("interface ");
            spare -= usize::from(is_spare);
            !is_spare
        });
        entries.extend(self.published());
        // Those that an engine keeps ready are its own.
        let ready = READY + prepared.len();
        entries.extend(self.namespaces().into_iter().skip(ready));
        entries
    }

    /// The identities of prepared starts: of containers that nobody has created.
    fn prepared(&self) -> Vec<String> {
        let containers = self.run_directory.parent().unwrap().join("root/containers");
        let shims = fs::read_dir(self.run_directory.join("shims"));
        shims
            .into_iter()
            .flatten()
            .flatten()
            .filter(|shim| !shim.path().join("shim.sock").exists())
            .filter_map(|shim| shim.file_name().into_string().ok())
            .filter(|id| !containers.join(id).exists())
            .collect()
    }

    /// Waits a moment for what follows an answer, then panics if anything is
    /// left of an engine that has ended.
    #[track_caller]
    pub fn assert_balanced(&self) {
        Self::assert_empty(|| self.entries());
    }

    /// The same for the containers of an engine that runs on.
    #[track_caller]
    pub fn assert_no_container(&self) {
        Self::assert_empty(|| self.of_containers());
    }

    #[track_caller]
    fn assert_empty(entries: impl Fn() -> Vec<String>) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let left = entries();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:#?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn mounts(&self) -> Vec<String> {
        let parent = self.run_directory.parent().unwrap().display().to_string();
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let own = table.lines().filter(|line| line.contains(&parent));
        own.map(|line| format!("mount {line}")).collect()
    }

    fn cgroups(&self) -> Vec<String> {
        let table = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let roots = table
            .lines()
            .filter(|line| line.contains(" - cgroup"))
            .filter_map(|line| line.split(' ').nth(4));
        let mut found = Vec::new();
        for root in roots {
            collect_directories(&Path::new(root).join(&self.name), &mut found);
        }
        found
    }

    fn network(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/sys/class/net").unwrap().flatten() {
            let master = fs::read_link(entry.path().join("master")).unwrap_or_default();
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == self.name || master.file_name().is_some_and(|m| *m == *self.name) {
                found.push(format!("interface {name}"));
            }
        }
        let tables = run("nft", &["list", "tables"]).ok();
        let own = tables
            .lines()
            .filter(|line| line.split(' ').any(|word| word == self.name));
        found.extend(own.map(|_| format!("table {}", self.name)));
        found
    }

    fn processes(&self) -> Vec<String> {
        let run = self.run_directory.parent().unwrap().display().to_string();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            let pid = entry.file_name().to_string_lossy().into_owned();
            let cgroup = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            let own = line.contains(&run) && line.contains("sampan");
            if own || cgroup.contains(&format!("/{}/", self.name)) {
                found.push(format!("process {pid} {line}"));
            }
        }
        found
    }

    /// Published ports in the engine's table.
    fn published(&self) -> Vec<String> {
        let table = run("nft", &["list", "table", "ip", &self.name]);
        // `elements = { tcp . 8080 : 172.17.0.2 . 80, ... }`, over several lines.
        let mut rest = table.stdout.as_str();
        let mut found = Vec::new();
        while let Some((_, elements)) = rest.split_once("elements = {") {
            let (elements, after) = elements.split_once('}').unwrap_or((elements, ""));
            found.extend(
                elements
                    .split(',')
                    .map(|port| format!("rule {}", port.trim())),
            );
            rest = after;
        }
        found
    }

    /// Network namespaces other than the host's that processes of the engine are in or hold open.
    fn namespaces(&self) -> Vec<String> {
        let host = fs::read_link("/proc/self/ns/net").unwrap();
        let mut found = BTreeSet::new();
        for process in self.processes() {
            let pid = process.split(' ').nth(1).unwrap_or_default();
            let handles = fs::read_dir(format!("/proc/{pid}/fd"))
                .into_iter()
                .flatten();
            let mut links: Vec<PathBuf> = handles.flatten().map(|handle| handle.path()).collect();
            links.push(format!("/proc/{pid}/ns/net").into());
            let targets = links
                .into_iter()
                .filter_map(|link| fs::read_link(link).ok());
            found.extend(
                targets.filter(|target| {
                    *target != host && target.to_string_lossy().starts_with("net:[")
                }),
            );
        }
        found
            .into_iter()
            .map(|namespace| format!("namespace {}", namespace.display()))
            .collect()
    }

    /// Directories of containers and shims, and what waits for its removal.
    fn files(&self) -> Vec<String> {
        let root = self.run_directory.parent().unwrap().join("root");
        let directories = [
            root.join("containers"),
            root.join("trash"),
            self.run_directory.join("shims"),
        ];
        let mut found = Vec::new();
        for directory in directories {
            for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
                found.push(format!("file {}", entry.path().display()));
            }
        }
        found
    }
}

fn collect_directories(directory: &Path, found: &mut Vec<String>) {
    if !directory.is_dir() {
        return;
    }
    found.push(format!("cgroup {}", directory.display()));
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_directories(&entry.path(), found);
        }
    }
}
