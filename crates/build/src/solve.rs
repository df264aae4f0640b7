//! A build as a whole: which stages run when, and the image that comes of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use sampan_dockerfile::{Dockerfile, Ignore, Input, Location, Options, Plan};
use sampan_images::{HeldLayer, Image, ImageStore, NewImage};
use sampan_oci::config::{ImageConfig, RootFs};
use sampan_oci::{DiffId, Digest, ImageId, Platform, Reference};
use tokio_util::sync::CancellationToken;

use crate::cache::{Cache, Key};
use crate::context::Context;
use crate::exchange::{Import, Imports, Passed, Trail, here};
use crate::files::Files;
use crate::progress::{Event, EventSink, Place};
use crate::sandbox::{Limits, Network, RunStep, Sandbox};
use crate::secrets::Secrets;
use crate::stage::State;
use crate::times::{SOURCE_DATE_EPOCH, Times};
use crate::web::Web;
use crate::{Error, Result};

/// Stages that run at the same time.
const WORKERS: usize = 4;
/// A file of patterns that is longer is refused.
const LONGEST: u64 = 16 << 20;
/// What is left out of a context.
pub(crate) const IGNORE: &str = ".dockerignore";

/// Finds the image that a stage begins with, for a machine, and fetches it where that is wanted.
pub type Base<'a> = dyn Fn(&str, &Platform) -> Result<Arc<Image>> + Sync + 'a;

/// What is asked of a build.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// The path of the Dockerfile in the context; empty for `Dockerfile`.
    pub dockerfile: String,
    /// The target, build arguments and platforms.
    pub options: Options,
    /// What is done again although it is known.
    pub no_cache: NoCache,
    /// The network of commands that do not say which.
    pub network: Network,
    /// `name:address`.
    pub extra_hosts: Vec<String>,
    /// Labels for the image, after those of the file.
    pub labels: BTreeMap<String, String>,
    /// Names for the image.
    pub names: Vec<Reference>,
    /// Has the same image made each time: no file of its layers is younger than the build argument
    /// `SOURCE_DATE_EPOCH` says, or than 1970.
    pub reproducible: bool,
    /// What each command may use.
    pub limits: Limits,
    /// Contexts by their names, beside the one that has none.
    pub contexts: BTreeMap<String, NamedContext>,
    /// What the build may do that builds may not do by themselves.
    pub entitlements: BTreeSet<Entitlement>,
    /// Where to put what a command that failed has left.
    pub failed: Option<Failed>,
}

/// Takes what the first command that failed has left: its files, as an image whose entry point is
/// the command's shell. Clones are the same place.
#[derive(Clone, Debug, Default)]
pub struct Failed(Arc<Mutex<Option<Built>>>);

impl Failed {
    /// What there is, once.
    pub fn take(&self) -> Option<Built> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn put(&self, built: Built) {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        place.get_or_insert(built);
    }
}

/// A context with a name: `--build-context`.
#[derive(Clone, Debug)]
pub enum NamedContext {
    /// An image by its reference.
    Image(String),
    /// Files.
    Files(Context),
}

/// Something that a build must be granted: `--allow`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Entitlement {
    /// `RUN --network=host`.
    NetworkHost,
    /// `RUN --security=insecure`.
    SecurityInsecure,
}

impl Entitlement {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NetworkHost => "network.host",
            Self::SecurityInsecure => "security.insecure",
        }
    }
}

impl std::str::FromStr for Entitlement {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        [Self::NetworkHost, Self::SecurityInsecure]
            .into_iter()
            .find(|known| known.as_str() == text)
            .ok_or_else(|| {
                format!("unknown entitlement {text}: there are network.host and security.insecure")
            })
    }
}

impl Settings {
    /// Fails unless the build was granted it.
    pub(crate) fn need(&self, entitlement: Entitlement) -> Result<()> {
        if self.entitlements.contains(&entitlement) {
            return Ok(());
        }
        let name = entitlement.as_str();
        Err(Error::Step(format!(
            "{name} is not allowed: grant it with --allow {name}"
        )))
    }
}

/// What is done again although the cache knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NoCache {
    /// Nothing.
    #[default]
    Nothing,
    /// Every step.
    Everything,
    /// The steps of these stages, by name or number, and of those that build on them.
    Stages(BTreeSet<String>),
}

/// A Dockerfile that is not among the files to build from.
#[derive(Clone, Debug, Default)]
pub struct Written {
    /// The Dockerfile.
    pub text: Vec<u8>,
    /// The patterns of files that are not there for the build, as in a `.dockerignore`.
    pub ignore: Option<Vec<u8>>,
}

/// A build.
pub struct Build<'a> {
    /// Where images and layers are.
    pub images: &'a ImageStore,
    /// What was done before.
    pub cache: &'a Cache,
    /// Runs commands.
    pub sandbox: &'a dyn Sandbox,
    /// Finds images.
    pub base: &'a Base<'a>,
    /// The files to build from.
    pub context: Context,
    /// The Dockerfile, where it is not among the files.
    pub written: Option<Written>,
    /// What the client lends.
    pub secrets: &'a dyn Secrets,
    /// Fetches files.
    pub web: &'a Web<'a>,
    /// What is asked.
    pub settings: Settings,
    /// Caches of other builders, the best first.
    pub imports: Vec<Arc<Import>>,
    /// Layers that are only there for this build.
    pub archives: Mutex<Vec<HeldLayer>>,
}

/// What came of a build: all that an image is made of.
#[derive(Clone, Debug)]
pub struct Built {
    /// The image, not yet in the store.
    pub image: NewImage,
    /// Its layers, bottom first.
    pub layers: Vec<HeldLayer>,
    /// What can be told other builders.
    pub trail: Trail,
}

/// A build under way.
pub(crate) struct Solver<'a> {
    pub(crate) build: &'a Build<'a>,
    pub(crate) plan: Plan,
    pub(crate) cancel: CancellationToken,
    pub(crate) times: Times,
    file: Dockerfile,
    context: Arc<Files>,
    sink: &'a EventSink<'a>,
    numbers: AtomicUsize,
    total: usize,
    progress: Mutex<Progress>,
    sources: Mutex<BTreeMap<Digest, Digest>>,
    /// So many imports were of no use when this began.
    broken: usize,
    changed: Condvar,
}

#[derive(Default)]
struct Progress {
    started: HashSet<usize>,
    done: BTreeMap<usize, State>,
    failed: Option<Error>,
}

impl Build<'_> {
    /// Builds the image. Blocks; steps that were done when it fails or is cancelled are kept for
    /// the next build.
    pub fn run(&self, sink: &EventSink<'_>, cancel: &CancellationToken) -> Result<Built> {
        loop {
            let usable = |import: &&Arc<Import>| import.broken().is_none();
            let imports: Vec<_> = self.imports.iter().filter(usable).collect();
            let built = self.run_once(sink, cancel);
            if built.is_ok() || cancel.is_cancelled() {
                return built;
            }
            // What was taken for known is not: then once more without that cache.
            let mut lost = imports
                .iter()
                .filter_map(|import| import.broken())
                .peekable();
            if lost.peek().is_none() {
                return built;
            }
            for why in lost {
                sink(0, Event::Warning(format!("[Warning] {why}")));
            }
        }
    }

    fn run_once(&self, sink: &EventSink<'_>, cancel: &CancellationToken) -> Result<Built> {
        let epoch = self.settings.options.build_args.get(SOURCE_DATE_EPOCH);
        let times = Times::new(epoch.map(String::as_str), self.settings.reproducible)?;
        let mut context = self.context.files(self.images)?;
        let text = self.read_dockerfile(&context)?;
        context.hidden = self.read_ignore(&context)?;
        let name = self.dockerfile_name();
        let mistake =
            |error: sampan_dockerfile::Error| Error::Dockerfile(error.render(name, &text));
        let file = Dockerfile::parse(text.as_bytes()).map_err(mistake)?;
        if file.directives.syntax.as_deref().is_some_and(is_foreign) {
            let syntax = file.directives.syntax.unwrap_or_default();
            return Err(Error::Unsupported(format!("the frontend {syntax}")));
        }
        let shell = file.shell();
        let mut options = self.settings.options.clone();
        options.contexts = self.settings.contexts.keys().cloned().collect();
        let mut plan = file.plan(&options, &shell).map_err(mistake)?;
        // The triggers of images may need further stages.
        let mut looked: HashSet<usize> = HashSet::new();
        while let Some(stage) = plan.order.iter().find(|stage| !looked.contains(*stage)) {
            let stage = *stage;
            looked.insert(stage);
            let name = match &plan.stages[stage].base {
                Input::Image(name) => name,
                Input::Context(name) => match self.settings.contexts.get(name) {
                    Some(NamedContext::Image(name)) => name,
                    _ => continue,
                },
                _ => continue,
            };
            let platform = plan.stages[stage].platform.as_ref();
            let platform = platform.unwrap_or(&self.settings.options.target_platform);
            let image = (self.base)(name, platform).inspect_err(|error| {
                let failure = error.to_failure();
                let location = Some(file.stages[stage].location);
                sink(stage, Event::Failed { failure, location });
            })?;
            let triggers = &image.config.config.on_build;
            if !triggers.is_empty() {
                plan.add_triggers(&file, stage, triggers).map_err(mistake)?;
            }
        }
        for argument in plan.unused_build_args(&file) {
            let text = format!("[Warning] One or more build-args [{argument}] were not consumed");
            sink(0, Event::Warning(text));
        }
        let total = plan
            .order
            .iter()
            .map(|stage| 1 + plan.stages[*stage].triggers.len() + file.stages[*stage].steps.len())
            .sum();
        sink(0, Event::Stages(plan.order.clone()));
        let solver = Solver {
            build: self,
            sink,
            plan,
            cancel: cancel.child_token(),
            times,
            file,
            context: Arc::new(context),
            numbers: AtomicUsize::new(0),
            total,
            progress: Mutex::default(),
            sources: Mutex::default(),
            broken: Imports(&self.imports).broken(),
            changed: Condvar::new(),
        };
        solver.solve()
    }

    /// Ends the build and names the layers that were only there for it.
    pub fn into_leftovers(self) -> Vec<DiffId> {
        let archives = self.archives.into_inner();
        let archives = archives.unwrap_or_else(PoisonError::into_inner);
        archives
            .iter()
            .chain(self.context.layers())
            .map(HeldLayer::diff_id)
            .collect()
    }

    fn dockerfile_name(&self) -> &str {
        match self.settings.dockerfile.as_str() {
            "" => "Dockerfile",
            name => name,
        }
    }

    fn read_dockerfile(&self, context: &Files) -> Result<String> {
        if let Some(written) = &self.written {
            return Ok(String::from_utf8_lossy(&written.text).into_owned());
        }
        let name = self.dockerfile_name();
        let limit = sampan_dockerfile::MAX_SIZE as u64;
        let read = match context.read(name, limit) {
            Err(error) if error.is_not_found() && name == "Dockerfile" => {
                context.read("dockerfile", limit)
            }
            read => read,
        };
        let bytes = read.map_err(|error| {
            let why = match error.is_not_found() {
                true => "no such file or directory".to_owned(),
                false => error.to_string(),
            };
            Error::Step(format!("failed to read dockerfile: open {name}: {why}"))
        })?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What is not there for `COPY`, although it may have been sent.
    fn read_ignore(&self, context: &Files) -> Result<Option<Ignore>> {
        let ignore = self
            .written
            .as_ref()
            .and_then(|written| written.ignore.as_ref());
        if let Some(ignore) = ignore {
            return parse_ignore(IGNORE, ignore);
        }
        let own = format!("{}.dockerignore", self.dockerfile_name());
        read_ignore(&[(context, &own), (context, IGNORE)])
    }
}

/// Reads the first of the files of patterns that is there.
pub(crate) fn read_ignore(places: &[(&Files, &str)]) -> Result<Option<Ignore>> {
    for (files, name) in places {
        if files.resolve(name.as_bytes())?.exists {
            return parse_ignore(name, &files.read(name, LONGEST)?);
        }
    }
    Ok(None)
}

fn parse_ignore(name: &str, bytes: &[u8]) -> Result<Option<Ignore>> {
    let ignore = Ignore::parse(bytes);
    let ignore = ignore.map_err(|error| Error::Step(format!("{name}: {error}")))?;
    Ok((!ignore.is_empty()).then_some(ignore))
}

/// Whether a `# syntax=` line asks for another frontend than the Dockerfile's own.
fn is_foreign(syntax: &str) -> bool {
    let image = syntax.split_whitespace().next().unwrap_or_default();
    let name = image.strip_prefix("docker.io/").unwrap_or(image);
    let own = ["docker/dockerfile", "docker/dockerfile-upstream"];
    let repository = name.split([':', '@']).next().unwrap_or_default();
    !own.contains(&repository)
}

impl Solver<'_> {
    fn solve(&self) -> Result<Built> {
        let workers = self.plan.order.len().min(WORKERS);
        std::thread::scope(|scope| {
            for _ in 1..workers {
                scope.spawn(|| self.work());
            }
            self.work();
        });
        let mut progress = self.progress();
        if let Some(error) = progress.failed.take() {
            return Err(error);
        }
        let mut all = Vec::new();
        for state in progress.done.values() {
            all.extend(state.trail.iter().cloned());
        }
        let state = progress.done.remove(&self.plan.target);
        drop(progress);
        self.check()?;
        let state = state.ok_or(Error::Cancelled)?;
        self.finish(state, all)
    }

    /// Runs stages whose needs are done, until there are none.
    fn work(&self) {
        while let Some(stage) = self.next_stage() {
            // Whoever waits for this stage must hear of it, whatever happens.
            let mut location = None;
            let ran = AssertUnwindSafe(|| self.run_stage(stage, &mut location));
            let ran = std::panic::catch_unwind(ran);
            let result = ran.unwrap_or(Err(Error::Panicked));
            let mut progress = self.progress();
            match result {
                Ok(state) => {
                    self.tell(stage, Event::Ended);
                    progress.done.insert(stage, state);
                }
                Err(error) => {
                    // The first mistake is the one to tell of.
                    if progress.failed.is_none() {
                        if self.imports().broken() == self.broken {
                            let failure = error.to_failure();
                            self.tell(stage, Event::Failed { failure, location });
                        }
                        progress.failed = Some(error);
                    }
                    self.cancel.cancel();
                }
            }
            self.changed.notify_all();
        }
    }

    fn next_stage(&self) -> Option<usize> {
        let mut progress = self.progress();
        loop {
            if progress.failed.is_some() || self.cancel.is_cancelled() {
                return None;
            }
            let waiting: Vec<usize> = self
                .plan
                .order
                .iter()
                .copied()
                .filter(|stage| !progress.started.contains(stage))
                .collect();
            let ready = waiting.iter().copied().find(|stage| {
                self.needs(*stage)
                    .all(|need| progress.done.contains_key(&need))
            });
            if let Some(stage) = ready {
                progress.started.insert(stage);
                return Some(stage);
            }
            if waiting.is_empty() {
                return None;
            }
            progress = self
                .changed
                .wait(progress)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn needs(&self, stage: usize) -> impl Iterator<Item = usize> {
        let planned = &self.plan.stages[stage];
        let base = match planned.base {
            Input::Stage(base) => Some(base),
            _ => None,
        };
        base.into_iter().chain(planned.needs.iter().copied())
    }

    /// Runs the steps of a stage; `at` is the instruction that it has come to.
    fn run_stage(&self, index: usize, at: &mut Option<Location>) -> Result<State> {
        self.check()?;
        let planned = &self.plan.stages[index];
        let stage = &self.file.stages[index];
        *at = Some(stage.location);
        let outside = match &planned.base {
            Input::Image(name) => Some(match name.parse::<Reference>() {
                Ok(reference) => format!("FROM {}", reference.or_latest()),
                Err(_) => format!("FROM {name}"),
            }),
            Input::Context(name) => Some(format!("FROM {name}")),
            Input::Scratch | Input::Stage(_) => None,
        };
        let mut places = self.places(index, outside.is_some());
        self.tell(
            index,
            Event::Step {
                number: self.number(),
                total: self.total(),
                text: stage.source.clone(),
                place: outside.map(|text| places.next(text)),
            },
        );
        let began = std::time::Instant::now();
        let platform = planned.platform.as_ref();
        let platform = platform.unwrap_or(self.target_platform());
        let mut state = match &planned.base {
            Input::Scratch => State::scratch(platform),
            Input::Stage(base) => self.stage(*base)?.begin(),
            Input::Image(name) => self.image(name, platform)?,
            Input::Context(name) => self.begin_with_context(name, platform)?,
        };
        self.tell(
            index,
            Event::Done {
                state: state
                    .parent
                    .map_or_else(|| state.key.0.short(), |image| image.short()),
                took: began.elapsed(),
            },
        );
        let shell = self.file.shell();
        state.fresh |= match &self.build.settings.no_cache {
            NoCache::Nothing => false,
            NoCache::Everything => true,
            NoCache::Stages(stages) => {
                stages.contains(&planned.name) || stages.contains(&index.to_string())
            }
        };
        // A trigger stands in no Dockerfile: its place is that of what set it off.
        let triggers = planned.triggers.iter().map(|step| (step, stage.location));
        let own = stage.steps.iter().map(|step| (step, step.location));
        for (step, location) in triggers.chain(own) {
            *at = Some(location);
            let makes_files = step.instruction.makes_files();
            let place = makes_files.then(|| places.next(on_one_line(&step.source)));
            let done = self.step(index, &shell, step, place, &mut state);
            done.map_err(|error| self.placed(error, step.location.line))?;
        }
        Ok(state)
    }

    /// Makes the image.
    fn finish(&self, state: State, all: Vec<Passed>) -> Result<Built> {
        let State {
            mut config,
            layers,
            parent,
            inherited,
            trail,
            ..
        } = state;
        let layers = here(&layers)?;
        let settings = &self.build.settings;
        config.config.labels.extend(settings.labels.clone());
        // As BuildKit does: what made no layer has the time of the layer before it, or of the
        // first one.
        let (old, new) = config.history.split_at_mut(inherited);
        let first = new.iter().find_map(|entry| entry.created.clone());
        let mut at = first
            .or_else(|| old.iter().rev().find_map(|entry| entry.created.clone()))
            .or_else(|| config.created.clone())
            .unwrap_or_else(|| self.times.created());
        for entry in new {
            match &entry.created {
                Some(created) => created.clone_into(&mut at),
                None => entry.created = Some(at.clone()),
            }
        }
        config.created = Some(at);
        if let Some(epoch) = self.times.fixed() {
            config.created = Some(epoch.to_string());
            for entry in &mut config.history {
                let created = entry.created.as_deref();
                let created = created.and_then(|at| at.parse::<jiff::Timestamp>().ok());
                if created.is_none_or(|created| created > epoch) {
                    entry.created = Some(epoch.to_string());
                }
            }
        }
        let own = trail.iter().filter(|step| step.layer.is_some()).count();
        let trail = Trail {
            inherited: layers.len() - own,
            image: trail,
            all,
            sources: self.sources().clone(),
        };
        let built = self.pack(config, layers, parent, settings.names.clone())?;
        Ok(Built { trail, ..built })
    }

    /// An image of a configuration and layers.
    fn pack(
        &self,
        mut config: ImageConfig,
        layers: Vec<HeldLayer>,
        parent: Option<ImageId>,
        names: Vec<Reference>,
    ) -> Result<Built> {
        let diff_ids: Vec<DiffId> = layers.iter().map(HeldLayer::diff_id).collect();
        let blobs = diff_ids
            .iter()
            .map(|id| self.build.images.blob_of_layer(id))
            .collect();
        config.rootfs = RootFs {
            diff_ids,
            ..RootFs::default()
        };
        let config = serde_json::to_vec(&config)
            .map_err(|error| Error::Step(format!("write the configuration: {error}")))?;
        let image = NewImage {
            config,
            blobs,
            manifest: None,
            // One of a client's was never an image of the engine.
            parent: parent.filter(|id| self.build.images.get(id).is_some()),
            names,
        };
        Ok(Built {
            image,
            layers,
            trail: Trail::default(),
        })
    }

    /// Keeps what a command that failed has left, if somebody wants it.
    pub(crate) fn keep_failed(
        &self,
        state: &State,
        step: &RunStep,
        changes: Option<HeldLayer>,
    ) -> Result<()> {
        let Some(place) = &self.build.settings.failed else {
            return Ok(());
        };
        let mut config = state.config.clone();
        config.history.clear();
        let own = &mut config.config;
        own.env.clone_from(&step.environment);
        own.user.clone_from(&step.user);
        own.working_dir.clone_from(&step.directory);
        let shell = own.shell.first().cloned();
        own.entrypoint = Some(vec![shell.unwrap_or_else(|| "/bin/sh".to_owned())]);
        own.cmd = None;
        own.healthcheck = None;
        config.created = Some(self.times.created());
        let layers = here(&state.layers)?.into_iter().chain(changes).collect();
        place.put(self.pack(config, layers, None, Vec::new())?);
        Ok(())
    }

    fn places(&self, index: usize, is_outside: bool) -> Places {
        let planned = &self.plan.stages[index];
        let own = &self.file.stages[index];
        let steps = planned.triggers.iter().chain(&own.steps);
        let makers = steps.filter(|step| step.instruction.makes_files()).count();
        let only = self.file.stages.len() == 1 && own.name.is_none();
        Places {
            stage: match only {
                true => String::new(),
                false => planned.name.clone(),
            },
            position: 0,
            of: makers + usize::from(is_outside),
        }
    }

    pub(crate) fn check(&self) -> Result<()> {
        match self.cancel.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    pub(crate) fn tell(&self, stage: usize, event: Event) {
        (self.sink)(stage, event);
    }

    pub(crate) fn number(&self) -> usize {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn total(&self) -> usize {
        self.total
    }

    /// Says where a mistake is that only showed when the step was done.
    fn placed(&self, error: Error, line: u32) -> Error {
        let file = self.build.dockerfile_name();
        match error {
            Error::Dockerfile(message) => Error::Dockerfile(format!("{file}:{line}: {message}")),
            other => other,
        }
    }

    pub(crate) fn context(&self) -> Arc<Files> {
        self.context.clone()
    }

    /// The state of a stage that is done.
    pub(crate) fn stage(&self, index: usize) -> Result<State> {
        let progress = self.progress();
        progress.done.get(&index).cloned().ok_or(Error::Cancelled)
    }

    /// The machine that the image is for.
    pub(crate) fn target_platform(&self) -> &Platform {
        &self.build.settings.options.target_platform
    }

    pub(crate) fn image(&self, name: &str, platform: &Platform) -> Result<State> {
        let image = (self.build.base)(name, platform)?;
        let layers = image
            .diff_ids()
            .iter()
            .map(|layer| self.build.images.hold_layer(layer))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| Error::Base(format!("the image {name} was removed meanwhile")))?;
        Ok(State::of_image(&image, layers))
    }

    pub(crate) fn keep_until_the_end(&self, archives: Vec<HeldLayer>) {
        let archived = self.build.archives.lock();
        archived
            .unwrap_or_else(PoisonError::into_inner)
            .extend(archives);
    }

    pub(crate) fn imports(&self) -> Imports<'_> {
        Imports(&self.build.imports)
    }

    /// Notes what the sources of a copy are, for other builders.
    pub(crate) fn note_sources(&self, name: Key, content: Digest) {
        self.sources().insert(name.0, content);
    }

    fn sources(&self) -> MutexGuard<'_, BTreeMap<Digest, Digest>> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts the steps of a stage that make files.
struct Places {
    stage: String,
    position: usize,
    of: usize,
}

impl Places {
    fn next(&mut self, text: String) -> Place {
        self.position += 1;
        Place {
            text,
            stage: self.stage.clone(),
            position: self.position,
            of: self.of,
        }
    }
}

/// A step on one line.
fn on_one_line(source: &str) -> String {
    let lines = source
        .lines()
        .map(|line| line.trim_end_matches(['\\', ' ']));
    let lines: Vec<&str> = lines.map(str::trim_start).collect();
    lines.join(" ")
}
