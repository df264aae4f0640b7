//! An image as an archive holds it, and what can be told of it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::io::Read;
use std::path::Path;

use ring::digest::{SHA256, digest};
use serde_json::Value;

use crate::case::TIME;

/// An image: its configuration and its files.
pub(crate) struct Built {
    config: Value,
    layers: Vec<String>,
    files: BTreeMap<String, String>,
}

/// What is told of an image: all but what its base has.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    config: BTreeMap<String, String>,
    history: Vec<String>,
    files: BTreeMap<String, String>,
}

/// What every container has mounted on: engines leave different places for it in layers.
const PLACES: &[&str] = &["/dev", "/proc", "/sys", "/run"];

impl Built {
    /// Reads an archive in docker's form.
    pub(crate) fn read(archive: &Path) -> Self {
        let bytes = fs::read(archive).unwrap();
        let mut members = BTreeMap::new();
        for entry in tar::Archive::new(&bytes[..]).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            let mut member = Vec::new();
            entry.read_to_end(&mut member).unwrap();
            members.insert(path, member);
        }
        let manifest: Value = serde_json::from_slice(&members["manifest.json"]).unwrap();
        let manifest = &manifest[0];
        let config = serde_json::from_slice(&members[manifest["Config"].as_str().unwrap()]);
        let config: Value = config.unwrap();
        let mut files = BTreeMap::new();
        for layer in manifest["Layers"].as_array().into_iter().flatten() {
            apply(&members[layer.as_str().unwrap()], &mut files);
        }
        let layers = config["rootfs"]["diff_ids"]
            .as_array()
            .into_iter()
            .flatten();
        let layers = layers.map(ToString::to_string).collect();
        Self {
            config,
            layers,
            files,
        }
    }

    fn history(&self) -> &[Value] {
        self.config["history"].as_array().map_or(&[], Vec::as_slice)
    }

    /// What this image has, without what its base gives where it is made from that.
    pub(crate) fn listing(&self, base: &Self) -> Listing {
        let derived = self.layers.starts_with(&base.layers);
        let mut listing = Listing::default();
        for (key, value) in self.config["config"].as_object().into_iter().flatten() {
            let empty = match value {
                Value::Null | Value::Bool(false) => true,
                Value::String(text) => text.is_empty(),
                Value::Array(values) => values.is_empty() && key != "Cmd",
                Value::Object(values) => values.is_empty(),
                _ => false,
            };
            if !empty && !["Image", "Hostname", "Domainname"].contains(&key.as_str()) {
                listing.config.insert(key.clone(), value.to_string());
            }
        }
        if let Some(author) = self.config["author"]
            .as_str()
            .filter(|text| !text.is_empty())
        {
            listing
                .config
                .insert("author".to_owned(), author.to_owned());
        }
        let skip = match derived {
            true => base.history().len(),
            false => 0,
        };
        for entry in &self.history()[skip..] {
            let text = entry["created_by"].as_str().unwrap_or_default();
            let mark = match entry["empty_layer"].as_bool() {
                Some(true) => '-',
                _ => '+',
            };
            listing
                .history
                .push(format!("{mark} {}", text.escape_debug()));
        }
        let given = |path: &String| match derived {
            true => base.files.get(path),
            false => None,
        };
        for (path, entry) in &self.files {
            if given(path) != Some(entry) && !PLACES.contains(&path.as_str()) {
                listing.files.insert(path.clone(), entry.clone());
            }
        }
        if derived {
            let gone = base
                .files
                .keys()
                .filter(|path| !self.files.contains_key(*path));
            listing
                .files
                .extend(gone.map(|path| (path.clone(), "gone".to_owned())));
        }
        listing
    }
}

impl Listing {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        for (key, value) in &self.config {
            writeln!(text, "  {key}: {value}").unwrap();
        }
        for line in &self.history {
            writeln!(text, "  {line}").unwrap();
        }
        for (path, entry) in &self.files {
            writeln!(text, "  {path} {entry}").unwrap();
        }
        text
    }

    /// What another builder has to make in the same way: all but the texts of the history.
    pub(crate) fn compared(&self) -> impl Iterator<Item = &String> {
        self.config.keys().chain(self.files.keys())
    }

    pub(crate) fn value(&self, key: &str) -> Option<&String> {
        self.config.get(key).or_else(|| self.files.get(key))
    }
}

/// Puts a layer onto files.
fn apply(layer: &[u8], files: &mut BTreeMap<String, String>) {
    let mut added = BTreeMap::new();
    for entry in tar::Archive::new(layer).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let path = format!("/{}", name.trim_start_matches("./").trim_matches('/'));
        let (directory, name) = path.rsplit_once('/').unwrap();
        if name == ".wh..wh..opq" {
            files.retain(|path, _| !path.starts_with(&format!("{directory}/")));
        } else if let Some(name) = name.strip_prefix(".wh.") {
            let gone = format!("{directory}/{name}");
            files.retain(|path, _| *path != gone && !path.starts_with(&format!("{gone}/")));
        } else if path != "/" {
            let described = describe(&mut entry);
            added.insert(path, described);
        }
    }
    // The name of a hard link has what its first name has.
    let links: Vec<(String, String)> = added
        .iter()
        .filter_map(|(path, entry)| Some((path.clone(), entry.strip_prefix("= ")?.to_owned())))
        .collect();
    for (path, first) in links {
        let entry = added.get(&first).or_else(|| files.get(&first)).unwrap();
        added.insert(path, entry.clone());
    }
    for (path, entry) in added {
        if !entry.starts_with('d') {
            files.retain(|other, _| !other.starts_with(&format!("{path}/")));
        }
        files.insert(path, entry);
    }
}

fn describe(entry: &mut tar::Entry<'_, &[u8]>) -> String {
    use tar::EntryType;
    let link = |entry: &tar::Entry<'_, &[u8]>| {
        let link = entry.link_name_bytes().unwrap().into_owned();
        String::from_utf8(link).unwrap()
    };
    let header = entry.header();
    let owner = format!("{}:{}", header.uid().unwrap(), header.gid().unwrap());
    let mode = header.mode().unwrap() & 0o7777;
    let kind = header.entry_type();
    let mtime = i64::try_from(header.mtime().unwrap()).unwrap();
    // Anything newer was made by the build.
    let time = match mtime {
        TIME => " dated".to_owned(),
        early if early < TIME + 500_000_000 => format!(" @{early}"),
        _ => String::new(),
    };
    match kind {
        EntryType::Directory => format!("d {mode:o} {owner}{time}"),
        EntryType::Symlink => format!("l {owner}{time} -> {}", link(entry)),
        EntryType::Link => format!("= /{}", link(entry).trim_matches('/')),
        EntryType::Fifo => format!("p {mode:o} {owner}{time}"),
        _ => {
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let size = bytes.len();
            let content = match str::from_utf8(&bytes) {
                Ok(text) if size <= 120 => format!("{text:?}"),
                _ => {
                    let digest = digest(&SHA256, &bytes);
                    let head = digest.as_ref()[..4].iter();
                    let head: String = head.map(|byte| format!("{byte:02x}")).collect();
                    format!("{size} bytes {head}")
                }
            };
            format!("f {mode:o} {owner}{time} {content}")
        }
    }
}
