//! A small build as it is written down.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use sampan_testing::{run, run_in};

/// The time of all files of contexts: 2001-09-09T01:46:40Z.
pub(crate) const TIME: i64 = 1_000_000_000;

/// One build.
#[derive(Clone, Debug, Default)]
pub(crate) struct Case {
    pub(crate) name: String,
    /// Further arguments of the client; `{context}` is the context's directory.
    args: Vec<String>,
    pub(crate) buildah: Buildah,
    /// Archives to make of the context: name, then what is in it.
    archives: Vec<Vec<String>>,
    crlf: Flag,
    byte_order_mark: Flag,
    files: Vec<File>,
}

/// Whether the Dockerfile is written in another way.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum Flag {
    #[default]
    Unset,
    Set,
}

/// What the reference makes of it.
#[derive(Clone, Debug)]
pub(crate) enum Buildah {
    /// It lacks what the case shows.
    Cannot,
    /// The same but for these fields and files; each is written with its reason.
    Compared(Vec<String>),
}

impl Default for Buildah {
    fn default() -> Self {
        Self::Compared(Vec::new())
    }
}

#[derive(Clone, Debug)]
struct File {
    path: String,
    kind: Kind,
}

#[derive(Clone, Debug)]
enum Kind {
    Text { mode: u32, text: String },
    Link(String),
}

impl Case {
    /// Reads a file of cases.
    pub(crate) fn read_all(text: &str) -> Vec<Self> {
        let mut cases = Vec::new();
        for part in text.split("=== ").skip(1) {
            let (head, rest) = part.split_once("\n--- ").unwrap();
            let mut lines = head.lines();
            let mut case = Self {
                name: lines.next().unwrap().to_owned(),
                ..Self::default()
            };
            for line in lines {
                case.set(line.strip_prefix("> ").unwrap());
            }
            case.files = format!("\n{}", rest.trim_end())
                .replacen('\n', "", 1)
                .split("\n--- ")
                .map(File::read)
                .collect();
            cases.push(case);
        }
        cases
    }

    fn set(&mut self, line: &str) {
        let (key, value) = line.split_once(' ').unwrap_or((line, ""));
        let words = || value.split(' ').map(str::to_owned).collect();
        match key {
            "args" => self.args = words(),
            "tar" => self.archives.push(words()),
            "crlf" => self.crlf = Flag::Set,
            "bom" => self.byte_order_mark = Flag::Set,
            "buildah" => {
                let (what, reason) = value.split_once(": ").unwrap();
                assert!(!reason.is_empty());
                match (what.strip_prefix("differs "), &mut self.buildah) {
                    (Some(key), Buildah::Compared(keys)) => keys.push(key.to_owned()),
                    (Some(_), Buildah::Cannot) => panic!("{}", self.name),
                    (None, buildah) => {
                        assert_eq!(what, "cannot");
                        *buildah = Buildah::Cannot;
                    }
                }
            }
            _ => panic!("{line}"),
        }
    }

    pub(crate) fn arguments(&self, context: &Path) -> Vec<String> {
        let context = context.to_str().unwrap();
        let args = self.args.iter();
        args.map(|word| word.replace("{context}", context))
            .collect()
    }

    /// Writes the context, all of one time.
    pub(crate) fn write(&self, context: &Path, server: &str) {
        fs::create_dir_all(context).unwrap();
        for file in &self.files {
            let path = context.join(&file.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match &file.kind {
                Kind::Link(target) => symlink(target, &path).unwrap(),
                Kind::Text { mode, text } => {
                    let mut text = text.replace("{server}", server);
                    let is_dockerfile = file.path == "Dockerfile";
                    if is_dockerfile && self.crlf == Flag::Set {
                        text = text.replace('\n', "\r\n");
                    }
                    if is_dockerfile && self.byte_order_mark == Flag::Set {
                        text.insert(0, '\u{feff}');
                    }
                    fs::write(&path, text).unwrap();
                    fs::set_permissions(&path, fs::Permissions::from_mode(*mode)).unwrap();
                }
            }
        }
        for archive in &self.archives {
            let (name, contents) = archive.split_first().unwrap();
            let time = format!("--mtime=@{TIME}");
            let mut arguments = vec!["--owner=5", "--group=6", &time, "-caf", name];
            arguments.extend(contents.iter().map(String::as_str));
            let _ = run_in(context, "tar", &arguments).ok();
        }
        let touch = format!("find . -exec touch -h -d @{TIME} {{}} +");
        let place = context.to_str().unwrap();
        let _ = run("sh", &["-c", &format!("cd {place} && {touch}")]).ok();
    }
}

impl File {
    fn read(text: &str) -> Self {
        let (head, text) = text.split_once('\n').unwrap_or((text, ""));
        if let Some((path, target)) = head.split_once(" -> ") {
            return Self {
                path: path.to_owned(),
                kind: Kind::Link(target.to_owned()),
            };
        }
        let mode = head.rsplit_once(' ').and_then(|(path, mode)| {
            let mode = u32::from_str_radix(mode, 8).ok()?;
            Some((path, mode))
        });
        let (path, mode) = mode.unwrap_or((head, 0o644));
        Self {
            path: path.to_owned(),
            kind: Kind::Text {
                mode,
                text: format!("{}\n", text.trim_end_matches('\n')),
            },
        }
    }
}
