//! What no person would write.

use proptest::prelude::*;
use sampan_dockerfile::{
    Dockerfile, Facts, Ignore, Instruction, Options, Scope, Shell, Variables, detect_syntax,
};

/// Everything that can be done with a file.
fn exercise(source: &[u8]) {
    detect_syntax(source);
    let text = String::from_utf8_lossy(source);
    let file = match Dockerfile::parse(source) {
        Ok(file) => file,
        Err(error) => {
            error.render("Dockerfile", &text);
            return;
        }
    };
    let shell = file.shell();
    let options = Options::default();
    for warning in file
        .lint(&options, &shell, &Facts::default())
        .warnings
        .iter()
        .take(3)
    {
        warning.render("Dockerfile", &text);
    }
    let shell = file.shell();
    let Ok(plan) = file.plan(&options, &shell) else {
        return;
    };
    let mut scope = Scope::new(Variables::default());
    for step in file.stages.iter().flat_map(|stage| &stage.steps) {
        match step.instruction.expand(&shell, scope.variables()) {
            Ok(Instruction::Arg(declarations)) => {
                let _ = scope.declare(&plan, &shell, &declarations);
            }
            Ok(Instruction::Env(pairs)) => scope.set(&pairs),
            Ok(Instruction::Run(run)) => {
                run.script();
                for mount in &run.mounts {
                    let _ = mount.resolve(&shell, scope.variables());
                }
            }
            _ => {}
        }
    }
}

/// Pieces that mean something, in any order.
fn soup() -> impl Strategy<Value = String> {
    let piece = prop::sample::select(vec![
        "FROM ",
        "from scratch",
        " AS a",
        "\n",
        "\n",
        "\r\n",
        " ",
        "\t",
        "\\",
        "\\\n",
        "`",
        "# ",
        "# escape=`\n",
        "# check=skip=all\n",
        "RUN ",
        "COPY ",
        "ADD ",
        "ENV ",
        "ARG ",
        "LABEL ",
        "ONBUILD ",
        "CMD ",
        "SHELL ",
        "HEALTHCHECK ",
        "EXPOSE ",
        "VOLUME ",
        "USER ",
        "WORKDIR ",
        "STOPSIGNAL ",
        "ENTRYPOINT ",
        "MAINTAINER ",
        "--mount=",
        "type=cache,",
        "target=/a",
        "--from=a",
        "--from=0 ",
        "--chown=",
        "--",
        "--interval=1s ",
        "<<EOF",
        "<<-'E'",
        "EOF\n",
        "E\n",
        "<<",
        "$x",
        "${x:-",
        "${x%",
        "${x//",
        "}",
        "/",
        "'",
        "\"",
        "[\"a\"]",
        "[",
        "]",
        "=",
        "a=b",
        "1",
        "80/tcp",
        "é",
        "\u{a0}",
        "\u{feff}",
        "NONE",
        "*",
        "?",
    ]);
    prop::collection::vec(piece, 0..60).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        exercise(&bytes);
    }

    #[test]
    fn arbitrary_instructions_never_panic(text in soup(), bodies in prop::collection::vec(soup(), 0..5)) {
        exercise(text.as_bytes());
        let file = format!("FROM scratch AS a\nENV x=1\n{}", bodies.join("\n"));
        exercise(file.as_bytes());
    }

    #[test]
    fn arbitrary_words_never_panic(word in soup(), text in ".*") {
        let variables = Variables::from_environment(["x=a*b/c", "a="]);
        for word in [&word, &text] {
            let shell = Shell::new('\\');
            let _ = shell.expand(word, &variables);
            let _ = shell.expand_document(word, &variables);
            shell.expand_for_display(word, &variables);
        }
    }

    #[test]
    fn a_walk_and_a_single_path_agree(
        patterns in prop::collection::vec("!?[ab*?/]{1,5}", 0..6),
        path in "[ab]{1,2}(/[ab]{1,2}){0,3}",
    ) {
        let Ok(ignore) = Ignore::from_patterns(patterns.iter().map(String::as_str)) else {
            return Ok(());
        };
        let mut visit = ignore.root();
        let ends = path.match_indices('/').map(|(end, _)| end);
        let mut entered = true;
        for end in ends {
            visit = ignore.visit(&visit, &path[..end]);
            entered = entered && ignore.may_keep_below(&visit, &path[..end]);
        }
        let ignored = ignore.visit(&visit, &path).is_ignored();
        prop_assert_eq!(ignored, ignore.is_ignored(&path));
        // What a walk leaves out is nothing that should be there.
        prop_assert!(entered || ignored, "{:?} {}", patterns, path);
    }
}

/// As large as hostile files are here: one character after another this takes a
/// moment, with a loop within a loop it would take hours.
const LARGE: usize = 1 << 17;

#[test]
fn large_files_of_anything_are_read_in_one_pass() {
    let fill = |unit: &str| unit.repeat(LARGE / unit.len());
    let numbered = |format: &dyn Fn(usize) -> String| {
        let mut text = String::new();
        for number in 0.. {
            text.push_str(&format(number));
            if text.len() > LARGE {
                return text;
            }
        }
        text
    };
    let files = [
        fill("\n"),
        fill("#\n"),
        fill("# a\n"),
        fill("\\\n"),
        fill("a \\\n"),
        format!("FROM a\nRUN {}", fill("\\\\")),
        format!("FROM a\nRUN {}", fill("a \\\n\n")),
        format!("FROM a\nRUN {}", fill("<<A ")),
        format!("FROM a\nRUN {}", fill("<< ")),
        format!(
            "FROM a\nCOPY {} /x\n{}",
            "<<A ".repeat(LARGE / 6),
            "A\n".repeat(LARGE / 6)
        ),
        format!(
            "FROM a\nCOPY {} /x\n{}A\n",
            "<<A ".repeat(1000),
            fill("x\n")
        ),
        format!(
            "FROM a\n{}",
            numbered(&|n| format!("COPY <<D{n} /x\nD{n}\n"))
        ),
        format!("FROM a\nRUN {}", fill("--mount=target=/a ")),
        format!("FROM a\nCOPY {} a b", fill("--exclude=a ")),
        format!("FROM a\nCOPY {} a b", fill("--x")),
        format!("FROM a\nCOPY --from={}", fill("x")),
        format!("FROM a\nRUN --mount={}", fill("a,")),
        format!("FROM a\nRUN --mount={}", fill("\"\"")),
        format!("FROM a\nRUN --mount={}", fill("a=$b,")),
        format!("FROM a\nENV {}", fill("\"")),
        format!("FROM a\nENV {}", numbered(&|n| format!("A{n}=$B{n} "))),
        format!("FROM a\nENV {}", fill("a_key=1 ")),
        format!(
            "FROM scratch\nARG {}",
            numbered(&|n| format!("A{n}=$B{n} "))
        ),
        format!(
            "{}\nFROM $x",
            numbered(&|n| format!("ARG A{n}=$A{}\n", n + 1))
        ),
        format!("FROM ${{x:-{}", fill("${x:-")),
        format!("FROM scratch\nENV a=${{x:-{}", fill("${x:-")),
        format!("FROM a\nLABEL {}", fill("a ")),
        format!("FROM a\nRUN {}", fill("[")),
        format!("FROM a\nRUN [{}\"\"]", fill("\"\",")),
        format!("FROM a\nEXPOSE {}", fill("1-65535 ")),
        format!("FROM a\n{}", fill("ONBUILD ")),
        format!("FROM a\n{}", fill("ONBUILD RUN x\nFROM a\n")),
        format!(
            "FROM a AS b\n{}{}",
            "ONBUILD RUN x\n".repeat(500),
            fill("FROM b\n")
        ),
        fill("FROM scratch\n"),
        numbered(&|n| format!("FROM s{} AS s{n}\n", n.saturating_sub(1))),
        numbered(&|n| {
            format!(
                "FROM scratch AS s{n}\nCOPY --from={} / /\n",
                n.saturating_sub(1)
            )
        }),
        numbered(&|n| format!("FROM scratch AS s{n}\nCOPY --from=s{} / /\n", n + 1)),
        format!("FROM {}", fill("a")),
        fill("x"),
        format!("FROM a\n{}", fill("x")),
        format!("FROM a\nHEALTHCHECK --interval={} CMD x", fill("1")),
        format!("FROM a\nRUN x\n{}CMD x\n", fill("# check=skip=A\n")),
    ];
    for file in &files {
        exercise(file.as_bytes());
    }
}
