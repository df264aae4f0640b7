//! What a build needs of a Dockerfile: which stages, on what, with which variables.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use sampan_oci::{Platform, Reference};

use crate::error::{Error, ErrorKind, Location, closest, did_you_mean};
use crate::instruction::{ArgDeclaration, Instruction, KeyValue, Step};
use crate::parse;
use crate::shell::Shell;
use crate::stage::{Dockerfile, Stage};
use crate::variables::Variables;

/// Build arguments that every `RUN` gets without an `ARG`, and that are kept out
/// of the history and of the cache's keys unless they have one.
pub const PROXY_ARGS: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// The search path of stages whose base sets none.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Settings of the frontend that look like variables; they never reach a command.
pub(crate) const SETTINGS: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// So many instructions can be set off by the stages of one file.
const MAX_TRIGGERS: usize = 1 << 16;

/// What is asked of a build.
#[derive(Clone, Debug)]
pub struct Options {
    /// The stage that is wanted, by name or number; the last one if none is given.
    pub target: Option<String>,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, String>,
    /// The machine that builds.
    pub build_platform: Platform,
    /// The machine that the image is for.
    pub target_platform: Platform,
    /// The names of `--build-context`.
    pub contexts: BTreeSet<String>,
    /// Whether all stages are wanted, as for a check.
    pub all_stages: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            target: None,
            build_args: BTreeMap::new(),
            build_platform: Platform::host(),
            target_platform: Platform::host(),
            contexts: BTreeSet::new(),
            all_stages: false,
        }
    }
}

/// Where files come from.
#[derive(Clone, Debug, Eq, PartialEq, Ord, PartialOrd)]
pub enum Input {
    /// Nothing at all.
    Scratch,
    /// Another stage of this file, by its index.
    Stage(usize),
    /// An image by its name, as written.
    Image(String),
    /// A named context, by the name in [`Options::contexts`].
    Context(String),
}

/// One stage of a [`Plan`].
#[derive(Clone, Debug)]
pub struct PlannedStage {
    /// The name to show: its own, or `stage-N`.
    pub name: String,
    /// What it begins with. A stage that a named context replaces is that
    /// context, and none of its steps are run.
    pub base: Input,
    /// Whether a named context takes its place.
    pub replaced: bool,
    /// The platform of `FROM --platform`; a stage on a stage has that one's.
    pub platform: Option<Platform>,
    /// What is to be done before its own steps: triggers of what it begins with.
    pub triggers: Vec<Step>,
    /// The other stages it needs, by index.
    pub needs: BTreeSet<usize>,
    /// A stage that it names and that stands behind it.
    behind: Option<(String, Location)>,
}

/// The stages of a Dockerfile with their names, bases and platforms settled.
#[derive(Clone, Debug)]
pub struct Plan {
    /// All stages of the file, also those that are not needed.
    pub stages: Vec<PlannedStage>,
    /// The index of the stage that is wanted.
    pub target: usize,
    /// The stages to build: each after those it needs, the target last.
    pub order: Vec<usize>,
    /// The variables outside of stages: the platforms' and each `ARG` before the first `FROM`.
    pub globals: Variables,
    build_args: BTreeMap<String, String>,
    names: HashMap<String, usize>,
    contexts: BTreeSet<String>,
    target_platform: Platform,
    all_stages: bool,
}

impl Dockerfile {
    /// The expansion rules of this file.
    pub fn shell(&self) -> Shell {
        Shell::new(self.directives.escape)
    }

    /// Settles what has to be built. Names that are neither stages nor named
    /// contexts are images; whether they exist is for others to find out.
    pub fn plan(&self, options: &Options, shell: &Shell) -> Result<Plan, Error> {
        Plan::new(self, options, shell)
    }

    /// The variables outside of stages.
    pub(crate) fn globals(
        &self,
        options: &Options,
        build_args: &BTreeMap<String, String>,
        shell: &Shell,
    ) -> Result<Variables, Error> {
        let mut globals = self.platform_args(options, build_args);
        for step in &self.globals {
            let Instruction::Arg(declarations) = &step.instruction else {
                continue;
            };
            for declaration in declarations {
                let name = &declaration.name;
                let value = match (build_args.get(name), &declaration.default) {
                    (Some(value), _) => value.clone(),
                    (None, Some(default)) => {
                        let expansion = shell.expand(default, &globals);
                        expansion.map_err(|error| error.at(step.location))?.text
                    }
                    (None, None) => continue,
                };
                globals.set(name, value);
            }
        }
        Ok(globals)
    }

    fn platform_args(&self, options: &Options, build_args: &BTreeMap<String, String>) -> Variables {
        let last = self.stages.last().and_then(|stage| stage.name.clone());
        let target = options
            .target
            .clone()
            .or(last)
            .unwrap_or_else(|| "default".to_owned());
        let mut variables = Variables::default();
        let platforms = [
            ("BUILD", &options.build_platform),
            ("TARGET", &options.target_platform),
        ];
        for (prefix, platform) in platforms {
            let values = [
                ("PLATFORM", platform.to_string()),
                ("OS", platform.os.clone()),
                ("OSVERSION", platform.os_version.clone()),
                ("ARCH", platform.architecture.clone()),
                ("VARIANT", platform.variant.clone()),
            ];
            for (suffix, value) in values {
                variables.set(&format!("{prefix}{suffix}"), value);
            }
        }
        variables.set("TARGETSTAGE", target);
        let own: Vec<String> = variables.names().map(str::to_owned).collect();
        for name in own {
            if let Some(value) = build_args.get(&name) {
                variables.set(&name, value.clone());
            }
        }
        variables
    }
}

impl Plan {
    fn new(file: &Dockerfile, options: &Options, shell: &Shell) -> Result<Self, Error> {
        let globals = file.globals(options, &options.build_args, shell)?;
        let mut plan = Self {
            stages: Vec::with_capacity(file.stages.len()),
            target: 0,
            order: Vec::new(),
            globals,
            build_args: options.build_args.clone(),
            names: HashMap::new(),
            contexts: options.contexts.clone(),
            target_platform: options.target_platform.clone(),
            all_stages: options.all_stages,
        };
        for (index, stage) in file.stages.iter().enumerate() {
            let planned = plan
                .place(index, stage, shell)
                .map_err(|error| error.at(stage.location))?;
            plan.stages.push(planned);
            if let Some(name) = &stage.name {
                plan.names.insert(name.clone(), index);
            }
        }
        let mut triggered = 0;
        for (index, stage) in file.stages.iter().enumerate() {
            if plan.stages[index].replaced {
                continue;
            }
            if let Input::Stage(base) = plan.stages[index].base {
                let own = &file.stages[base].steps;
                let triggers = own.iter().filter_map(|step| match &step.instruction {
                    Instruction::Onbuild(trigger) => Some(trigger.expression.as_str()),
                    _ => None,
                });
                let triggers: Vec<&str> = triggers.collect();
                triggered += triggers.len();
                if triggered > MAX_TRIGGERS {
                    let message = "the stages of this file set off too many ONBUILD instructions";
                    return Err(Error::new(ErrorKind::Limit, message).at(stage.location));
                }
                let triggers = triggers
                    .iter()
                    .map(|expression| read_trigger(expression, stage.location));
                plan.stages[index].triggers = triggers.collect::<Result<_, _>>()?;
            }
            let triggers = std::mem::take(&mut plan.stages[index].triggers);
            for step in triggers.iter().chain(&stage.steps) {
                plan.need(index, step)?;
            }
            plan.stages[index].triggers = triggers;
        }
        plan.target = plan.find_target(options.target.as_deref())?;
        plan.settle()?;
        Ok(plan)
    }

    /// Settles base and platform of a stage; those in front of it are settled.
    fn place(&self, index: usize, stage: &Stage, shell: &Shell) -> Result<PlannedStage, Error> {
        let base = shell.expand(&stage.base, &self.globals)?;
        if base.text.is_empty() {
            let message = format!("base name ({}) should not be blank", stage.base);
            return Err(
                Error::new(ErrorKind::Stage, self.suggest(message, &base.unmatched))
                    .with_hint("give the argument a default before the first FROM, or --build-arg"),
            );
        }
        let platform = match &stage.platform {
            Some(platform) => Some(self.platform(platform, shell)?),
            None => None,
        };
        let name = stage.name.as_deref();
        let own_platform = platform.as_ref().unwrap_or(&self.target_platform);
        let replacement = name.and_then(|name| self.context_named(name, own_platform));
        let replaced = replacement.is_some();
        let base = match (replacement, self.names.get(&base.text)) {
            (Some(context), _) => Input::Context(context),
            (None, Some(&earlier)) => Input::Stage(earlier),
            (None, None) => self.outside(&base.text, own_platform),
        };
        let platform = match base {
            Input::Stage(earlier) => self.stages[earlier].platform.clone(),
            _ => platform,
        };
        Ok(PlannedStage {
            name: name.map_or_else(|| format!("stage-{index}"), str::to_owned),
            base,
            replaced,
            platform,
            triggers: Vec::new(),
            needs: BTreeSet::new(),
            behind: None,
        })
    }

    fn platform(&self, written: &str, shell: &Shell) -> Result<Platform, Error> {
        let expansion = shell.expand(written, &self.globals)?;
        let wrong = |message: String| {
            Error::new(
                ErrorKind::Platform,
                self.suggest(message, &expansion.unmatched),
            )
        };
        if expansion.text.is_empty() {
            return Err(wrong(format!(
                "empty platform value from expression {written}"
            )));
        }
        expansion
            .text
            .parse()
            .map_err(|error| wrong(format!("failed to parse platform {written}: {error}")))
    }

    fn suggest(&self, message: String, unmatched: &BTreeSet<String>) -> String {
        let close = unmatched
            .iter()
            .find_map(|name| closest(name, self.globals.names()));
        match close {
            Some(name) => format!("{message} (did you mean {name}?)"),
            None => message,
        }
    }

    /// A name that is no stage of this file.
    fn outside(&self, name: &str, platform: &Platform) -> Input {
        if name == "scratch" {
            return Input::Scratch;
        }
        match self.context_named(name, platform) {
            Some(context) => Input::Context(context),
            None => Input::Image(name.to_owned()),
        }
    }

    /// The named context of this name, for this platform first. Names of images
    /// are compared in their short form, so that `docker.io/library/alpine:latest`
    /// is `alpine`.
    fn context_named(&self, name: &str, platform: &Platform) -> Option<String> {
        let reserved = ["scratch", "context"]
            .iter()
            .any(|word| name.eq_ignore_ascii_case(word));
        if self.contexts.is_empty() || reserved {
            return None;
        }
        let short = short_name(name);
        let exact = format!("{short}::{platform}");
        let matches = |context: &String| match context.split_once("::") {
            Some((name, platform)) => format!("{}::{platform}", short_name(name)) == exact,
            None => false,
        };
        self.contexts
            .iter()
            .find(|context| matches(context))
            .or_else(|| {
                self.contexts
                    .iter()
                    .find(|context| short_name(context) == short)
            })
            .cloned()
    }

    /// What `--from=name` of a `COPY` in this stage means.
    pub fn copy_source(&self, stage: usize, name: &str) -> Result<Input, Error> {
        if let Ok(index) = name.parse::<i64>() {
            return usize::try_from(index)
                .ok()
                .filter(|index| *index < self.stages.len())
                .map(Input::Stage)
                .ok_or_else(|| {
                    let message = format!("invalid stage index {index}");
                    Error::new(ErrorKind::Stage, message).with_hint("stages count from 0")
                });
        }
        Ok(self.mount_source(stage, name))
    }

    /// What `from=name` of a `RUN --mount` in this stage means: never a number.
    pub fn mount_source(&self, stage: usize, name: &str) -> Input {
        let platform = self
            .stages
            .get(stage)
            .and_then(|stage| stage.platform.as_ref());
        match self.names.get(&name.to_ascii_lowercase()) {
            Some(&index) => Input::Stage(index),
            None => self.outside(name, platform.unwrap_or(&self.target_platform)),
        }
    }

    /// Notes what a step of a stage needs.
    fn need(&mut self, index: usize, step: &Step) -> Result<(), Error> {
        let is_copy = matches!(step.instruction, Instruction::Copy(_));
        for name in step.instruction.source_names() {
            let input = match is_copy {
                true => self
                    .copy_source(index, name)
                    .map_err(|error| error.at(step.location))?,
                false => self.mount_source(index, name),
            };
            let Input::Stage(other) = input else { continue };
            let stage = &mut self.stages[index];
            stage.needs.insert(other);
            if other >= index && stage.behind.is_none() {
                let verb = if is_copy { "copy" } else { "mount" };
                let message = format!(
                    "cannot {verb} from stage \"{name}\", it needs to be defined before current stage \"{}\"",
                    stage.name
                );
                stage.behind = Some((message, step.location));
            }
        }
        Ok(())
    }

    fn find_target(&self, wanted: Option<&str>) -> Result<usize, Error> {
        let Some(wanted) = wanted.filter(|wanted| !wanted.is_empty()) else {
            return Ok(self.stages.len() - 1);
        };
        let number = || {
            wanted
                .parse()
                .ok()
                .filter(|index| *index < self.stages.len())
        };
        self.names
            .get(&wanted.to_ascii_lowercase())
            .copied()
            .or_else(number)
            .ok_or_else(|| {
                let message = format!("target stage \"{wanted}\" could not be found");
                let names = self.stages.iter().map(|stage| stage.name.as_str());
                Error::new(ErrorKind::Stage, did_you_mean(message, wanted, names))
            })
    }

    /// Finds loops and what the target needs.
    fn settle(&mut self) -> Result<(), Error> {
        self.refuse_loops()?;
        let mut needed = vec![self.all_stages; self.stages.len()];
        let mut waiting = vec![self.target];
        needed[self.target] = true;
        while let Some(index) = waiting.pop() {
            for other in self.edges(index) {
                if !std::mem::replace(&mut needed[other], true) {
                    waiting.push(other);
                }
            }
        }
        self.order = (0..self.stages.len())
            .filter(|index| needed[*index])
            .collect();
        for index in &self.order {
            if let Some((message, location)) = &self.stages[*index].behind {
                return Err(Error::new(ErrorKind::Stage, message.clone()).at(*location));
            }
        }
        Ok(())
    }

    fn edges(&self, index: usize) -> impl Iterator<Item = usize> {
        let stage = &self.stages[index];
        let base = match stage.base {
            Input::Stage(base) => Some(base),
            _ => None,
        };
        base.into_iter().chain(stage.needs.iter().copied())
    }

    /// Stages are taken away as long as one needs nothing that is left.
    fn refuse_loops(&self) -> Result<(), Error> {
        let mut users = vec![Vec::new(); self.stages.len()];
        let mut open = vec![0; self.stages.len()];
        for (index, count) in open.iter_mut().enumerate() {
            for other in self.edges(index) {
                users[other].push(index);
                *count += 1;
            }
        }
        let mut ready: Vec<usize> = (0..open.len()).filter(|index| open[*index] == 0).collect();
        let mut left = open.len() - ready.len();
        while let Some(index) = ready.pop() {
            for user in &users[index] {
                open[*user] -= 1;
                if open[*user] == 0 {
                    ready.push(*user);
                    left -= 1;
                }
            }
        }
        if left == 0 {
            return Ok(());
        }
        // What only uses a loop is left over too; a stage behind itself is in front of it.
        let stages = self.stages.iter().zip(&open);
        let mut stuck = stages
            .filter(|(_, open)| **open > 0)
            .map(|(stage, _)| stage);
        let culprit = stuck.find(|stage| stage.behind.is_some());
        let (name, location) = culprit.map_or(("", None), |stage| {
            (
                stage.name.as_str(),
                stage.behind.as_ref().map(|(_, location)| *location),
            )
        });
        let error = Error::new(
            ErrorKind::Stage,
            format!("circular dependency detected on stage: {name}"),
        );
        Err(match location {
            Some(location) => error.at(location),
            None => error,
        })
    }

    /// Adds the triggers that the image of a stage's base brings with it, in
    /// front of all else. The order of stages may grow.
    pub fn add_triggers(
        &mut self,
        file: &Dockerfile,
        stage: usize,
        expressions: &[String],
    ) -> Result<(), Error> {
        let location = file.stages[stage].location;
        let steps = expressions
            .iter()
            .map(|expression| read_trigger(expression, location));
        let mut steps: Vec<Step> = steps.collect::<Result<_, _>>()?;
        for step in &steps {
            self.need(stage, step)?;
        }
        steps.append(&mut self.stages[stage].triggers);
        self.stages[stage].triggers = steps;
        self.settle()
    }

    pub(crate) fn target_platform(&self) -> &Platform {
        &self.target_platform
    }

    /// The proxy settings among the build arguments, for the environment of every `RUN`.
    pub fn proxies(&self) -> impl Iterator<Item = (&str, &str)> {
        PROXY_ARGS.iter().filter_map(|name| {
            let value = self.build_args.get(*name)?;
            Some((*name, value.as_str()))
        })
    }

    /// Build arguments that no `ARG` of the file takes up.
    pub fn unused_build_args(&self, file: &Dockerfile) -> Vec<&str> {
        let triggers = self.stages.iter().flat_map(|stage| &stage.triggers);
        let own = file.stages.iter().flat_map(|stage| &stage.steps);
        let steps = file.globals.iter().chain(own).chain(triggers);
        let declared: BTreeSet<&str> = steps
            .filter_map(|step| match &step.instruction {
                Instruction::Arg(declarations) => Some(declarations),
                _ => None,
            })
            .flatten()
            .map(|declaration| declaration.name.as_str())
            .collect();
        let known = |name: &&String| {
            declared.contains(name.as_str())
                || PROXY_ARGS.contains(&name.as_str())
                || name.starts_with("BUILDKIT_")
                || name.as_str() == "SOURCE_DATE_EPOCH"
                || self.globals.get(name).is_some()
        };
        self.build_args
            .keys()
            .filter(|name| !known(name))
            .map(String::as_str)
            .collect()
    }
}

fn read_trigger(expression: &str, location: Location) -> Result<Step, Error> {
    let mut step = parse::trigger(expression).map_err(|error| {
        let message = format!("{} in ONBUILD {expression}", error.message());
        Error::new(error.kind(), message).at(location)
    })?;
    step.location = location;
    Ok(step)
}

/// The name without the parts that are implied.
fn short_name(name: &str) -> String {
    let familiar = match name.parse::<Reference>() {
        Ok(reference) => reference.familiar(),
        Err(_) => name.to_owned(),
    };
    familiar
        .strip_suffix(":latest")
        .map_or(familiar.clone(), str::to_owned)
}

/// The variables within a stage, as they stand before the next step.
///
/// `ARG` and `ENV` both set; the later one wins, as with BuildKit. Only `ENV`
/// gets into the image. A stage on a stage begins with a clone of its scope.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    variables: Variables,
    declared: Vec<(String, Option<String>)>,
    names: HashSet<String>,
}

impl Scope {
    /// Begins with the environment of the base image, and a `PATH` in any case.
    pub fn new(mut environment: Variables) -> Self {
        if environment.get("PATH").is_none() {
            environment.set("PATH", DEFAULT_PATH);
        }
        Self {
            variables: environment,
            ..Self::default()
        }
    }

    /// All variables: what expansion sees, and what `RUN` gets.
    pub fn variables(&self) -> &Variables {
        &self.variables
    }

    /// Does what an `ARG` says, with the names and values for the history.
    pub fn declare(
        &mut self,
        plan: &Plan,
        shell: &Shell,
        declarations: &[ArgDeclaration],
    ) -> Result<Vec<(String, Option<String>)>, Error> {
        let mut told = Vec::new();
        for ArgDeclaration { name, default, .. } in declarations {
            let value = match (plan.build_args.get(name), default) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(shell.expand(default, &self.variables)?.text),
                (None, None) => plan.globals.get(name).map(str::to_owned),
            };
            if let Some(value) = value
                .as_ref()
                .filter(|_| !SETTINGS.contains(&name.as_str()))
            {
                self.variables.set(name, value.clone());
            }
            self.names.insert(name.clone());
            self.declared.push((name.clone(), value.clone()));
            told.push((name.clone(), value));
        }
        Ok(told)
    }

    /// Does what an expanded `ENV` says.
    pub fn set(&mut self, pairs: &[KeyValue]) {
        for pair in pairs {
            self.variables.set(&pair.key, pair.value.clone());
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.variables.len() + self.declared.len()
    }

    /// Whether an `ARG` has named it, with or without a value.
    pub fn is_declared(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// The declared names with their present values, as `RUN |2 a=1 b=2` has them in the history.
    pub fn arguments(&self) -> Vec<(&str, &str)> {
        let mut seen = BTreeSet::new();
        let mut arguments = Vec::new();
        for (name, value) in &self.declared {
            if seen.insert(name) {
                let value = self
                    .variables
                    .get(name)
                    .or(value.as_deref())
                    .unwrap_or_default();
                arguments.push((name.as_str(), value));
            }
        }
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Dockerfile {
        Dockerfile::parse(text.as_bytes()).unwrap()
    }

    fn plan(text: &str, options: &Options) -> Result<Plan, String> {
        let file = file(text);
        file.plan(options, &file.shell())
            .map_err(|error| error.message().to_owned())
    }

    fn target(name: &str) -> Options {
        Options {
            target: Some(name.to_owned()),
            ..Options::default()
        }
    }

    fn build_arg(name: &str, value: &str) -> Options {
        Options {
            build_args: [(name.to_owned(), value.to_owned())].into(),
            ..Options::default()
        }
    }

    const STAGES: &str = "FROM alpine AS base\nFROM base AS tools\nFROM golang AS Build\n\
        COPY --from=tools / /\nFROM debian AS unused\nRUN false\nFROM scratch\nCOPY --from=build /a /b\n\
        RUN --mount=from=busybox,target=/x true\n";

    #[test]
    fn only_stages_that_the_target_needs_are_built() {
        let order = |options: &Options| plan(STAGES, options).unwrap().order;
        assert_eq!(order(&Options::default()), [0, 1, 2, 4]);
        assert_eq!(order(&target("tools")), [0, 1]);
        assert_eq!(order(&target("BUILD")), [0, 1, 2]);
        assert_eq!(order(&target("3")), [3]);
        let all = Options {
            all_stages: true,
            ..Options::default()
        };
        assert_eq!(order(&all), [0, 1, 2, 3, 4]);
        assert_eq!(
            plan(STAGES, &target("tolls")).unwrap_err(),
            "target stage \"tolls\" could not be found (did you mean tools?)"
        );
    }

    #[test]
    fn names_mean_stages_then_contexts_then_images() {
        let options = Options {
            contexts: [
                "src",
                "busybox",
                "docker.io/library/debian:latest",
                "scratch",
            ]
            .map(str::to_owned)
            .into(),
            ..Options::default()
        };
        let plan = plan(STAGES, &options).unwrap();
        let source = |name: &str| plan.copy_source(4, name).unwrap();
        assert_eq!(source("TOOLS"), Input::Stage(1));
        assert_eq!(source("0"), Input::Stage(0));
        assert_eq!(source("src"), Input::Context("src".into()));
        assert_eq!(
            source("docker.io/busybox:latest"),
            Input::Context("busybox".into())
        );
        assert_eq!(source("ubuntu"), Input::Image("ubuntu".into()));
        assert_eq!(source("scratch"), Input::Scratch);
        assert_eq!(plan.mount_source(4, "0"), Input::Image("0".into()));
        assert_eq!(
            plan.stages[3].base,
            Input::Context("docker.io/library/debian:latest".into())
        );
        assert_eq!(
            plan.copy_source(4, "5").unwrap_err().message(),
            "invalid stage index 5"
        );
        assert_eq!(
            plan.copy_source(4, "-1").unwrap_err().message(),
            "invalid stage index -1"
        );
    }

    #[test]
    fn a_context_can_replace_a_stage() {
        let options = Options {
            contexts: ["build".to_owned()].into(),
            ..Options::default()
        };
        let plan = plan(STAGES, &options).unwrap();
        assert!(plan.stages[2].replaced);
        assert_eq!(plan.order, [2, 4]);
    }

    #[test]
    fn loops_and_stages_used_too_early_are_refused() {
        let cases = [
            (
                "FROM a AS x\nCOPY --from=x a b\n",
                "circular dependency detected on stage: x",
            ),
            (
                "FROM a AS x\nCOPY --from=y a b\nFROM b AS y\nRUN --mount=from=x,target=/x y\n",
                "circular dependency detected on stage: x",
            ),
            (
                "FROM a AS x\nCOPY --from=y a b\nFROM b AS y\nFROM x",
                "cannot copy from stage \"y\", it needs to be defined before current stage \"x\"",
            ),
            (
                "FROM a AS x\nRUN --mount=from=y,target=/y b\nFROM b AS y\nFROM x",
                "cannot mount from stage \"y\", it needs to be defined before current stage \"x\"",
            ),
            ("FROM a\nCOPY --from=3 a b", "invalid stage index 3"),
        ];
        for (text, message) in cases {
            assert_eq!(
                plan(text, &Options::default()).unwrap_err(),
                message,
                "{text}"
            );
        }
        // Not in the way of a target that does not need it.
        assert!(
            plan(
                "FROM a AS x\nCOPY --from=y a b\nFROM b AS y",
                &Options::default()
            )
            .is_ok()
        );
    }

    #[test]
    fn bases_and_platforms_come_from_global_arguments() {
        let text = "ARG V=3\nARG I=alpine:${V}\nFROM --platform=$BUILDPLATFORM $I AS a\nFROM a\n";
        let options = Options {
            build_platform: "linux/arm64".parse().unwrap(),
            target_platform: "linux/arm/v7".parse().unwrap(),
            ..build_arg("V", "4")
        };
        let planned = plan(text, &options).unwrap();
        assert_eq!(planned.stages[0].base, Input::Image("alpine:4".into()));
        let arm = Some("linux/arm64".parse().unwrap());
        assert_eq!(planned.stages[0].platform, arm);
        assert_eq!(planned.stages[1].platform, arm);
        let names = ["TARGETPLATFORM", "TARGETARCH", "TARGETVARIANT", "BUILDOS"];
        let values = names.map(|name| planned.globals.get(name).unwrap());
        assert_eq!(values, ["linux/arm/v7", "arm", "v7", "linux"]);

        let cases = [
            ("ARG I\nFROM $I\n", "base name ($I) should not be blank"),
            (
                "ARG IMAGE=a\nFROM $IMAG\n",
                "base name ($IMAG) should not be blank (did you mean IMAGE?)",
            ),
            (
                "FROM --platform=$TARGETPLATFROM a\n",
                "empty platform value from expression $TARGETPLATFROM (did you mean TARGETPLATFORM?)",
            ),
            (
                "FROM ${I:?unset}\n",
                "failed to process \"${I:?unset}\": I: unset",
            ),
        ];
        for (text, message) in cases {
            assert_eq!(
                plan(text, &Options::default()).unwrap_err(),
                message,
                "{text}"
            );
        }
        let error = plan("FROM --platform=lin?x a\n", &Options::default()).unwrap_err();
        assert!(
            error.starts_with("failed to parse platform lin?x: "),
            "{error}"
        );
    }

    #[test]
    fn triggers_of_a_base_come_first_and_need_their_stages() {
        let text = "FROM a AS files\nFROM b AS base\nONBUILD COPY --from=files x y\nONBUILD RUN z\nFROM base\nRUN w\n";
        let planned = plan(text, &Options::default()).unwrap();
        assert_eq!(planned.order, [0, 1, 2]);
        let names: Vec<_> = planned.stages[2]
            .triggers
            .iter()
            .map(|step| step.instruction.name())
            .collect();
        assert_eq!(names, ["COPY", "RUN"]);

        let file = file("FROM a AS files\nFROM image\nRUN x\n");
        let mut planned = file.plan(&Options::default(), &file.shell()).unwrap();
        assert_eq!(planned.order, [1]);
        planned
            .add_triggers(&file, 1, &["COPY --from=files x y".to_owned()])
            .unwrap();
        assert_eq!(planned.order, [0, 1]);
        let error = planned
            .add_triggers(&file, 1, &["FROM x".to_owned()])
            .unwrap_err();
        assert_eq!(
            error.message(),
            "FROM isn't allowed as an ONBUILD trigger in ONBUILD FROM x"
        );
    }

    #[test]
    fn arguments_and_variables_follow_their_scopes() {
        let text = "ARG G=global\nARG H=hidden\nFROM a\nARG G\nARG D=$G-$IMAGE E U\nENV X=$D\n";
        let file = file(text);
        let options = build_arg("E", "given");
        let planned = file.plan(&options, &file.shell()).unwrap();
        let shell = file.shell();
        let mut scope = Scope::new(Variables::from_environment(["IMAGE=i", "D=old"]));
        for step in &file.stages[0].steps {
            match step.instruction.expand(&shell, scope.variables()).unwrap() {
                Instruction::Arg(declarations) => {
                    scope.declare(&planned, &shell, &declarations).unwrap();
                }
                Instruction::Env(pairs) => scope.set(&pairs),
                other => panic!("{other:?}"),
            }
        }
        let value = |name: &str| scope.variables().get(name);
        assert_eq!(value("X"), Some("global-i"));
        assert_eq!(value("E"), Some("given"));
        assert_eq!(value("U"), None);
        assert_eq!(value("H"), None);
        assert!(scope.is_declared("U"));
        let arguments = [
            ("G", "global"),
            ("D", "global-i"),
            ("E", "given"),
            ("U", ""),
        ];
        assert_eq!(scope.arguments(), arguments);
    }

    #[test]
    fn build_arguments_that_nothing_takes_up_are_told() {
        let file = file("ARG A\nFROM a\nARG B\n");
        let names = [
            "A",
            "B",
            "C",
            "HTTP_PROXY",
            "TARGETARCH",
            "BUILDKIT_INLINE_CACHE",
        ];
        let options = Options {
            build_args: names.map(|name| (name.to_owned(), "x".to_owned())).into(),
            ..Options::default()
        };
        let planned = file.plan(&options, &file.shell()).unwrap();
        assert_eq!(planned.unused_build_args(&file), ["C"]);
        assert_eq!(planned.proxies().collect::<Vec<_>>(), [("HTTP_PROXY", "x")]);
    }
}
