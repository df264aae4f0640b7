//! Dockerfiles as people write them, against what they are read as.

#![allow(clippy::unwrap_used)]

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use parse_dockerfile::Instruction as Other;
use sampan_dockerfile::{Command, Dockerfile, Instruction, Options, Step};

fn corpus() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let entries = fs::read_dir(directory).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

fn name(path: &Path) -> &str {
    path.file_stem().unwrap().to_str().unwrap()
}

/// One line for each instruction.
fn outline(file: &Dockerfile) -> String {
    let mut out = String::new();
    let line = |out: &mut String, step: &Step| {
        let place = format!(
            "{}:{}-{}",
            step.location.line, step.location.column, step.location.end_line
        );
        let instruction = serde_json::to_string(&step.instruction).unwrap();
        writeln!(out, "  {place} {} {instruction}", step.written).unwrap();
    };
    writeln!(out, "{}", serde_json::to_string(&file.directives).unwrap()).unwrap();
    for step in &file.globals {
        line(&mut out, step);
    }
    for stage in &file.stages {
        let parts = (
            stage.location.line,
            &stage.base,
            &stage.name,
            &stage.platform,
            &stage.comment,
        );
        writeln!(out, "{parts:?}").unwrap();
        for step in &stage.steps {
            line(&mut out, step);
        }
    }
    out
}

#[test]
fn dockerfiles_are_read_as_recorded() {
    for path in corpus() {
        let file = Dockerfile::parse(&fs::read(&path).unwrap()).unwrap();
        insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name(&path), outline(&file));
        });
    }
}

#[test]
fn dockerfiles_can_be_planned_and_checked() {
    let mut out = String::new();
    for path in corpus() {
        let file = Dockerfile::parse(&fs::read(&path).unwrap()).unwrap();
        let options = Options {
            build_platform: "linux/arm64".parse().unwrap(),
            target_platform: "linux/amd64".parse().unwrap(),
            ..Options::default()
        };
        let shell = file.shell();
        writeln!(out, "{}", name(&path)).unwrap();
        match file.plan(&options, &shell) {
            Ok(plan) => {
                for index in plan.order {
                    let stage = &plan.stages[index];
                    writeln!(
                        out,
                        "  {} on {:?}, needs {:?}",
                        stage.name, stage.base, stage.needs
                    )
                    .unwrap();
                }
            }
            Err(error) => writeln!(out, "  {error}").unwrap(),
        }
        let lint = file.lint(&options, &shell, &Default::default());
        for warning in lint.warnings {
            writeln!(
                out,
                "  {}: {}: {}",
                warning.location.line, warning.rule, warning.message
            )
            .unwrap();
        }
    }
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("plans-and-checks", out);
    });
}

#[test]
fn mistakes_are_shown_as_recorded() {
    let mistakes = [
        "",
        "# nothing\n",
        "ARG a\n",
        "RUN a\nFROM b\n",
        "FROM a\nRNU echo\n",
        "FROM a\n\\\n",
        "FROM\n",
        "FROM a b\n",
        "FROM a AS 1x\n",
        "FROM a as b c\n",
        "FROM --platfrom=x a\n",
        "FROM --platform a\n",
        "FROM --platform=a --platform=b c\n",
        "# escape=x\nFROM a\n",
        "# syntax=a\n# syntax=b\nFROM a\n",
        "FROM a\nCOPY b\n",
        "FROM a\nCOPY \\\n  --chwon=1 b c\n",
        "FROM a\nCOPY --link=maybe b c\n",
        "FROM a\nCOPY --link= b c\n",
        "FROM a\nCOPY --from=$x b c\n",
        "FROM a\nCOPY --chmod=rwx b c\n",
        "FROM a\nCOPY b <<EOF\nEOF\n",
        "FROM a\nCOPY <<EOF /b\nnever ends\n",
        "FROM a\nADD --checksum=x b c d\n",
        "FROM a\nADD --parents b c\n",
        "FROM a\nADD [\"a\", 1]\n",
        "FROM a\nENV\n",
        "FROM a\nENV a\n",
        "FROM a\nENV a=1 b\n",
        "FROM a\nENV =1\n",
        "FROM a\nARG\n",
        "FROM a\nARG =1\n",
        "FROM a\nLABEL --x a=b\n",
        "FROM a\nRUN --mount=type=cahce,target=/a b\n",
        "FROM a\nRUN --mount=target=/a \\\n    --mount=from=$b,target=/c \\\n    d\n",
        "FROM a\nRUN --network=bridge b\n",
        "FROM a\nRUN --security=none b\n",
        "FROM a\nRUN [\"a\", 1]\n",
        "FROM a\nEXPOSE\n",
        "FROM a\nVOLUME\n",
        "FROM a\nVOLUME [\" \"]\n",
        "FROM a\nUSER\n",
        "FROM a\nWORKDIR\n",
        "FROM a\nSTOPSIGNAL\n",
        "FROM a\nMAINTAINER --boo joe@example.com\n",
        "FROM a\nSHELL /bin/sh -c\n",
        "FROM a\nSHELL []\n",
        "FROM a\nHEALTHCHECK\n",
        "FROM a\nHEALTHCHECK NONE x\n",
        "FROM a\nHEALTHCHECK CMD\n",
        "FROM a\nHEALTHCHECK TCP x\n",
        "FROM a\nHEALTHCHECK --interval=5 CMD x\n",
        "FROM a\nHEALTHCHECK --interval=1us CMD x\n",
        "FROM a\nHEALTHCHECK --retries=-1 CMD x\n",
        "FROM a\nONBUILD\n",
        "FROM a\nONBUILD ONBUILD RUN x\n",
        "FROM a\nONBUILD from x\n",
        "FROM a\nONBUILD   CPOY a b\n",
        "FROM a\nONBUILD COPY --x=1 a b\n",
    ];
    let mut out = String::new();
    for source in mistakes {
        let error = Dockerfile::parse(source.as_bytes()).unwrap_err();
        writeln!(
            out,
            "{:?}\n{}",
            error.kind(),
            error.render("Dockerfile", source)
        )
        .unwrap();
    }
    insta::with_settings!({prepend_module_to_snapshot => false, omit_expression => true}, {
        insta::assert_snapshot!("mistakes", out);
    });
}

/// The other parser knows one document only, at the beginning; no empty commands,
/// no end of flags, and no bytes that are no text.
const NOT_FOR_THE_OTHER: [&str; 3] = ["heredocs", "case-and-blanks", "old-encoding"];

#[test]
fn another_parser_reads_the_same_instructions() {
    for path in corpus()
        .iter()
        .filter(|path| !NOT_FOR_THE_OTHER.contains(&name(path)))
    {
        let source = fs::read_to_string(path).unwrap();
        let file = Dockerfile::parse(source.as_bytes()).unwrap();
        let other = parse_dockerfile::parse(&source)
            .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut own = Vec::new();
        for step in &file.globals {
            own.push(summary(&step.instruction));
        }
        for stage in &file.stages {
            let name = stage.name.as_deref().unwrap_or_default();
            own.push(format!("FROM {} {name}", stage.base));
            own.extend(stage.steps.iter().map(|step| summary(&step.instruction)));
        }
        let others: Vec<String> = other.instructions.iter().map(other_summary).collect();
        assert_eq!(own, others, "{}", path.display());
    }
}

fn command(command: &Command) -> String {
    match command {
        Command::Exec(words) => words.join("|"),
        Command::Shell(_) => "shell".to_owned(),
    }
}

fn summary(instruction: &Instruction) -> String {
    let detail = match instruction {
        Instruction::Cmd(line) | Instruction::Entrypoint(line) => command(line),
        Instruction::Run(run) => format!(
            "{} {} {}",
            command(&run.command),
            run.mounts.len(),
            run.documents.len()
        ),
        Instruction::Copy(copy) => format!(
            "{} {}",
            copy.transfer.sources.len(),
            copy.transfer.destination
        ),
        Instruction::Add(add) => format!(
            "{} {}",
            add.transfer.sources.len(),
            add.transfer.destination
        ),
        Instruction::Shell(words) => words.join("|"),
        Instruction::Expose(ports) => ports.join("|"),
        Instruction::Onbuild(trigger) => summary(&trigger.instruction),
        _ => String::new(),
    };
    format!("{} {detail}", instruction.name())
}

fn other_summary(instruction: &Other<'_>) -> String {
    use parse_dockerfile::Command as OtherCommand;
    let command = |command: &OtherCommand<'_>| match command {
        OtherCommand::Exec(words) => {
            let words: Vec<&str> = words.value.iter().map(|word| &*word.value).collect();
            words.join("|")
        }
        _ => "shell".to_owned(),
    };
    match instruction {
        Other::From(from) => {
            let name = from.as_.as_ref().map(|(_, name)| name.value.to_lowercase());
            format!("FROM {} {}", from.image.value, name.unwrap_or_default())
        }
        Other::Add(add) => format!("ADD {} {}", add.src.len(), add.dest.value),
        Other::Arg(_) => "ARG ".to_owned(),
        Other::Cmd(cmd) => format!("CMD {}", command(&cmd.arguments)),
        Other::Copy(copy) => format!("COPY {} {}", copy.src.len(), copy.dest.value),
        Other::Entrypoint(entry) => format!("ENTRYPOINT {}", command(&entry.arguments)),
        Other::Env(_) => "ENV ".to_owned(),
        Other::Expose(expose) => {
            let mut ports: Vec<&str> = expose.arguments.iter().map(|port| &*port.value).collect();
            ports.sort_unstable();
            format!("EXPOSE {}", ports.join("|"))
        }
        Other::Healthcheck(_) => "HEALTHCHECK ".to_owned(),
        Other::Label(_) => "LABEL ".to_owned(),
        Other::Maintainer(_) => "MAINTAINER ".to_owned(),
        Other::Onbuild(onbuild) => format!("ONBUILD {}", other_summary(&onbuild.instruction)),
        Other::Run(run) => {
            let mounts = run
                .options
                .iter()
                .filter(|flag| flag.name.value == "mount")
                .count();
            format!(
                "RUN {} {mounts} {}",
                command(&run.arguments),
                run.here_docs.len()
            )
        }
        Other::Shell(shell) => {
            let words: Vec<&str> = shell.arguments.iter().map(|word| &*word.value).collect();
            format!("SHELL {}", words.join("|"))
        }
        Other::Stopsignal(_) => "STOPSIGNAL ".to_owned(),
        Other::User(_) => "USER ".to_owned(),
        Other::Volume(_) => "VOLUME ".to_owned(),
        Other::Workdir(_) => "WORKDIR ".to_owned(),
        other => panic!("{other:?}"),
    }
}
