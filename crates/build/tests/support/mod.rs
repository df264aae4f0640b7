//! A store of images and a cache of their own for each test, clients' files, and a sandbox that
//! only notes what it was asked for.
#![allow(dead_code, unreachable_pub)] // each test file uses a part
#![allow(clippy::unwrap_used)] // a test that cannot go on ends

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use sampan_build::{
    Base, Build, Cache, CancellationToken, Context, Contexts, Entry, EntryKind, Error, Event,
    NoSecrets, Ran, RunStep, Sandbox, SandboxError, Secrets, Settings,
};
use sampan_images::{HeldLayer, Image, ImageStore};
use sampan_layers::LayerStore;

pub struct Home {
    pub directory: tempfile::TempDir,
    pub images: ImageStore,
    pub cache: Cache,
}

impl Home {
    pub fn new() -> Self {
        Self::at(tempfile::tempdir().unwrap())
    }

    fn at(directory: tempfile::TempDir) -> Self {
        let root = directory.path().join("root");
        fs::create_dir_all(&root).unwrap();
        let layers = LayerStore::open(&root, sampan_layers::Options::default()).unwrap();
        let options = sampan_images::Options::default();
        let images = ImageStore::open(&root, layers, options).unwrap();
        let cache = Cache::open(&root, images.clone()).unwrap();
        Self {
            directory,
            images,
            cache,
        }
    }

    /// As a new engine finds it.
    pub fn reopen(self) -> Self {
        let Self {
            directory,
            images,
            cache,
        } = self;
        drop((images, cache));
        let home = Self::at(directory);
        home.images.sweep(&Default::default()).unwrap();
        home
    }

    pub fn contexts(&self) -> &Contexts {
        self.cache.contexts()
    }

    /// A new directory of a client.
    pub fn client(&self, name: &str) -> Client {
        let path = self.directory.path().join(name);
        fs::create_dir_all(&path).unwrap();
        Client { path }
    }

    pub fn build(
        &self,
        context: &Context,
        sandbox: &dyn Sandbox,
        settings: Settings,
    ) -> (Result<Made, Error>, Vec<Event>) {
        self.build_until(context, sandbox, settings, &CancellationToken::new())
    }

    pub fn build_until(
        &self,
        context: &Context,
        sandbox: &dyn Sandbox,
        settings: Settings,
        cancel: &CancellationToken,
    ) -> (Result<Made, Error>, Vec<Event>) {
        let told = Mutex::new(Vec::new());
        let base: &Base<'_> = &|name, _| Err(Error::Base(name.to_owned()));
        let build = Build {
            images: &self.images,
            cache: &self.cache,
            sandbox,
            base,
            context: context.clone(),
            written: None,
            secrets: &NoSecrets,
            web: &|_, _| panic!("nothing is fetched"),
            settings,
            imports: Vec::new(),
            archives: Mutex::default(),
        };
        let built = build.run(&|_, event| told.lock().unwrap().push(event), cancel);
        let built = built.and_then(|built| {
            let image = self.images.add(&built.image)?;
            Ok(Made { image })
        });
        let leftovers = build.into_leftovers();
        self.cache.tidy(leftovers, &Default::default()).unwrap();
        (built, told.into_inner().unwrap())
    }
}

/// What a build came to.
#[derive(Debug)]
pub struct Made {
    pub image: Arc<Image>,
}

/// Files of a client.
pub struct Client {
    pub path: PathBuf,
}

impl Client {
    pub fn write(&self, path: &str, bytes: impl AsRef<[u8]>) -> &Self {
        let path = self.path.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
        self
    }

    /// All paths with what they are, in the order of clients.
    pub fn entries(&self) -> Vec<Entry> {
        let mut entries = Vec::new();
        let mut names = BTreeMap::new();
        walk(&self.path, &self.path, &mut entries, &mut names);
        entries
    }

    /// Sends what is wanted; returns its paths.
    pub fn send(&self, contexts: &Contexts, key: &str) -> (Context, Vec<String>) {
        let sync = contexts.begin(key).unwrap();
        let mut sent = Vec::new();
        for (index, entry) in self.entries().into_iter().enumerate() {
            let path = String::from_utf8(entry.path.clone()).unwrap();
            if sync.entry(entry).unwrap() {
                let file = fs::File::open(self.path.join(&path)).unwrap();
                sync.file(index, file).unwrap();
                sent.push(path);
            }
        }
        (sync.finish().unwrap(), sent)
    }
}

fn walk(
    root: &Path,
    directory: &Path,
    entries: &mut Vec<Entry>,
    names: &mut BTreeMap<u64, Vec<u8>>,
) {
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let found = fs::symlink_metadata(&path).unwrap();
        let name = path.strip_prefix(root).unwrap().as_os_str().as_bytes();
        let kind = if found.is_dir() {
            EntryKind::Directory
        } else if found.is_symlink() {
            EntryKind::Symlink(
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .as_bytes()
                    .to_vec(),
            )
        } else if let Some(first) = names.get(&found.ino()).filter(|_| found.nlink() > 1) {
            EntryKind::HardLink(first.clone())
        } else {
            names.insert(found.ino(), name.to_vec());
            EntryKind::File(found.size())
        };
        entries.push(Entry {
            path: name.to_vec(),
            kind,
            mode: found.mode() & 0o7777,
            uid: found.uid(),
            gid: found.gid(),
            mtime: (found.mtime(), u32::try_from(found.mtime_nsec()).unwrap()),
            xattrs: Vec::new(),
        });
        if found.is_dir() {
            walk(root, &path, entries, names);
        }
    }
}

/// Answers each command by what the test says, and notes it.
pub struct Commands<F> {
    pub answer: F,
    pub ran: Mutex<Vec<String>>,
}

impl<F> Commands<F> {
    pub fn new(answer: F) -> Self {
        Self {
            answer,
            ran: Mutex::default(),
        }
    }

    pub fn take(&self) -> Vec<String> {
        let mut ran = std::mem::take(&mut *self.ran.lock().unwrap());
        ran.sort();
        ran
    }
}

impl<F> Sandbox for Commands<F>
where
    F: Fn(&str, &CancellationToken) -> Result<(i32, Option<HeldLayer>), SandboxError> + Sync,
{
    fn run(
        &self,
        step: &RunStep,
        _secrets: &dyn Secrets,
        output: &mut (dyn FnMut(&[u8]) + Send),
        cancel: &CancellationToken,
    ) -> Result<Ran, SandboxError> {
        let command = step.command.last().unwrap();
        self.ran.lock().unwrap().push(command.clone());
        output(command.as_bytes());
        let (code, changes) = (self.answer)(command, cancel)?;
        Ok(Ran { code, changes })
    }
}

/// A layer with one file.
pub fn layer(images: &ImageStore, path: &str, text: &str) -> Option<HeldLayer> {
    let made = images.write_layer(|out| {
        let mut layer = sampan_archive::LayerWriter::new(out);
        let attributes = sampan_archive::Attributes {
            mode: 0o644,
            ..Default::default()
        };
        layer.file(
            path.as_bytes(),
            &attributes,
            text.len() as u64,
            text.as_bytes(),
        )?;
        layer.finish()
    });
    made.unwrap()
}

pub fn settings() -> Settings {
    Settings::default()
}

pub fn arc<T>(value: T) -> Arc<T> {
    Arc::new(value)
}
