//! One stage: a chain of steps, each from a state to the next.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use sampan_dockerfile::{
    Add, DEFAULT_PATH, Input, Instruction, Network as RunNetwork, Run, Scope, Script, Security,
    Shell, Source, Step, Transfer, Variables, exposed_ports,
};
use sampan_images::{HeldLayer, Image};
use sampan_oci::config::{History, ImageConfig};
use sampan_oci::{Digest, ImageId, Platform};
use tokio_util::sync::CancellationToken;

use crate::cache::{Found, Key, KeyMaker, Record};
use crate::config;
use crate::copy::{Sources, Unpack, Wish, in_directory, make_directory, select};
use crate::exchange::{Passed, StepLayer, here};
use crate::files::Files;
use crate::mounts;
use crate::owner;
use crate::progress::{Event, Place};
use crate::running::{Claim, Mine};
use crate::sandbox::{Confinement, Network, RunStep};
use crate::solve::{Entitlement, IGNORE, NamedContext, Solver, read_ignore};
use crate::{Error, Result};

/// What steps lead to.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) config: ImageConfig,
    /// Bottom first.
    pub(crate) layers: Vec<StepLayer>,
    /// The steps since the image, or nothing, that it began with.
    pub(crate) trail: Vec<Passed>,
    /// Names the files.
    pub(crate) key: Key,
    /// The last step that may have changed files.
    step: Option<Key>,
    /// The image it began with.
    pub(crate) parent: Option<ImageId>,
    /// Entries of the history that are older than this build.
    pub(crate) inherited: usize,
    /// It was made anew, and so is what builds on it.
    pub(crate) fresh: bool,
    scope: Scope,
    /// `CMD` was set in this stage.
    command_set: bool,
}

impl State {
    pub(crate) fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig {
            architecture: platform.architecture.clone(),
            variant: platform.variant.clone(),
            os: platform.os.clone(),
            ..ImageConfig::default()
        };
        config.config.env = vec![format!("PATH={DEFAULT_PATH}")];
        "/".clone_into(&mut config.config.working_dir);
        Self::new(config, Vec::new(), KeyMaker::new("scratch").key(), None)
    }

    pub(crate) fn of_image(image: &Image, layers: Vec<HeldLayer>) -> Self {
        let mut config = (*image.config).clone();
        // Only this build's own triggers are in its image.
        config.config.on_build = Vec::new();
        for of_old in [
            &mut config.container,
            &mut config.parent,
            &mut config.comment,
            &mut config.docker_version,
        ] {
            of_old.clear();
        }
        config.config.hostname.clear();
        config.config.image.clear();
        let mut key = KeyMaker::new("image");
        for layer in &layers {
            key.text("layer", &layer.diff_id().to_string());
        }
        let layers = layers.into_iter().map(StepLayer::from).collect();
        Self::new(config, layers, key.key(), Some(image.id))
    }

    fn new(config: ImageConfig, layers: Vec<StepLayer>, key: Key, parent: Option<ImageId>) -> Self {
        let environment = config.config.env.iter().map(String::as_str);
        Self {
            scope: Scope::new(Variables::from_environment(environment)),
            inherited: config.history.len(),
            config,
            layers,
            trail: Vec::new(),
            key,
            step: None,
            parent,
            fresh: false,
            command_set: false,
        }
    }

    /// The state of a stage as the beginning of another one.
    pub(crate) fn begin(&self) -> Self {
        let mut state = self.clone();
        state.command_set = false;
        state.config.config.on_build = Vec::new();
        state
    }

    fn tell(&mut self, created_by: String) {
        self.push(created_by, "", None, true);
    }

    fn push(&mut self, by: String, suffix: &str, created: Option<String>, empty: bool) {
        self.config.history.push(History {
            created,
            created_by: format!("{by}{suffix}"),
            comment: "buildkit.dockerfile.v0".to_owned(),
            empty_layer: empty,
            ..History::default()
        });
    }

    pub(crate) fn directory(&self) -> &str {
        match self.config.config.working_dir.as_str() {
            "" => "/",
            directory => directory,
        }
    }
}

/// Who does a step.
enum Turn {
    /// It is done.
    Done(Found),
    /// This build, for all.
    Ours(Mine),
}

/// A step that may change files.
struct Change {
    key: Key,
    /// For the history.
    told: String,
    suffix: &'static str,
    /// It is the same on whatever files.
    independent: bool,
    /// It works with what only this client has.
    private: bool,
}

impl Solver<'_> {
    /// Does one step of a stage.
    pub(crate) fn step(
        &self,
        stage: usize,
        shell: &Shell,
        step: &Step,
        place: Option<Place>,
        state: &mut State,
    ) -> Result<()> {
        self.check()?;
        let began = Instant::now();
        let number = self.number();
        let total = self.total();
        self.tell(
            stage,
            Event::Step {
                number,
                total,
                text: step.source.clone(),
                place,
            },
        );
        let expanded = step.instruction.expand(shell, state.scope.variables());
        let expanded = expanded.map_err(wrong)?;
        self.apply(stage, shell, &expanded, state)?;
        let took = began.elapsed();
        let name = state.key.0.short();
        self.tell(stage, Event::Done { state: name, took });
        Ok(())
    }

    fn apply(
        &self,
        stage: usize,
        shell: &Shell,
        instruction: &Instruction,
        state: &mut State,
    ) -> Result<()> {
        match instruction {
            Instruction::Run(run) => return self.run(stage, shell, run, state),
            Instruction::Copy(copy) => {
                return self.copy(
                    stage,
                    &copy.transfer,
                    copy.from.as_deref(),
                    copy.parents,
                    state,
                );
            }
            Instruction::Add(add) => return self.add(stage, add, state),
            Instruction::Workdir(path) => return self.workdir(stage, path, state),
            Instruction::Arg(declarations) => {
                let told = state.scope.declare(&self.plan, shell, declarations);
                let told = told.map_err(wrong)?;
                let mut text = String::from("ARG");
                for (name, value) in told {
                    text.push(' ');
                    text.push_str(&name);
                    if let Some(value) = value {
                        text.push('=');
                        text.push_str(&value);
                    }
                }
                state.tell(text);
            }
            Instruction::Env(pairs) => {
                state.scope.set(pairs);
                for pair in pairs {
                    let environment = &mut state.config.config.env;
                    config::set_variable(environment, &pair.key, &pair.value);
                }
                state.tell(format!("ENV{}", config::pairs(pairs)));
            }
            Instruction::Label(pairs) => {
                let labels = &mut state.config.config.labels;
                labels.extend(pairs.iter().map(|p| (p.key.clone(), p.value.clone())));
                state.tell(format!("LABEL{}", config::pairs(pairs)));
            }
            Instruction::Maintainer(author) => {
                author.clone_into(&mut state.config.author);
                state.tell(format!("MAINTAINER {author}"));
            }
            Instruction::Cmd(command) => {
                let words = config::words(&state.config.config, command);
                state.tell(format!("CMD {}", config::quoted(&words)));
                state.config.config.args_escaped = true;
                state.config.config.cmd = Some(words);
                state.command_set = true;
            }
            Instruction::Entrypoint(command) => {
                let words = config::words(&state.config.config, command);
                state.tell(format!("ENTRYPOINT {}", config::quoted(&words)));
                state.config.config.entrypoint = Some(words);
                if !state.command_set {
                    state.config.config.cmd = None;
                }
            }
            Instruction::Healthcheck(check) => {
                let (check, told) = config::health(check);
                state.config.config.healthcheck = Some(check);
                state.tell(told);
            }
            Instruction::Expose(written) => {
                let ports = exposed_ports(written).map_err(wrong)?;
                state.tell(format!("EXPOSE [{}]", ports.join(" ")));
                state.config.config.exposed_ports.extend(ports);
            }
            Instruction::User(user) => {
                user.clone_into(&mut state.config.config.user);
                state.tell(format!("USER {user}"));
            }
            Instruction::Volume(paths) => {
                state.config.config.volumes.extend(paths.iter().cloned());
                state.tell(format!("VOLUME [{}]", paths.join(" ")));
            }
            Instruction::StopSignal(signal) => {
                if sampan_oci::signal::parse(signal).is_none() {
                    return Err(Error::Dockerfile(format!("invalid signal: {signal}")));
                }
                signal.clone_into(&mut state.config.config.stop_signal);
                state.tell(format!("STOPSIGNAL {signal}"));
            }
            Instruction::Shell(words) => {
                words.clone_into(&mut state.config.config.shell);
                state.tell(format!("SHELL [{}]", words.join(" ")));
            }
            Instruction::Onbuild(trigger) => {
                let triggers = &mut state.config.config.on_build;
                triggers.push(trigger.expression.clone());
            }
        }
        Ok(())
    }

    /// Goes to the state that a step leads to: as it was done before, or by doing it. `make` stops
    /// when what it is given is set.
    fn change(
        &self,
        stage: usize,
        state: &mut State,
        change: Change,
        make: impl FnOnce(&State, &CancellationToken) -> Result<Option<HeldLayer>>,
    ) -> Result<()> {
        let cache = self.build.cache;
        let made = |stop: &CancellationToken| -> Result<Found> {
            let layer = make(state, stop)?;
            let created = self.times.created();
            let record = Record {
                layer: layer.as_ref().map(HeldLayer::diff_id),
                created: created.clone(),
                description: change.told.clone(),
                parent: state.step.map(|step| step.0),
            };
            cache.note(change.key, &record)?;
            let layer = layer.map(StepLayer::from);
            Ok(Found { layer, created })
        };
        let found = match state.fresh {
            true => made(&self.cancel)?,
            // What it comes to may depend on what only this client has, so nobody else's is shared
            // unless it has ended well.
            false if change.private => match self.known(&change, state)? {
                Some(found) => {
                    self.tell(stage, Event::Cached);
                    found
                }
                None => made(&self.cancel)?,
            },
            false => match self.turn(stage, &change, state)? {
                Turn::Done(found) => found,
                Turn::Ours(step) => step.run(&self.cancel, made)?,
            },
        };
        self.check()?;
        let Found { layer, created } = found;
        state.step = Some(change.key);
        state.key = match change.independent {
            true => change.key.on(state.key),
            false => change.key,
        };
        state.trail.push(Passed {
            key: change.key,
            created: created.clone(),
            layer: layer.clone(),
        });
        let empty = layer.is_none();
        // What made no layer has the time of those around it, so that it is the same each time.
        let created = (!empty).then_some(created);
        state.push(change.told, change.suffix, created, empty);
        state.layers.extend(layer);
        Ok(())
    }

    /// Finds what a step came to, also if it is somebody else who does it this moment.
    fn turn(&self, stage: usize, change: &Change, state: &State) -> Result<Turn> {
        let (cache, key) = (self.build.cache, change.key);
        loop {
            let claim = match self.known(change, state)? {
                Some(found) => {
                    self.tell(stage, Event::Cached);
                    return Ok(Turn::Done(found));
                }
                None => cache.running().claim(key),
            };
            match claim {
                Claim::Theirs(step) => {
                    step.wait(&self.cancel);
                    self.check()?;
                }
                // It may have ended in between.
                Claim::Mine(_) if cache.find(key).is_some() => {}
                Claim::Mine(step) => return Ok(Turn::Ours(step)),
            }
        }
    }

    /// Finds what a step came to.
    fn known(&self, change: &Change, state: &State) -> Result<Option<Found>> {
        match self.build.cache.find(change.key) {
            None => self.imported(change, state),
            found => Ok(found),
        }
    }

    /// Finds what a step came to in a cache of another builder.
    fn imported(&self, change: &Change, state: &State) -> Result<Option<Found>> {
        let record = |layer, created: &str| Record {
            layer,
            created: created.to_owned(),
            description: change.told.clone(),
            parent: state.step.map(|step| step.0),
        };
        let cache = self.build.cache;
        let found = self.imports().find(cache, change.key, record)?;
        Ok(found.map(|(layer, created)| Found { layer, created }))
    }

    fn run(&self, stage: usize, shell: &Shell, run: &Run, state: &mut State) -> Result<()> {
        if let Some(device) = run.devices.iter().find(|device| device.required) {
            return Err(Error::Step(format!(
                "device {} is requested by the build and this builder has no devices (CDI)",
                device.name
            )));
        }
        let config = &state.config.config;
        let (command, script) = match run.script() {
            Script::Exec(words) => (words, None),
            Script::Shell(line) => (config::with_shell(config, &line), None),
            Script::File { name, content } => {
                let mount = mounts::script(&name, &content)?;
                let path = format!("{}/{name}", mounts::PIPES);
                (config::with_shell(config, &path), Some(mount))
            }
        };
        let flags = mounts::resolve(run, shell, state.scope.variables())?;
        let mut mounts = self.mounts(stage, flags, state)?;
        let arguments: Vec<String> = state
            .scope
            .arguments()
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let mut environment = state.scope.variables().to_environment();
        if state.scope.variables().get("PATH").is_none() {
            environment.push(format!("PATH={DEFAULT_PATH}"));
        }
        environment.append(&mut mounts.environment);
        let settings = &self.build.settings;
        let mut told = String::from("RUN ");
        if !arguments.is_empty() {
            told.push_str(&format!("|{} {} ", arguments.len(), arguments.join(" ")));
        }
        let line = command.join(" ");
        told.push_str(&line);
        let mut step = RunStep {
            layers: state.layers.iter().map(StepLayer::diff_id).collect(),
            command,
            environment,
            user: config.user.clone(),
            directory: state.directory().to_owned(),
            network: self.network(run)?,
            extra_hosts: settings.extra_hosts.clone(),
            mounts: std::mem::take(&mut mounts.mounts)
                .into_iter()
                .chain(script)
                .collect(),
            secret_environment: std::mem::take(&mut mounts.secret_environment),
            confinement: self.confinement(run)?,
            limits: settings.limits.clone(),
            latest: self.times.latest(),
            stubs: Vec::new(),
            keep_failed: settings.failed.is_some(),
        };
        let key = step.key(state.key);
        // The proxies say how to reach others and nothing of what is there.
        for (name, value) in self.plan.proxies() {
            if !state.scope.is_declared(name) {
                step.environment.push(format!("{name}={value}"));
            }
        }
        let change = Change {
            key,
            told,
            suffix: " # buildkit",
            independent: false,
            private: step.is_private(),
        };
        self.change(stage, state, change, |state, stop| {
            self.build
                .sandbox
                .check_platform(&state.config.platform())?;
            let _held = here(&state.layers)?;
            let _in_use = self.prepare(&mounts, state, &mut step, stop)?;
            self.tell(stage, Event::Running);
            let mut output = |bytes: &[u8]| self.tell(stage, Event::Output(bytes.to_vec()));
            let secrets = self.build.secrets;
            let ran = self.build.sandbox.run(&step, secrets, &mut output, stop);
            if stop.is_cancelled() {
                return Err(Error::Cancelled);
            }
            let ran = ran?;
            match ran.code {
                0 => Ok(ran.changes),
                code => {
                    self.keep_failed(state, &step, ran.changes)?;
                    Err(Error::Command {
                        command: line.clone(),
                        code,
                    })
                }
            }
        })
    }

    fn network(&self, run: &Run) -> Result<Network> {
        let settings = &self.build.settings;
        match run.network {
            None | Some(RunNetwork::Default) => Ok(settings.network),
            Some(RunNetwork::None) => Ok(Network::None),
            Some(RunNetwork::Host) if settings.network == Network::Host => Ok(Network::Host),
            Some(RunNetwork::Host) => {
                settings.need(Entitlement::NetworkHost)?;
                Ok(Network::Host)
            }
        }
    }

    fn confinement(&self, run: &Run) -> Result<Confinement> {
        match run.security {
            Security::Sandbox => Ok(Confinement::Sandbox),
            Security::Insecure => {
                self.build.settings.need(Entitlement::SecurityInsecure)?;
                Ok(Confinement::None)
            }
        }
    }

    fn copy(
        &self,
        stage: usize,
        transfer: &Transfer,
        from: Option<&str>,
        parents: bool,
        state: &mut State,
    ) -> Result<()> {
        let files = match from {
            None => self.context(),
            Some(name) => {
                let input = self.plan.copy_source(stage, name);
                self.files_of(&input.map_err(wrong)?)?
            }
        };
        let mut told = String::from("COPY");
        if parents {
            told.push_str(" --parents");
        }
        let directory = state.directory().to_owned();
        let wish = Wish {
            transfer,
            parents,
            unpack: Unpack::Nothing,
            fetched: &BTreeMap::new(),
            directory: &directory,
            name: "COPY",
        };
        self.transfer(stage, &wish, told, &files, state)
    }

    fn add(&self, stage: usize, add: &Add, state: &mut State) -> Result<()> {
        let mut told = String::from("ADD");
        if let Some(checksum) = &add.checksum {
            told.push_str(&format!(" --checksum={checksum}"));
        }
        if add.keep_git_dir {
            told.push_str(" --keep-git-dir=true");
        }
        if let Some(unpack) = add.unpack {
            told.push_str(&format!(" --unpack={unpack}"));
        }
        let mut made = Vec::new();
        let fetched = self.fetch(add, &mut made);
        self.keep_until_the_end(made);
        let directory = state.directory().to_owned();
        let wish = Wish {
            transfer: &add.transfer,
            parents: false,
            unpack: match add.unpack {
                Some(false) => Unpack::Nothing,
                None => Unpack::Local,
                Some(true) => Unpack::All,
            },
            fetched: &fetched?,
            directory: &directory,
            name: "ADD",
        };
        let files = self.context();
        self.transfer(stage, &wish, told, &files, state)
    }

    /// What a destination is looked up in: nothing for a layer that is independent of others.
    fn below(&self, wish: &Wish<'_>, state: &State) -> Files {
        let layers = match wish.is_independent() {
            true => &[],
            false => &state.layers[..],
        };
        Files::of(self.build.images, layers, None)
    }

    fn transfer(
        &self,
        stage: usize,
        wish: &Wish<'_>,
        mut told: String,
        files: &Arc<Files>,
        state: &mut State,
    ) -> Result<()> {
        let transfer = wish.transfer;
        for (flag, value) in [("chown", &transfer.chown), ("chmod", &transfer.chmod)] {
            if let Some(value) = value {
                told.push_str(&format!(" --{flag}={value}"));
            }
        }
        for source in &transfer.sources {
            told.push(' ');
            match source {
                Source::Path(path) => told.push_str(path),
                Source::Document(document) => told.push_str(&format!("<<{}", document.name)),
            }
        }
        told.push(' ');
        told.push_str(&transfer.destination);
        let mut gathered = None;
        let digest = self.digest_of(wish, files, &mut gathered)?;
        let change = Change {
            key: wish.key(state.key, digest, self.times),
            told,
            suffix: " # buildkit",
            independent: wish.is_independent(),
            private: false,
        };
        self.change(stage, state, change, |state, _| {
            let sources = match gathered {
                Some(sources) => sources,
                None => wish.gather(files)?,
            };
            let below = self.below(wish, state);
            let mut archives = Vec::new();
            let selection = select(wish, sources, &below, self.build.images, &mut archives);
            self.keep_until_the_end(archives);
            let selection = selection?;
            let layer = self
                .build
                .images
                .write_layer(|out| selection.write(out, self.times))?;
            Ok(layer)
        })
    }

    /// Names what the sources are: as it was found out before, or by a look at them, which are
    /// left in `gathered` then.
    fn digest_of(
        &self,
        wish: &Wish<'_>,
        files: &Arc<Files>,
        gathered: &mut Option<Sources>,
    ) -> Result<Digest> {
        let cache = self.build.cache;
        let name = wish.name_of(files);
        let imports = self.imports();
        let known = name.and_then(|name| cache.content(name).or_else(|| imports.content(name)));
        if let (Some(name), Some(known)) = (name, known) {
            self.note_sources(name, known);
            return Ok(known);
        }
        let sources = wish.gather(files)?;
        let digest = sources.digest(&self.cancel)?;
        *gathered = Some(sources);
        if let Some(name) = name {
            cache.note_content(name, digest)?;
            self.note_sources(name, digest);
        }
        Ok(digest)
    }

    fn workdir(&self, stage: usize, path: &str, state: &mut State) -> Result<()> {
        let path = in_directory(state.directory(), path);
        path.clone_into(&mut state.config.config.working_dir);
        let told = format!("WORKDIR {path}");
        if path == "/" {
            state.tell(told);
            return Ok(());
        }
        let user = state.config.config.user.clone();
        let mut key = KeyMaker::new("directory");
        key.text("below", &state.key.0.hex());
        key.text("path", &path);
        key.text("user", &user);
        self.times.describe(&mut key);
        let change = Change {
            key: key.key(),
            told,
            suffix: "",
            independent: false,
            private: false,
        };
        self.change(stage, state, change, |state, _| {
            let below = Files::of(self.build.images, &state.layers, None);
            let owner = match user.is_empty() {
                true => (0, 0),
                false => owner::find(&user, &below)?,
            };
            let mut made = Ok(());
            let layer = self.build.images.write_layer(|out| {
                made = make_directory(&path, owner, &below, out, self.times);
                match &made {
                    Ok(()) => Ok(()),
                    Err(error) => Err(std::io::Error::other(error.to_string())),
                }
            });
            made?;
            Ok(layer?)
        })
    }

    /// The files of a stage, an image, a named context, or nothing.
    pub(crate) fn files_of(&self, input: &Input) -> Result<Arc<Files>> {
        let state = match input {
            Input::Scratch => State::scratch(self.target_platform()),
            Input::Stage(index) => self.stage(*index)?,
            Input::Image(name) => self.image(name, self.target_platform())?,
            Input::Context(name) => match self.named_context(name)? {
                NamedContext::Image(name) => self.image(name, self.target_platform())?,
                NamedContext::Files(context) => {
                    let mut files = context.files(self.build.images)?;
                    files.hidden = read_ignore(&[(&files, IGNORE)])?;
                    return Ok(Arc::new(files));
                }
            },
        };
        let mut files = Files::of(self.build.images, &state.layers, Some(state.key));
        files.of_image = true;
        Ok(Arc::new(files))
    }

    /// The state that a named context begins a stage with.
    pub(crate) fn begin_with_context(&self, name: &str, platform: &Platform) -> Result<State> {
        match self.named_context(name)? {
            NamedContext::Image(name) => self.image(name, platform),
            NamedContext::Files(context) => {
                let mut state = State::scratch(platform);
                let mut key = KeyMaker::new("named context");
                for layer in context.layers() {
                    key.text("layer", &layer.diff_id().to_string());
                }
                state.key = key.key();
                state.layers = context
                    .layers()
                    .iter()
                    .cloned()
                    .map(StepLayer::from)
                    .collect();
                Ok(state)
            }
        }
    }

    fn named_context(&self, name: &str) -> Result<&NamedContext> {
        let found = self.build.settings.contexts.get(name);
        found.ok_or_else(|| Error::Step(format!("there is no build context {name}")))
    }
}

/// A mistake that only shows when values are known.
fn wrong(error: sampan_dockerfile::Error) -> Error {
    Error::Dockerfile(error.to_string())
}
