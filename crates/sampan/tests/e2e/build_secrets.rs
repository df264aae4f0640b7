//! What a client lends to a build is nowhere afterwards.

use std::fs;
use std::os::unix::net::UnixListener;
use std::process::Stdio;

use sampan_testing::{run, until};

use crate::buildkit::Builder;

/// A secret from a file, and one from the environment.
const SECRETS: [&str; 2] = ["of-a-file-0815", "of-a-variable-4711"];

#[test]
fn secrets_of_builds_are_nowhere_afterwards() {
    let Some(builder) = Builder::start() else {
        return;
    };
    let engine = &builder.engine;
    let socket = engine.scratch().join("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let use_all = "test $(wc -c < /run/secrets/f) = 14 && test ${#V} = 18 && \
        cat /run/secrets/f > /dev/shm/x && test -S $SSH_AUTH_SOCK";
    let mounts = "--mount=type=secret,id=f,required --mount=type=secret,id=f,target=/etc/deep/f \
        --mount=type=secret,id=v,env=V,required --mount=type=ssh,required";
    let good = format!(
        "FROM busybox\nRUN {mounts} {use_all} && echo good > /seen\n\
         RUN test ! -e /run/secrets && test -z \"$V\" && test -z \"$SSH_AUTH_SOCK\"\n"
    );
    let fails = format!("FROM busybox\nRUN {mounts} {use_all} && exit 3\n");
    let hangs = format!("FROM busybox\nRUN {mounts} {use_all} && echo now$((1+1)) && sleep 1000\n");
    let secret = builder.directory("lent").join("f");
    fs::write(&secret, SECRETS[0]).unwrap();
    let command = |name: &str, file: &str| {
        let directory = builder.context(name, &[("Dockerfile", file)]);
        let mut command = builder.command(&["build", "--progress=plain", "-t", name]);
        command
            .arg(format!("--secret=id=f,src={}", secret.display()))
            .arg("--secret=id=v,env=LENT")
            .arg(format!("--ssh=default={}", socket.display()))
            .arg(directory)
            .env("LENT", SECRETS[1]);
        command
    };
    let told = command("good", &good).output().unwrap();
    assert!(
        told.status.success(),
        "{}",
        String::from_utf8_lossy(&told.stderr)
    );
    let mut said = vec![told.stderr];
    let told = command("fails", &fails).output().unwrap();
    assert!(String::from_utf8_lossy(&told.stderr).contains("exit code: 3"));
    said.push(told.stderr);
    // Neither when the engine dies while a command has them.
    let log = engine.scratch().join("hangs.log");
    let mut client = command("hangs", &hangs)
        .stderr(fs::File::create(&log).unwrap())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    until("the command has its secrets", || {
        fs::read_to_string(&log).unwrap().contains("now2")
    });
    engine.kill();
    assert!(!client.wait().unwrap().success());
    engine.ledger().assert_no_container();
    assert_eq!(
        builder.run("good", "cat /seen; cat /etc/deep/f 2>/dev/null; true"),
        "good"
    );
    let told = [
        engine.docker(&["history", "--no-trunc", "good"]),
        engine.docker(&["inspect", "good"]),
        builder.docker(&["buildx", "history", "ls"]),
        engine.sampan(&["builder", "du", "--verbose"]),
    ];
    said.extend(told.map(|ran| format!("{}{}", ran.stdout, ran.stderr).into_bytes()));
    said.push(engine.log().into_bytes());
    let saved = engine.scratch().join("saved.tar");
    let saved = saved.to_str().unwrap();
    let _ = engine.sampan(&["save", "-o", saved, "good"]).ok();
    for secret in SECRETS {
        let bytes = secret.as_bytes();
        for said in &said {
            let found = said.windows(bytes.len()).any(|window| window == bytes);
            assert!(!found, "{secret}: {}", String::from_utf8_lossy(said));
        }
        let (root, state) = (engine.root(), engine.run_directory());
        for place in [root.to_str().unwrap(), state.to_str().unwrap(), saved] {
            let found = run("grep", &["-rlaFs", "-D", "skip", secret, place]);
            assert_eq!(found.stdout, "", "{secret}");
        }
    }
}
