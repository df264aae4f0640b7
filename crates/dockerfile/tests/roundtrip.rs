//! What is written is what is read, and what is expanded is what was meant.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;
use sampan_dockerfile::{
    Command, Dockerfile, Healthcheck, Instruction, KeyValue, Script, Source, Variables,
};

/// Text that no shell and no JSON would leave alone.
fn text() -> impl Strategy<Value = String> {
    "[a-z $'\"\\\\{}<=#é`\\[\\],]{1,12}"
}

fn name() -> impl Strategy<Value = String> {
    "[A-Za-z_][A-Za-z0-9_]{0,8}"
}

/// The text in single quotes, with those of its own outside.
fn single_quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

fn json(words: &[String]) -> String {
    serde_json::to_string(words).unwrap()
}

fn only(source: &str) -> Result<Instruction, TestCaseError> {
    let file = Dockerfile::parse(format!("FROM scratch\n{source}\nUSER last\n").as_bytes());
    let file = file.map_err(|error| TestCaseError::fail(format!("{source}\n{error}")))?;
    prop_assert_eq!(file.stages[0].steps.len(), 2, "{}", source);
    Ok(file.stages[0].steps[0].instruction.clone())
}

fn expanded(instruction: &Instruction) -> Instruction {
    let shell = sampan_dockerfile::Shell::new('\\');
    instruction.expand(&shell, &Variables::default()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    #[test]
    fn quoted_values_come_back(
        pairs in prop::collection::vec((name(), text()), 1..5),
        keyword in prop::sample::select(vec!["ENV", "LABEL", "env"]),
        gap in prop::sample::select(vec![" ", "  \t", " \\\n  ", " \\\n# between\n\n "]),
    ) {
        let written: Vec<String> = pairs.iter().map(|(key, value)| format!("{key}={}", single_quoted(value))).collect();
        let source = format!("{keyword} {}", written.join(gap));
        let expected: Vec<KeyValue> = pairs.into_iter().map(|(key, value)| KeyValue { key, value, legacy: false }).collect();
        match expanded(&only(&source)?) {
            Instruction::Env(got) | Instruction::Label(got) => prop_assert_eq!(got, expected, "{}", source),
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn exec_forms_come_back(
        words in prop::collection::vec(text(), 1..5),
        keyword in prop::sample::select(vec!["CMD", "ENTRYPOINT", "RUN", "SHELL", "HEALTHCHECK CMD"]),
    ) {
        let source = format!("{keyword} {}", json(&words));
        match only(&source)? {
            Instruction::Cmd(Command::Exec(got)) | Instruction::Entrypoint(Command::Exec(got)) | Instruction::Shell(got) => {
                prop_assert_eq!(got, words);
            }
            Instruction::Run(run) => prop_assert_eq!(run.script(), Script::Exec(words)),
            Instruction::Healthcheck(Healthcheck::Test { command: Command::Exec(got), .. }) => {
                prop_assert_eq!(got, words);
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn sources_and_flags_come_back(
        sources in prop::collection::vec("[a-z.*/]{1,8}", 1..5),
        destination in "[a-z./]{1,8}",
        flags in prop::collection::btree_map(prop::sample::select(vec!["chown", "from"]), "[a-z0-9: ]{1,6}[a-z]", 0..3),
        exclude in prop::collection::vec("[a-z*/]{1,6}", 0..3),
        link in any::<bool>(),
    ) {
        let mut source = "COPY".to_owned();
        for (flag, value) in &flags {
            source.push_str(&format!(" --{flag}=\"{value}\""));
        }
        for pattern in &exclude {
            source.push_str(&format!(" --exclude={pattern}"));
        }
        if link {
            source.push_str(" --link");
        }
        source.push_str(&format!(" {} {destination}", sources.join(" ")));
        let Instruction::Copy(copy) = only(&source)? else {
            return Err(TestCaseError::fail(source));
        };
        let expected: Vec<Source> = sources.into_iter().map(Source::Path).collect();
        prop_assert_eq!(copy.transfer.sources, expected);
        prop_assert_eq!(copy.transfer.destination, destination);
        prop_assert_eq!(copy.transfer.exclude, exclude);
        prop_assert_eq!(copy.transfer.link, link);
        prop_assert_eq!(copy.transfer.chown.as_ref(), flags.get("chown"));
        prop_assert_eq!(copy.from.as_ref(), flags.get("from"));
    }

    #[test]
    fn documents_come_back(
        bodies in prop::collection::vec(prop::collection::vec("[ \\ta-z#$'\"\\\\]{0,10}", 0..5), 1..4),
        quoted in any::<bool>(),
    ) {
        let mut head = "COPY".to_owned();
        let mut rest = String::new();
        let mut expected = Vec::new();
        for (number, lines) in bodies.iter().enumerate() {
            head.push_str(&if quoted { format!(" <<'END{number}'") } else { format!(" <<END{number}") });
            let body: String = lines.iter().map(|line| format!("{line}\n")).collect();
            rest.push_str(&format!("{body}END{number}\n"));
            expected.push(body);
        }
        let Instruction::Copy(copy) = only(&format!("{head} /x/\n{rest}"))? else {
            return Err(TestCaseError::fail(head));
        };
        let got: Vec<String> = copy.transfer.sources.iter().map(|source| match source {
            Source::Document(document) => {
                assert_eq!(document.expand, !quoted);
                document.text()
            }
            Source::Path(path) => path.clone(),
        }).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn a_trigger_reads_as_what_it_was(body in "[a-z $'\"|&]{1,20}[a-z]", documents in any::<bool>()) {
        let source = match documents {
            true => format!("RUN <<EOF\n{body}\nEOF"),
            false => format!("RUN {body}"),
        };
        let Instruction::Onbuild(trigger) = only(&format!("ONBUILD {source}"))? else {
            return Err(TestCaseError::fail(source));
        };
        prop_assert_eq!(&*trigger.instruction, &only(&trigger.expression)?);
        prop_assert_eq!(&*trigger.instruction, &only(&source)?);
    }
}
