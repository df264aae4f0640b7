//! BuildKit's checks, under its names.

use std::collections::{BTreeMap, BTreeSet};

use sampan_oci::{Platform, Reference};
use serde::Serialize;

use crate::directive::Checks;
use crate::error::{Error, ErrorKind, Location, closest, excerpt, quoted};
use crate::expose;
use crate::ignore::Ignore;
use crate::instruction::{Command, Instruction, KeyValue, Place, Source, Step, Transfer};
use crate::plan::{Input, Options, Plan, SETTINGS, Scope};
use crate::shell::{Expansion, Shell};
use crate::stage::{Dockerfile, Stage};
use crate::variables::Variables;

mod rule;

pub use rule::Rule;

/// A broken rule.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Warning {
    /// Which.
    pub rule: Rule,
    /// What is wrong, in BuildKit's words.
    pub message: String,
    /// Where.
    pub location: Location,
}

impl Warning {
    /// The warning as `docker build --check` shows it.
    pub fn render(&self, file: &str, source: &str) -> String {
        let mut out = format!(
            "WARNING: {} - {}\n{}\n\n",
            self.rule,
            self.rule.url(),
            self.message
        );
        excerpt(&mut out, file, source, self.location);
        out
    }
}

/// What others know of the images that stages begin with.
#[derive(Clone, Debug, Default)]
pub struct BaseImage {
    /// Its environment.
    pub environment: Vec<String>,
    /// What it is for.
    pub platform: Option<Platform>,
    /// Whether it sets a shell.
    pub has_shell: bool,
}

/// What a check can make use of besides the file.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The context's ignore file.
    pub ignore: Option<Ignore>,
    /// The images of stages, by the stage's index. Undefined variables are only
    /// told where the base is known.
    pub bases: BTreeMap<usize, BaseImage>,
    /// What takes the place of the file's own `# check=`.
    pub checks: Option<Checks>,
}

/// The outcome of a check.
#[derive(Clone, Debug, Default)]
pub struct Lint {
    /// Broken rules in the order of their lines.
    pub warnings: Vec<Warning>,
    /// What would end a build whatever the rules are.
    pub error: Option<Error>,
    fails: bool,
}

impl Lint {
    /// The error that broken rules are, if they are to be errors.
    pub fn violation(&self) -> Option<Error> {
        if !self.fails || self.warnings.is_empty() {
            return None;
        }
        let rules: BTreeSet<&str> = self
            .warnings
            .iter()
            .map(|warning| warning.rule.name())
            .collect();
        let rules: Vec<&str> = rules.into_iter().collect();
        let message = format!("lint violation found for rules: {}", rules.join(", "));
        Some(Error::new(ErrorKind::Directive, message))
    }
}

impl Dockerfile {
    /// Checks the file. Without a target all stages are checked.
    pub fn lint(&self, options: &Options, shell: &Shell, facts: &Facts) -> Lint {
        let own = || Checks::parse(self.directives.check.as_deref().unwrap_or_default());
        let checks = match facts.checks.clone().map_or_else(own, Ok) {
            Ok(checks) => checks,
            Err(error) => {
                return Lint {
                    error: Some(error),
                    ..Lint::default()
                };
            }
        };
        let mut linter = Linter {
            file: self,
            shell,
            facts,
            checks,
            warnings: Vec::new(),
        };
        let options = Options {
            all_stages: options.target.is_none(),
            ..options.clone()
        };
        linter.check_text();
        let error = linter.check_build(&options).err();
        let mut warnings = linter.warnings;
        warnings.sort_by_key(|warning| warning.location);
        Lint {
            warnings,
            error,
            fails: linter.checks.error,
        }
    }
}

/// Nobody reads more.
const MAX_WARNINGS: usize = 500;

struct Linter<'a> {
    file: &'a Dockerfile,
    shell: &'a Shell,
    facts: &'a Facts,
    checks: Checks,
    warnings: Vec<Warning>,
}

/// A stage while its steps are followed.
#[derive(Clone, Default)]
struct State {
    scope: Scope,
    /// Whether the base's environment is known, so that a name that has no value has none.
    known: bool,
    has_shell: bool,
    has_workdir: bool,
}

/// The steps of one stage of which only the last counts.
#[derive(Default)]
struct Last<'a> {
    cmd: Option<&'a Step>,
    entrypoint: Option<&'a Step>,
    healthcheck: Option<&'a Step>,
}

impl<'a> Linter<'a> {
    fn is_full(&self) -> bool {
        self.warnings.len() >= MAX_WARNINGS
    }

    fn warn(&mut self, rule: Rule, comments: &[String], location: Location, message: String) {
        if self.is_full() {
            return;
        }
        let allowed = |checks: &Checks| !checks.skip_all && !checks.skip.contains(rule.name());
        let asked =
            |checks: &Checks| checks.experimental_all || checks.experimental.contains(rule.name());
        let nearby: Vec<Checks> = comments
            .iter()
            .filter_map(|comment| own_checks(comment))
            .collect();
        if rule.is_experimental() && !asked(&self.checks) && !nearby.iter().any(asked) {
            return;
        }
        if !allowed(&self.checks) || !nearby.iter().all(allowed) {
            return;
        }
        self.warnings.push(Warning {
            rule,
            message,
            location,
        });
    }

    fn warn_step(&mut self, rule: Rule, step: &Step, message: String) {
        self.warn(rule, &step.comments, step.location, message);
    }

    fn warn_from(&mut self, rule: Rule, stage: &Stage, message: String) {
        self.warn(rule, &stage.comments, stage.location, message);
    }

    /// What can be seen without any value.
    fn check_text(&mut self) {
        let file = self.file;
        for location in &file.empty_continuations {
            // BuildKit tells the last line of the instruction.
            let location = Location {
                line: location.end_line,
                column: 1,
                end_line: location.end_line,
            };
            self.warn(
                Rule::NoEmptyContinuation,
                &[],
                location,
                "Empty continuation line".to_owned(),
            );
        }
        self.check_names();
        self.check_casing();
        for stage in &file.stages {
            self.check_description(Rule::InvalidDefinitionDescription, stage);
        }
        let steps = file.stages.iter().flat_map(|stage| &stage.steps);
        for step in file.globals.iter().chain(steps) {
            match &step.instruction {
                Instruction::Maintainer(_) => {
                    let message = "Maintainer instruction is deprecated in favor of using label";
                    self.warn_step(Rule::MaintainerDeprecated, step, message.to_owned());
                }
                Instruction::Arg(declarations) => {
                    let names: Vec<&str> =
                        declarations.iter().map(|arg| arg.name.as_str()).collect();
                    if let Some(message) = description(&step.comments, "ARG", &names) {
                        self.warn_step(Rule::InvalidDefinitionDescription, step, message);
                    }
                }
                _ => {}
            }
        }
    }

    fn check_description(&mut self, rule: Rule, stage: &Stage) {
        let Some(name) = stage.name.as_deref() else {
            return;
        };
        if let Some(message) = description(&stage.comments, "FROM", &[name]) {
            self.warn_from(rule, stage, message);
        }
    }

    fn check_names(&mut self) {
        let mut names = BTreeSet::new();
        for stage in &self.file.stages {
            let written = &stage.written;
            let (Some(name), Some(own), Some(keyword)) =
                (&stage.name, &written.name, &written.keyword)
            else {
                continue;
            };
            if own != name {
                let message = format!("Stage name '{own}' should be lowercase");
                self.warn_from(Rule::StageNameCasing, stage, message);
            }
            if is_lower(&written.from) != is_lower(keyword) {
                let message = format!(
                    "'{keyword}' and '{}' keywords' casing do not match",
                    written.from
                );
                self.warn_from(Rule::FromAsCasing, stage, message);
            }
            if matches!(name.as_str(), "context" | "scratch") {
                let message = format!(
                    "Stage name should not use the same name as reserved stage {}",
                    quoted(name)
                );
                self.warn_from(Rule::ReservedStageName, stage, message);
            }
            if !names.insert(name) {
                let message = format!(
                    "Duplicate stage name {}, stage names should be unique",
                    quoted(name)
                );
                self.warn_from(Rule::DuplicateStageName, stage, message);
            }
        }
    }

    fn check_casing(&mut self) {
        let file = self.file;
        let words = file.stages.iter().flat_map(|stage| {
            let steps = stage.steps.iter().map(|step| step.written.as_str());
            std::iter::once(stage.written.from.as_str()).chain(steps)
        });
        let lower = words.clone().filter(|word| is_lower(word)).count();
        let upper = words.filter(|word| is_upper(word)).count();
        let message = |word: &str| {
            let (fits, casing) = match lower > upper {
                true => (is_lower(word), "lowercase"),
                false => (is_upper(word), "uppercase"),
            };
            let message = format!(
                "Command '{word}' should match the case of the command majority ({casing})"
            );
            (!fits).then_some(message)
        };
        for stage in &file.stages {
            if let Some(message) = message(&stage.written.from) {
                self.warn_from(Rule::ConsistentInstructionCasing, stage, message);
            }
            for step in &stage.steps {
                if let Some(message) = message(&step.written) {
                    self.warn_step(Rule::ConsistentInstructionCasing, step, message);
                }
            }
        }
    }

    /// Follows the stages as a build would.
    fn check_build(&mut self, options: &Options) -> Result<(), Error> {
        self.check_defaults(options);
        let globals = self
            .file
            .globals(options, &options.build_args, self.shell)?;
        let declared: BTreeSet<&str> = self
            .file
            .globals
            .iter()
            .filter_map(|step| match &step.instruction {
                Instruction::Arg(declarations) => Some(declarations),
                _ => None,
            })
            .flatten()
            .map(|declaration| declaration.name.as_str())
            .chain(globals.names())
            .collect();
        for stage in &self.file.stages {
            self.check_from(stage, &globals, &declared)?;
        }
        let plan = self.file.plan(options, self.shell)?;
        let mut states: Vec<Option<State>> = vec![None; self.file.stages.len()];
        for &index in &plan.order {
            if plan.stages[index].replaced {
                states[index] = Some(State::default());
                continue;
            }
            let state = self.check_stage(&plan, index, &states)?;
            states[index] = Some(state);
        }
        Ok(())
    }

    /// Whether each base is the name of an image without any build argument.
    fn check_defaults(&mut self, options: &Options) {
        let Ok(globals) = self.file.globals(options, &BTreeMap::new(), self.shell) else {
            return;
        };
        for stage in &self.file.stages {
            let Ok(base) = self.shell.expand(&stage.base, &globals) else {
                return;
            };
            if base.text.parse::<Reference>().is_err() {
                let message = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base
                );
                self.warn_from(Rule::InvalidDefaultArgInFrom, stage, message);
            }
        }
    }

    fn check_from(
        &mut self,
        stage: &Stage,
        globals: &Variables,
        declared: &BTreeSet<&str>,
    ) -> Result<(), Error> {
        let at = |error: Error| error.at(stage.location);
        let base = self.shell.expand(&stage.base, globals).map_err(at)?;
        self.check_declared(stage, &base, declared);
        let Some(written) = &stage.platform else {
            return Ok(());
        };
        let platform = self.shell.expand(written, globals).map_err(at)?;
        self.check_declared(stage, &platform, declared);
        let only = platform.matched.len() == 1 && platform.unmatched.is_empty();
        if only
            && platform.matched.contains("TARGETPLATFORM")
            && globals.get("TARGETPLATFORM") == Some(&platform.text)
        {
            let message = format!(
                "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            );
            self.warn_from(Rule::RedundantTargetPlatform, stage, message);
        }
        if platform.matched.is_empty() && platform.unmatched.is_empty() {
            let name = stage.name.as_deref().unwrap_or_default();
            let Ok(constant) = platform.text.parse::<Platform>() else {
                return Ok(());
            };
            if !name.contains(&constant.os) && !name.contains(&constant.architecture) {
                let message = format!(
                    "FROM --platform flag should not use constant value {}",
                    quoted(&platform.text)
                );
                self.warn_from(Rule::FromPlatformFlagConstDisallowed, stage, message);
            }
        }
        Ok(())
    }

    fn check_declared(&mut self, stage: &Stage, used: &Expansion, declared: &BTreeSet<&str>) {
        for name in used
            .unmatched
            .iter()
            .filter(|name| !declared.contains(name.as_str()))
        {
            let mut message = format!("FROM argument '{name}' is not declared");
            if let Some(close) = closest(name, declared.iter().copied()) {
                message.push_str(&format!(" (did you mean {close}?)"));
            }
            self.warn_from(Rule::UndefinedArgInFrom, stage, message);
        }
    }

    fn check_stage(
        &mut self,
        plan: &Plan,
        index: usize,
        states: &[Option<State>],
    ) -> Result<State, Error> {
        let file = self.file;
        let stage = &file.stages[index];
        let planned = &plan.stages[index];
        let mut state = match &planned.base {
            Input::Stage(base) => {
                let base = states[*base].clone().unwrap_or_default();
                self.shell
                    .spend(base.scope.size())
                    .map_err(|error| error.at(stage.location))?;
                base
            }
            Input::Scratch => State {
                scope: Scope::new(Variables::default()),
                known: true,
                ..State::default()
            },
            Input::Image(_) | Input::Context(_) => self.base_state(plan, index),
        };
        let triggers: Vec<Step> = planned.triggers.clone();
        let mut last = Last::default();
        for step in triggers.iter().chain(&stage.steps) {
            self.check_step(plan, step, &mut state)
                .map_err(|error| error.at(step.location))?;
            self.check_last(step, &mut last);
        }
        Ok(state)
    }

    fn base_state(&mut self, plan: &Plan, index: usize) -> State {
        let facts = self.facts;
        let Some(image) = facts.bases.get(&index) else {
            return State::default();
        };
        let stage = &self.file.stages[index];
        let expected = plan.stages[index]
            .platform
            .as_ref()
            .unwrap_or(plan.target_platform());
        if let Some(actual) = &image.platform
            && (actual.os != expected.os || actual.architecture != expected.architecture)
        {
            let message = format!(
                "Base image {} was pulled with platform \"{}\", expected \"{}\" for current build",
                stage.base,
                actual.normalized(),
                expected.normalized()
            );
            self.warn_from(Rule::InvalidBaseImagePlatform, stage, message);
        }
        let environment = image.environment.iter().map(String::as_str);
        State {
            scope: Scope::new(Variables::from_environment(environment)),
            known: true,
            has_shell: image.has_shell,
            has_workdir: false,
        }
    }

    fn check_last<'s>(&mut self, step: &'s Step, last: &mut Last<'s>) {
        let place = match &step.instruction {
            Instruction::Cmd(_) => &mut last.cmd,
            Instruction::Entrypoint(_) => &mut last.entrypoint,
            Instruction::Healthcheck(_) => &mut last.healthcheck,
            _ => return,
        };
        // The one that comes to nothing is told.
        if let Some(lost) = place.replace(step) {
            let message = format!(
                "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                step.written
            );
            self.warn_step(Rule::MultipleInstructionsDisallowed, lost, message);
        }
    }

    fn check_step(&mut self, plan: &Plan, step: &Step, state: &mut State) -> Result<(), Error> {
        let expanded = self.expand(step, state)?;
        match &expanded {
            Instruction::Arg(declarations) => {
                for declaration in declarations {
                    self.check_secret(step, "ARG", &declaration.name);
                    if let Some(default) = &declaration.default {
                        let used = self.shell.expand(default, state.scope.variables());
                        self.check_defined(
                            step,
                            state,
                            used.map(|used| used.unmatched).unwrap_or_default(),
                        );
                    }
                    state
                        .scope
                        .declare(plan, self.shell, std::slice::from_ref(declaration))?;
                }
            }
            Instruction::Env(pairs) => {
                self.check_pairs(step, pairs);
                for pair in pairs {
                    self.check_secret(step, "ENV", &pair.key);
                }
                state.scope.set(pairs);
            }
            Instruction::Label(pairs) => self.check_pairs(step, pairs),
            Instruction::Cmd(Command::Shell(_)) | Instruction::Entrypoint(Command::Shell(_))
                if !state.has_shell =>
            {
                let message = format!(
                    "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                    step.written
                );
                self.warn_step(Rule::JSONArgsRecommended, step, message);
            }
            Instruction::Shell(_) => state.has_shell = true,
            Instruction::Workdir(path) => {
                if !state.has_workdir && !path.starts_with('/') {
                    let message = format!(
                        "Relative workdir {} can have unexpected results if the base image changes",
                        quoted(path)
                    );
                    self.warn_step(Rule::WorkdirRelativePath, step, message);
                }
                state.has_workdir = true;
            }
            Instruction::Expose(ports) => {
                self.check_ports(step, ports);
                expose::exposed_ports(ports)?;
            }
            Instruction::Copy(copy) if copy.from.is_none() => {
                self.check_ignored(step, "Copy", &copy.transfer)?;
            }
            Instruction::Add(add) => self.check_ignored(step, "Add", &add.transfer)?,
            _ => {}
        }
        Ok(())
    }

    /// Expands a step and tells the names in it that have no value.
    fn expand(&mut self, step: &Step, state: &State) -> Result<Instruction, Error> {
        let mut unmatched = BTreeSet::new();
        let shell = self.shell;
        let variables = state.scope.variables();
        let mut expand = |place, text: &str| {
            let expansion = match place {
                Place::Word => shell.expand(text, variables),
                Place::Document => shell.expand_document(text, variables),
            }?;
            unmatched.extend(expansion.unmatched.iter().cloned());
            Ok(expansion)
        };
        let expanded = step.instruction.expand_with(&mut expand)?;
        if let Instruction::Run(run) = &step.instruction {
            for mount in &run.mounts {
                mount.resolve_with(&mut |value| expand(Place::Word, value))?;
            }
        }
        self.check_defined(step, state, unmatched);
        Ok(expanded)
    }

    fn check_defined(&mut self, step: &Step, state: &State, unmatched: BTreeSet<String>) {
        if !state.known || self.is_full() {
            return;
        }
        for name in unmatched {
            if self.is_full() || state.scope.is_declared(&name) || SETTINGS.contains(&name.as_str())
            {
                continue;
            }
            let mut message = format!("Usage of undefined variable '${name}'");
            if let Some(close) = closest(&name, state.scope.variables().names()) {
                message.push_str(&format!(" (did you mean ${close}?)"));
            }
            self.warn_step(Rule::UndefinedVar, step, message);
        }
    }

    fn check_pairs(&mut self, step: &Step, pairs: &[KeyValue]) {
        for _ in pairs.iter().filter(|pair| pair.legacy) {
            let name = &step.written;
            let message = format!(
                "\"{name} key=value\" should be used instead of legacy \"{name} key value\" format"
            );
            self.warn_step(Rule::LegacyKeyValueFormat, step, message);
        }
    }

    fn check_secret(&mut self, step: &Step, instruction: &str, name: &str) {
        if is_secret(name) {
            let message = format!(
                "Do not use ARG or ENV instructions for sensitive data ({instruction} {})",
                quoted(name)
            );
            self.warn_step(Rule::SecretsUsedInArgOrEnv, step, message);
        }
    }

    fn check_ports(&mut self, step: &Step, ports: &[String]) {
        for port in ports {
            let parts = expose::parts(port);
            if !parts.address.is_empty() || !parts.host.is_empty() {
                let message = format!(
                    "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                );
                self.warn_step(Rule::ExposeInvalidFormat, step, message);
            }
            let protocol = parts
                .container
                .split_once('/')
                .map_or("", |(_, protocol)| protocol);
            if !is_lower(protocol) {
                let message =
                    format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                self.warn_step(Rule::ExposeProtoCasing, step, message);
            }
        }
    }

    fn check_ignored(&mut self, step: &Step, verb: &str, transfer: &Transfer) -> Result<(), Error> {
        Ignore::from_patterns(transfer.exclude.iter().map(String::as_str))?;
        let facts = self.facts;
        // With exceptions a directory can be ignored and its files not.
        let Some(ignore) = facts
            .ignore
            .as_ref()
            .filter(|ignore| !ignore.has_exceptions())
        else {
            return Ok(());
        };
        for source in &transfer.sources {
            let Source::Path(path) = source else { continue };
            if is_remote(path) {
                continue;
            }
            let clean = sampan_text::path::clean(path);
            let relative = clean.trim_start_matches('/');
            let is_root = matches!(relative, "" | ".");
            let ignored = match is_root {
                true => ignore
                    .patterns()
                    .any(|pattern| matches!(pattern.as_str(), "*" | "**" | "**/*")),
                false => ignore.is_ignored(relative),
            };
            if ignored {
                let message = format!(
                    "Attempting to {verb} file {} that is excluded by .dockerignore",
                    quoted(if is_root { &clean } else { relative })
                );
                self.warn_step(Rule::CopyIgnoredFile, step, message);
            }
        }
        Ok(())
    }
}

fn is_lower(word: &str) -> bool {
    !word.contains(|c: char| c.is_ascii_uppercase())
}

fn is_upper(word: &str) -> bool {
    !word.contains(|c: char| c.is_ascii_lowercase())
}

fn is_remote(path: &str) -> bool {
    ["http://", "https://", "git@", "git://", "ssh://"]
        .iter()
        .any(|scheme| path.starts_with(scheme))
}

/// `check=…` in a comment in front of an instruction holds for that instruction.
fn own_checks(comment: &str) -> Option<Checks> {
    let rest = comment
        .strip_prefix("check")?
        .trim_start()
        .strip_prefix('=')?;
    Checks::parse(rest.trim()).ok()
}

/// What is wrong with the last comment in front of names, if it is a description of none of them.
fn description(comments: &[String], instruction: &str, names: &[&str]) -> Option<String> {
    let last = comments
        .last()
        .filter(|comment| own_checks(comment).is_none())?;
    let first = last.split(' ').next().unwrap_or_default();
    if names.contains(&first) {
        return None;
    }
    let example = match names {
        [name] => name,
        _ => "<arg_key>",
    };
    Some(format!(
        "Comment for {instruction} should follow the format: `# {example} <description>`"
    ))
}

/// Names with a word that tells of a secret, and none that tells of something else.
fn is_secret(name: &str) -> bool {
    const SECRET: [&str; 10] = [
        "apikey",
        "auth",
        "credential",
        "credentials",
        "key",
        "password",
        "pword",
        "passwd",
        "secret",
        "token",
    ];
    const HARMLESS: [&str; 3] = ["public", "file", "version"];
    let lower = name.to_lowercase();
    let has = |words: &[&str]| lower.split('_').any(|part| words.contains(&part));
    has(&SECRET) && !has(&HARMLESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lint(text: &str, options: &Options, facts: &Facts) -> Lint {
        let file = Dockerfile::parse(text.as_bytes()).unwrap();
        file.lint(options, &file.shell(), facts)
    }

    fn warnings(text: &str) -> Vec<(u32, &'static str, String)> {
        let lint = lint(text, &Options::default(), &Facts::default());
        assert_eq!(lint.error, None, "{text}");
        let short =
            |warning: Warning| (warning.location.line, warning.rule.name(), warning.message);
        lint.warnings.into_iter().map(short).collect()
    }

    #[test]
    fn rules_are_broken_where_buildkit_sees_it() {
        type Expected<'a> = &'a [(u32, &'a str, &'a str)];
        let cases: &[(&str, Expected<'_>)] = &[
            (
                "FROM scratch AS BadName\nFROM scratch as b\nFROM scratch AS c\n",
                &[
                    (
                        1,
                        "StageNameCasing",
                        "Stage name 'BadName' should be lowercase",
                    ),
                    (
                        2,
                        "FromAsCasing",
                        "'as' and 'FROM' keywords' casing do not match",
                    ),
                ],
            ),
            (
                "from scratch AS base\n",
                &[(
                    1,
                    "FromAsCasing",
                    "'AS' and 'from' keywords' casing do not match",
                )],
            ),
            (
                "FROM scratch\nCOPY a \\\n\n.\nCOPY b \\\n.\n",
                &[(4, "NoEmptyContinuation", "Empty continuation line")],
            ),
            (
                "FROM scratch\ncopy a /b\nCOPY a /c\n",
                &[(
                    2,
                    "ConsistentInstructionCasing",
                    "Command 'copy' should match the case of the command majority (uppercase)",
                )],
            ),
            (
                "from scratch\ncopy a /b\nCOPY a /c\n",
                &[(
                    3,
                    "ConsistentInstructionCasing",
                    "Command 'COPY' should match the case of the command majority (lowercase)",
                )],
            ),
            (
                "From scratch\nfrom scratch as b\n",
                &[(
                    1,
                    "ConsistentInstructionCasing",
                    "Command 'From' should match the case of the command majority (lowercase)",
                )],
            ),
            (
                "FROM scratch AS b\nFROM scratch AS b\nFROM scratch AS context\n",
                &[
                    (
                        2,
                        "DuplicateStageName",
                        "Duplicate stage name \"b\", stage names should be unique",
                    ),
                    (
                        3,
                        "ReservedStageName",
                        "Stage name should not use the same name as reserved stage \"context\"",
                    ),
                ],
            ),
            (
                "FROM scratch\nENTRYPOINT a\nCMD [\"b\"]\nFROM scratch\nSHELL [\"x\"]\nCMD c\n",
                &[(
                    2,
                    "JSONArgsRecommended",
                    "JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
                )],
            ),
            (
                "FROM scratch\nMAINTAINER me\n",
                &[(
                    2,
                    "MaintainerDeprecated",
                    "Maintainer instruction is deprecated in favor of using label",
                )],
            ),
            (
                "ARG a=x\nARG version\nFROM $a\nFROM x:$versio\nFROM --platform=$TARGETPLATFROM$BUILDPLATFORM x\n",
                &[
                    (
                        4,
                        "InvalidDefaultArgInFrom",
                        "Default value for ARG x:$versio results in empty or invalid base image name",
                    ),
                    (
                        4,
                        "UndefinedArgInFrom",
                        "FROM argument 'versio' is not declared (did you mean version?)",
                    ),
                    (
                        5,
                        "UndefinedArgInFrom",
                        "FROM argument 'TARGETPLATFROM' is not declared (did you mean TARGETPLATFORM?)",
                    ),
                ],
            ),
            (
                "FROM scratch\nENV x=1 foo=2\nCOPY $x $fo /\nARG z\nLABEL a=$z b=$q\n",
                &[
                    (
                        3,
                        "UndefinedVar",
                        "Usage of undefined variable '$fo' (did you mean $foo?)",
                    ),
                    (5, "UndefinedVar", "Usage of undefined variable '$q'"),
                ],
            ),
            ("FROM alpine\nCOPY $anything /\n", &[]),
            (
                "FROM scratch AS a\nWORKDIR app\nWORKDIR b\nFROM a\nWORKDIR c\nFROM scratch\nWORKDIR /x\nWORKDIR y\n",
                &[(
                    2,
                    "WorkdirRelativePath",
                    "Relative workdir \"app\" can have unexpected results if the base image changes",
                )],
            ),
            (
                "FROM scratch\nCMD [\"a\"]\nCMD [\"b\"]\nHEALTHCHECK NONE\nHEALTHCHECK NONE\nFROM scratch\nCMD [\"c\"]\n",
                &[
                    (
                        2,
                        "MultipleInstructionsDisallowed",
                        "Multiple CMD instructions should not be used in the same stage because only the last one will be used",
                    ),
                    (
                        4,
                        "MultipleInstructionsDisallowed",
                        "Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used",
                    ),
                ],
            ),
            (
                "FROM scratch\nENV a b\nLABEL c d\n",
                &[
                    (
                        2,
                        "LegacyKeyValueFormat",
                        "\"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
                    ),
                    (
                        3,
                        "LegacyKeyValueFormat",
                        "\"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
                    ),
                ],
            ),
            (
                "FROM --platform=$TARGETPLATFORM alpine\nFROM --platform=linux/amd64 alpine\nFROM --platform=linux/amd64 alpine AS build-amd64\nFROM --platform=$BUILDPLATFORM alpine\n",
                &[
                    (
                        1,
                        "RedundantTargetPlatform",
                        "Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
                    ),
                    (
                        2,
                        "FromPlatformFlagConstDisallowed",
                        "FROM --platform flag should not use constant value \"linux/amd64\"",
                    ),
                ],
            ),
            (
                "FROM scratch\nARG API_KEY\nENV DATABASE_PASSWORD=x AUTHOR=y PUBLIC_KEY=z KEYS=k KEY_FILE=f\n",
                &[
                    (
                        2,
                        "SecretsUsedInArgOrEnv",
                        "Do not use ARG or ENV instructions for sensitive data (ARG \"API_KEY\")",
                    ),
                    (
                        3,
                        "SecretsUsedInArgOrEnv",
                        "Do not use ARG or ENV instructions for sensitive data (ENV \"DATABASE_PASSWORD\")",
                    ),
                ],
            ),
            ("ARG I\nARG T=latest\nFROM x:$T\nFROM busybox:$I$T\n", &[]),
            (
                "FROM scratch\nEXPOSE 80/TcP 127.0.0.1:80:80 5:5 90/udp\n",
                &[
                    (
                        2,
                        "ExposeInvalidFormat",
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:80:80'",
                    ),
                    (
                        2,
                        "ExposeInvalidFormat",
                        "EXPOSE instruction should not define an IP address or host-port mapping, found '5:5'",
                    ),
                    (
                        2,
                        "ExposeProtoCasing",
                        "Defined protocol '80/TcP' in EXPOSE instruction should be lowercase",
                    ),
                ],
            ),
            (
                "# check=skip=StageNameCasing,FromAsCasing\nFROM scratch as A\n",
                &[],
            ),
            ("# check=skip=all\nFROM scratch as A\nMAINTAINER x\n", &[]),
            (
                "FROM scratch\n# check=skip=JSONArgsRecommended\nCMD a\n",
                &[],
            ),
            (
                "# check=experimental=all\n\n# wrong\nARG a\n# base is described\nFROM scratch AS base\n# x\n# two more\nARG b c\n# a far comment\n\nARG d\n",
                &[
                    (
                        4,
                        "InvalidDefinitionDescription",
                        "Comment for ARG should follow the format: `# a <description>`",
                    ),
                    (
                        9,
                        "InvalidDefinitionDescription",
                        "Comment for ARG should follow the format: `# <arg_key> <description>`",
                    ),
                ],
            ),
            ("# described\nFROM scratch AS base\n", &[]),
        ];
        for (text, expected) in cases {
            let expected: Vec<_> = expected
                .iter()
                .map(|(line, rule, text)| (*line, *rule, (*text).to_owned()))
                .collect();
            assert_eq!(warnings(text), expected, "{text}");
        }
    }

    #[test]
    fn broken_rules_are_errors_when_the_file_says_so() {
        let facts = Facts::default();
        let failing = lint(
            "# check=error=true\nFROM scratch as A\n",
            &Options::default(),
            &facts,
        );
        let error = failing.violation().unwrap();
        assert_eq!(
            error.message(),
            "lint violation found for rules: FromAsCasing, StageNameCasing"
        );
        assert_eq!(
            lint("FROM scratch as A\n", &Options::default(), &facts).violation(),
            None
        );
        let wrong = lint("# check=warn\nFROM scratch\n", &Options::default(), &facts);
        assert_eq!(
            wrong.error.unwrap().message(),
            "invalid check option \"warn\""
        );
    }

    #[test]
    fn files_that_the_context_does_not_have_are_told() {
        let text = "FROM scratch\nCOPY /a/b c .git /x/\nADD c https://c /y/\nCOPY . /z\nCOPY --from=x c /w\n";
        let messages = |patterns: &[&str]| -> Vec<String> {
            let ignore = Some(Ignore::from_patterns(patterns.iter().copied()).unwrap());
            let facts = Facts {
                ignore,
                ..Facts::default()
            };
            let lint = lint(text, &Options::default(), &facts);
            lint.warnings
                .into_iter()
                .map(|warning| warning.message)
                .collect()
        };
        assert_eq!(
            messages(&["a", "c"]),
            [
                "Attempting to Copy file \"a/b\" that is excluded by .dockerignore",
                "Attempting to Copy file \"c\" that is excluded by .dockerignore",
                "Attempting to Add file \"c\" that is excluded by .dockerignore",
            ]
        );
        assert_eq!(messages(&["a", "c", "!d"]), [""; 0]);
        assert!(messages(&["*"]).contains(
            &"Attempting to Copy file \".\" that is excluded by .dockerignore".to_owned()
        ));
    }

    #[test]
    fn what_is_known_of_base_images_is_used() {
        let facts = Facts {
            bases: [(
                0,
                BaseImage {
                    environment: vec!["HOME=/root".to_owned()],
                    platform: Some("linux/arm64".parse().unwrap()),
                    has_shell: true,
                },
            )]
            .into(),
            ..Facts::default()
        };
        let options = Options {
            target_platform: "linux/amd64".parse().unwrap(),
            ..Options::default()
        };
        let lint = lint("FROM alpine\nCOPY $HOME $HOM /\nCMD x\n", &options, &facts);
        let messages: Vec<_> = lint
            .warnings
            .iter()
            .map(|warning| warning.message.as_str())
            .collect();
        assert_eq!(
            messages,
            [
                "Base image alpine was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build",
                "Usage of undefined variable '$HOM' (did you mean $HOME?)",
            ]
        );
    }

    #[test]
    fn only_the_target_and_what_it_needs_is_followed() {
        let text = "FROM scratch AS a\nENV x y\nFROM scratch AS b\nENV x y\n";
        let options = Options {
            target: Some("a".to_owned()),
            ..Options::default()
        };
        assert_eq!(lint(text, &options, &Facts::default()).warnings.len(), 1);
        assert_eq!(
            lint(text, &Options::default(), &Facts::default())
                .warnings
                .len(),
            2
        );
    }
}
