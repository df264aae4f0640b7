//! Small builds, each with the image that it must come to: configuration, history and files.
//! The expectations (`snapshots/`) are read against the reference of Dockerfiles; in the same
//! run Debian's buildah builds each case, and what it makes differently is written in the case.
//!
//! `cases/*.cases` holds them: `=== name`, settings (`> …`), files of the context (`--- path`).
//! `GOLDEN=word` builds only cases whose name contains the word, and shows what they come to.
#![allow(clippy::unwrap_used, missing_docs)]

mod case;
mod image;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use case::{Buildah, Case};
use image::{Built, Listing};
use sampan_testing::{Answer, Asked, Fixture, Ran, ScriptedServer, TestEngine, fixture, run};

const SAMPAN: &str = env!("CARGO_BIN_EXE_sampan");

/// A tool that builds images and saves them.
trait Builder: Sync {
    /// Builds a context with further arguments.
    fn build(&self, tag: &str, context: &Path, more: &[&str]) -> Ran;
    /// Writes an image as an archive in docker's form.
    fn save(&self, tag: &str, archive: &Path) -> Ran;

    fn make(&self, case: &Case, context: &Path, more: &[&str]) -> Result<Built, String> {
        let tag = format!("golden/{}", case.name);
        let ran = self.build(&tag, context, more);
        if ran.code != 0 {
            return Err(format!("{}{}", ran.stdout, ran.stderr));
        }
        let archive = context.with_extension("tar");
        let _ = fs::remove_file(&archive);
        let _ = self.save(&tag, &archive).ok();
        Ok(Built::read(&archive))
    }
}

impl Builder for TestEngine {
    fn build(&self, tag: &str, context: &Path, more: &[&str]) -> Ran {
        let context = context.to_str().unwrap();
        self.sampan(&[&["build", "-q", "-t", tag], more, &[context]].concat())
    }

    fn save(&self, tag: &str, archive: &Path) -> Ran {
        self.sampan(&["save", "-o", archive.to_str().unwrap(), tag])
    }
}

/// Debian's buildah with storage of its own.
struct Reference {
    directory: tempfile::TempDir,
}

impl Reference {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let new = Self { directory };
        let busybox = format!(
            "docker-archive:{}",
            fixture(Fixture::Busybox).archive().display()
        );
        let _ = new.buildah(&["pull", "-q", &busybox]).ok();
        new
    }

    fn buildah(&self, arguments: &[&str]) -> Ran {
        let directory = self.directory.path();
        let (root, runroot) = (directory.join("root"), directory.join("run"));
        let storage = [
            "--storage-driver",
            "vfs",
            "--root",
            root.to_str().unwrap(),
            "--runroot",
            runroot.to_str().unwrap(),
        ];
        run("buildah", &[&storage[..], arguments].concat())
    }
}

impl Builder for Reference {
    fn build(&self, tag: &str, context: &Path, more: &[&str]) -> Ran {
        let own = ["bud", "-q", "--isolation", "chroot", "--format", "docker"];
        let tag = ["--identity-label=false", "-t", tag];
        self.buildah(&[&own[..], &tag, more, &[context.to_str().unwrap()]].concat())
    }

    fn save(&self, tag: &str, archive: &Path) -> Ran {
        let archive = format!("docker-archive:{}:{tag}", archive.display());
        self.buildah(&["push", "-q", tag, &archive])
    }
}

fn server() -> ScriptedServer {
    ScriptedServer::start(|asked: &Asked| match asked.path.as_str() {
        "/file.txt" => {
            Answer::new(200, "fetched\n").with("last-modified", "Sun, 06 Nov 1994 08:49:37 GMT")
        }
        _ => Answer::new(404, "no"),
    })
}

/// What a builder makes of every case, in their order: later ones may build on earlier ones.
fn make_all(
    builder: &dyn Builder,
    cases: &[Case],
    place: &Path,
    server: &str,
) -> Vec<Result<Built, String>> {
    let make = |case: &Case| {
        let context = place.join(case.name.as_str());
        case.write(&context, server);
        let more = case.arguments(&context);
        let more: Vec<&str> = more.iter().map(String::as_str).collect();
        builder.make(case, &context, &more)
    };
    cases.iter().map(make).collect()
}

/// What buildah makes differently in every image, with the reason: the field or file, ours, its
/// own. `*` is anything.
const ALWAYS: &[(&str, &str, &str)] = &[
    // The configuration of an image on scratch begins with what BuildKit puts there.
    ("WorkingDir", "\"/\"", ""),
    ("Cmd", "", "[]"),
    // BuildKit notes that the words of a command need no quotes; buildah does not know of it.
    ("ArgsEscaped", "true", ""),
    // Places of mounts that its commands leave in layers.
    ("/etc/hosts", "", "*"),
    ("/etc/hostname", "", "*"),
    ("/etc/resolv.conf", "", "*"),
];

/// buildah puts a search path in front of every environment that has none; BuildKit does so for
/// scratch alone.
const SEARCH_PATH: &str = "\"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\"";

fn is_always(key: &str, ours: Option<&String>, theirs: Option<&String>) -> bool {
    let text = |value: Option<&String>| value.cloned().unwrap_or_default();
    let (ours, theirs) = (text(ours), text(theirs));
    if key == "Env" {
        let without = theirs.replace(&format!("{SEARCH_PATH},"), "");
        return without == ours || ours.is_empty() && theirs == format!("[{SEARCH_PATH}]");
    }
    ALWAYS.iter().any(|(name, one, other)| {
        *name == key && *one == ours && (*other == "*" || *other == theirs)
    })
}

/// Compares with the reference; tells what is not as the case says.
fn compare(case: &Case, ours: &Listing, theirs: &Result<Built, String>, base: &Built) -> String {
    let mut wrong = String::new();
    let theirs = match (&case.buildah, theirs) {
        (Buildah::Cannot, Err(_)) => return wrong,
        (Buildah::Cannot, Ok(_)) => return format!("{}: buildah can build it\n", case.name),
        (Buildah::Compared(_), Err(error)) => {
            return format!("{}: buildah cannot build it: {error}\n", case.name);
        }
        (Buildah::Compared(_), Ok(built)) => built.listing(base),
    };
    let Buildah::Compared(allowed) = &case.buildah else {
        return wrong;
    };
    let mut differ = BTreeMap::new();
    for key in ours.compared().chain(theirs.compared()) {
        let (ours, theirs) = (ours.value(key), theirs.value(key));
        if ours != theirs && !is_always(key, ours, theirs) {
            differ.insert(key.clone(), format!("{ours:?}, buildah {theirs:?}"));
        }
    }
    for (key, values) in &differ {
        if !allowed.contains(key) {
            writeln!(wrong, "{}: {key}: {values}", case.name).unwrap();
        }
    }
    for key in allowed.iter().filter(|key| !differ.contains_key(*key)) {
        writeln!(wrong, "{}: {key} does not differ from buildah's", case.name).unwrap();
    }
    wrong
}

#[test]
fn images_are_as_recorded_and_as_buildah_makes_them() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/cases");
    let mut groups: Vec<(String, Vec<Case>)> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, Case::read_all(&fs::read_to_string(&path).unwrap()))
        })
        .collect();
    groups.sort_by(|one, other| one.0.cmp(&other.0));
    let only = std::env::var("GOLDEN").unwrap_or_default();
    for (_, cases) in &mut groups {
        cases.retain(|case| case.name.contains(&only));
    }
    let cases: Vec<Case> = groups.iter().flat_map(|(_, cases)| cases.clone()).collect();
    let engine = TestEngine::with_busybox(SAMPAN);
    let reference = Reference::new();
    let server = server();
    let url = format!("http://{}", server.address());
    let base = Built::read(&fixture(Fixture::Busybox).archive());
    let (ours, theirs) = std::thread::scope(|scope| {
        let theirs = reference.directory.path().join("contexts");
        let (reference, cases, url) = (&reference, &cases, &url);
        let theirs = scope.spawn(move || make_all(reference, cases, &theirs, url));
        let ours = make_all(&engine, cases, &engine.scratch().join("contexts"), url);
        (ours, theirs.join().unwrap())
    });
    let mut wrong = String::new();
    let mut at = ours.iter().zip(&theirs);
    for (group, cases) in &groups {
        let mut told = String::new();
        for (case, (ours, theirs)) in cases.iter().zip(&mut at) {
            writeln!(told, "=== {}", case.name).unwrap();
            match ours {
                Ok(built) => {
                    let listing = built.listing(&base);
                    wrong.push_str(&compare(case, &listing, theirs, &base));
                    told.push_str(&listing.text().replace(&url, "{server}"));
                }
                Err(error) => writeln!(wrong, "{}: {error}", case.name).unwrap(),
            }
        }
        if only.is_empty() {
            insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
                insta::assert_snapshot!(group.as_str(), told);
            });
        } else {
            eprintln!("{told}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    assert!(cases.len() >= 60 || !only.is_empty(), "{}", cases.len());
}
