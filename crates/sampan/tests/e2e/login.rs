//! `login` and `logout`: credentials are checked, kept where nobody reads them, found by pulls,
//! and gone afterwards.

use std::ffi::CString;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sampan_kernel::keyring;
use sampan_testing::{Answer, Fixture, Login, Ran, Registry, ScriptedServer, TestEngine, fixture};

use crate::{SAMPAN, engine, engine_with_busybox};

const USER: &str = "captain";
const PASSWORD: &str = "correct horse battery";

type Client = fn(&TestEngine, &[&str]) -> Ran;
const CLIENTS: [Client; 2] = [TestEngine::sampan, TestEngine::docker];

fn registry() -> Registry {
    Registry::with_login(Login {
        user: USER.into(),
        password: PASSWORD.into(),
    })
}

fn config(engine: &TestEngine) -> PathBuf {
    engine.scratch().join("docker-config")
}

fn log_in(engine: &TestEngine, registry: &Registry, flags: &[&str]) -> Ran {
    let address = registry.address();
    let fixed = ["login", "-u", USER, "--password-stdin"];
    let arguments = [&fixed[..], flags, &[&address]].concat();
    engine.sampan_with_input(&arguments, format!("{PASSWORD}\n").as_bytes())
}

/// All files below a directory in which the password, or its base64, can be read.
fn betrayals(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(directory) else {
        return found;
    };
    let secrets = [
        PASSWORD.to_owned(),
        STANDARD.encode(PASSWORD),
        STANDARD.encode(format!("{USER}:{PASSWORD}")),
    ];
    for entry in entries.map(Result::unwrap) {
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            found.extend(betrayals(&entry.path()));
        } else if kind.is_file() {
            let bytes = fs::read(entry.path()).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            if secrets.iter().any(|secret| text.contains(secret)) {
                found.push(entry.path());
            }
        }
    }
    found
}

#[test]
fn a_password_is_checked_sealed_used_and_forgotten() {
    let (engine, registry) = (engine(), registry());
    let image = registry.push(&fixture(Fixture::Busybox));
    let wrong = engine.sampan_with_input(
        &["login", "-u", USER, "--password-stdin", &registry.address()],
        b"guess",
    );
    assert_eq!(
        wrong.failed(1),
        format!(
            "Error response from daemon: login attempt to http://{}/v2/ failed with status: 401 Unauthorized\n",
            registry.address()
        )
    );
    assert!(!config(&engine).exists(), "nothing is kept of a wrong one");
    let ran = log_in(&engine, &registry, &["--key", "file"]);
    let keys = engine.root().join("credential-keys");
    assert!(ran.stderr.starts_with("WARNING! "), "{}", ran.stderr);
    assert!(
        ran.stderr.contains(keys.to_str().unwrap()),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.stderr.lines().count(), 1);
    assert_eq!(ran.ok(), "Login Succeeded");
    assert!(!config(&engine).join("config.json").exists());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let key = fs::read_dir(&keys).unwrap().next().unwrap().unwrap().path();
    assert_eq!((mode(&keys), mode(&key)), (0o700, 0o600));
    let sealed = config(&engine).join("sampan/credentials.json");
    assert_eq!(mode(&sealed), 0o600);
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
    assert_eq!(betrayals(engine.scratch()), [] as [PathBuf; 0]);
    assert!(!engine.log().contains(PASSWORD));
    assert_eq!(
        engine.sampan(&["login", &registry.address()]).ok(),
        "Authenticating with existing credentials...\nLogin Succeeded"
    );
    let pushed = format!("{}/pushed", registry.address());
    let _ = engine.sampan(&["tag", &image, &pushed]).ok();
    let _ = engine.sampan(&["push", "-q", &pushed]).ok();
    let _ = engine.sampan(&["rmi", &image, &pushed]).ok();
    assert_eq!(
        engine.sampan(&["logout", &registry.address()]).ok(),
        format!("Removing login credentials for {}", registry.address())
    );
    assert!(!sealed.exists());
    assert!(!key.exists());
    let refused = engine.sampan(&["pull", "-q", &image]).failed(1);
    assert!(refused.contains("no basic auth credentials"), "{refused}");
}

#[test]
fn sealed_credentials_do_not_open_without_their_key() {
    let (engine, registry) = (engine(), registry());
    let image = registry.push(&fixture(Fixture::Busybox));
    let _ = log_in(&engine, &registry, &["--key", "file"]).ok();
    let keys = engine.root().join("credential-keys");
    fs::remove_dir_all(&keys).unwrap();
    let ran = engine.sampan(&["pull", "-q", &image]);
    assert!(
        ran.stderr.contains("key file is missing; log in again"),
        "{ran:?}"
    );
    assert_eq!(ran.code, 1);
    // A change to the file is noticed, whatever the key.
    let _ = log_in(&engine, &registry, &["--key", "file"]).ok();
    let sealed = config(&engine).join("sampan/credentials.json");
    let text = fs::read_to_string(&sealed).unwrap();
    let (head, tail) = text.rsplit_once("\"sealed\": \"").unwrap();
    let changed = match tail.as_bytes()[0] {
        b'A' => "B",
        _ => "A",
    };
    fs::write(
        &sealed,
        format!("{head}\"sealed\": \"{changed}{}", &tail[1..]),
    )
    .unwrap();
    let ran = engine.sampan(&["pull", "-q", &image]);
    assert!(ran.stderr.contains("the file was changed"), "{ran:?}");
    let _ = log_in(&engine, &registry, &["--key", "file"]).ok();
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
}

/// What the machine's restart does to the keyring.
fn forget_keyring(engine: &TestEngine) {
    let sealed = fs::read(config(engine).join("sampan/credentials.json")).unwrap();
    let sealed: serde_json::Value = serde_json::from_slice(&sealed).unwrap();
    let name = format!("sampan:credentials:{}", sealed["id"].as_str().unwrap());
    let name = CString::new(name).unwrap();
    assert!(keyring::load(&name).unwrap().is_some(), "it was there");
    keyring::remove(&name).unwrap();
}

fn has_keyrings() -> bool {
    let has = keyring::load(c"sampan-test-probe").is_ok();
    if !has {
        println!("SKIP: no kernel keyrings here");
    }
    has
}

#[test]
fn a_passphrase_is_needed_again_after_a_restart() {
    if !has_keyrings() {
        return;
    }
    let (engine, registry) = (engine(), registry());
    let image = registry.push(&fixture(Fixture::Busybox));
    let file = engine.scratch().join("passphrase");
    fs::write(&file, "open sesame\n").unwrap();
    let with_file = |arguments: &[&str], file: &Path| -> Ran {
        let mut command = engine.command(arguments);
        command.env("SAMPAN_PASSPHRASE_FILE", file);
        command.output().unwrap().into()
    };
    // No terminal and no file: nothing can be typed.
    let ran = log_in(&engine, &registry, &["--passphrase"]);
    assert!(ran.failed(1).contains("SAMPAN_PASSPHRASE_FILE"));
    let address = registry.address();
    let ran = with_file(
        &[
            "login",
            "-u",
            USER,
            "-p",
            PASSWORD,
            "--passphrase",
            &address,
        ],
        &file,
    );
    assert!(
        ran.stderr.starts_with(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.\n"
        ),
        "{}",
        ran.stderr
    );
    assert_eq!(ran.ok(), "Login Succeeded");
    assert!(!engine.root().join("credential-keys").exists());
    // The keyring has the key until the machine restarts.
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
    let _ = engine.sampan(&["rmi", &image]).ok();
    forget_keyring(&engine);
    let ran = engine.sampan(&["pull", "-q", &image]);
    assert!(
        ran.stderr.contains("the saved credentials are locked"),
        "{ran:?}"
    );
    assert_eq!(ran.code, 1);
    let wrong = engine.scratch().join("wrong");
    fs::write(&wrong, "open barley\n").unwrap();
    let ran = with_file(&["pull", "-q", &image], &wrong);
    assert!(
        ran.stderr.contains("this is not their passphrase"),
        "{ran:?}"
    );
    let _ = with_file(&["pull", "-q", &image], &file).ok();
    let _ = engine.sampan(&["rmi", &image]).ok();
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
    assert_eq!(betrayals(engine.scratch()), [] as [PathBuf; 0]);
    let _ = engine.sampan(&["logout", &address]).ok();
}

#[test]
fn a_key_in_the_keyring_alone_ends_with_a_restart() {
    if !has_keyrings() {
        return;
    }
    let (engine, registry) = (engine(), registry());
    let image = registry.push(&fixture(Fixture::Busybox));
    let ran = log_in(&engine, &registry, &["--key", "keyring"]);
    assert!(ran.stderr.contains("until the machine restarts"), "{ran:?}");
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
    forget_keyring(&engine);
    let ran = engine.sampan(&["pull", "-q", &image]);
    assert!(ran.stderr.contains("log in again"), "{ran:?}");
    let _ = log_in(&engine, &registry, &["--key", "keyring"]).ok();
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
    let _ = engine.sampan(&["logout", &registry.address()]).ok();
    assert!(!config(&engine).join("sampan/credentials.json").exists());
}

#[test]
fn what_docker_saves_is_used_and_erased() {
    let (engine, registry) = (engine(), registry());
    let image = registry.push(&fixture(Fixture::Busybox));
    let address = registry.address();
    let login = ["login", "-u", USER, "-p", PASSWORD, &address];
    assert!(engine.docker(&login).ok().ends_with("Login Succeeded"));
    let refused = engine.docker(&["login", "-u", USER, "-p", "guess", &address]);
    assert!(refused.failed(1).contains("401 Unauthorized"));
    let _ = engine.sampan(&["pull", "-q", &image]).ok();
    let _ = engine.sampan(&["logout", &address]).ok();
    let text = fs::read_to_string(config(&engine).join("config.json")).unwrap();
    assert!(!text.contains(&address), "{text}");
    let _ = engine.sampan(&["rmi", &image]).ok();
    assert_eq!(engine.docker(&["pull", "-q", &image]).code, 1);
    // And the other way round: what docker forgets is not found.
    let _ = engine.docker(&login).ok();
    let _ = engine.docker(&["pull", "-q", &image]).ok();
    let pushed = format!("{address}/pushed");
    let _ = engine.docker(&["tag", &image, &pushed]).ok();
    let _ = engine.docker(&["push", "-q", &pushed]).ok();
    let _ = engine.sampan(&["rmi", &image, &pushed]).ok();
    let _ = engine.docker(&["logout", &address]).ok();
    assert_eq!(engine.sampan(&["pull", "-q", &image]).code, 1);
}

#[test]
fn a_damaged_config_json_is_told_and_left_alone() {
    let (engine, open, closed) = (engine(), Registry::start(), registry());
    let image = open.push(&fixture(Fixture::Busybox));
    let address = closed.address();
    fs::create_dir(config(&engine)).unwrap();
    let file = config(&engine).join("config.json");
    let damaged = r#"{"auths":{"r.io":{"auth":"c2VjcmV0"#;
    fs::write(&file, damaged).unwrap();
    let said = format!("cannot read {}: it is no JSON object", file.display());
    let ran = log_in(&engine, &closed, &["--key", "file"]);
    assert!(ran.stderr.contains(&said), "{ran:?}");
    assert!(!ran.stderr.contains("c2Vj"), "{ran:?}");
    assert_eq!(ran.code, 1);
    assert!(!config(&engine).join("sampan").exists());
    let ran = engine.sampan(&["logout", &address]);
    assert!(ran.failed(1).contains(&said));
    // Who needs no credentials goes on.
    let ran = engine.sampan(&["pull", "-q", &image]);
    assert_eq!(ran.stderr, format!("WARNING: {said}\n"));
    let _ = ran.ok();
    assert_eq!(fs::read_to_string(&file).unwrap(), damaged);
}

fn saw_credentials(server: &ScriptedServer) -> bool {
    let secrets = [
        PASSWORD.to_owned(),
        STANDARD.encode(format!("{USER}:{PASSWORD}")),
    ];
    server.asked().iter().any(|asked| {
        let text = format!(
            "{} {:?} {}",
            asked.path,
            asked.headers,
            String::from_utf8_lossy(&asked.body)
        );
        asked.header("authorization").is_some()
            || secrets.iter().any(|secret| text.contains(secret))
    })
}

/// Makes both clients have credentials for a registry that nobody checked.
fn plant_credentials(engine: &TestEngine, registry: &str) {
    fs::create_dir_all(config(engine)).unwrap();
    let auth = STANDARD.encode(format!("{USER}:{PASSWORD}"));
    fs::write(
        config(engine).join("config.json"),
        format!(r#"{{"auths":{{"{registry}":{{"auth":"{auth}"}}}}}}"#),
    )
    .unwrap();
}

#[test]
fn a_realm_on_another_host_gets_no_credentials() {
    let engine = engine_with_busybox();
    let thief = ScriptedServer::start_at("127.0.0.2", |_| Answer::new(200, r#"{"token":"t"}"#));
    let challenge = format!(r#"Bearer realm="http://{}/token""#, thief.address());
    let server =
        ScriptedServer::start(move |_| Answer::new(401, "").with("www-authenticate", &challenge));
    let address = server.address();
    let image = format!("{address}/some/app");
    let said = "which is of another site: they were not sent";
    let login = ["login", "-u", USER, "-p", PASSWORD, &address];
    for client in CLIENTS {
        assert!(client(&engine, &login).failed(1).contains(said));
    }
    plant_credentials(&engine, &address);
    let _ = engine.sampan(&["tag", "busybox", &image]).ok();
    for client in CLIENTS {
        for verb in ["pull", "push"] {
            let refused = client(&engine, &[verb, "-q", &image]).failed(1);
            assert!(refused.contains(said), "{verb}: {refused}");
        }
    }
    assert!(thief.asked().is_empty());
    assert!(!saw_credentials(&server));
}

#[test]
fn a_redirect_to_another_host_carries_no_credentials() {
    let engine = engine_with_busybox();
    let thief = ScriptedServer::start_at("127.0.0.2", |_| {
        Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\"")
    });
    let target = format!("http://{}/x", thief.address());
    let server = ScriptedServer::start(move |asked| match asked.header("authorization") {
        Some(_) => Answer::redirect(&target),
        None => Answer::new(401, "").with("www-authenticate", "Basic realm=\"x\""),
    });
    let address = server.address();
    let image = format!("{address}/some/app");
    let _ = engine.sampan(&["tag", "busybox", &image]).ok();
    plant_credentials(&engine, &address);
    for client in CLIENTS {
        for arguments in [
            &["login", "-u", USER, "-p", PASSWORD, &address][..],
            &["pull", "-q", &image],
            &["push", "-q", &image],
        ] {
            let before = thief.asked().len();
            assert_eq!(client(&engine, arguments).code, 1, "{arguments:?}");
            assert!(thief.asked().len() > before, "{arguments:?}: redirected");
        }
    }
    assert!(saw_credentials(&server));
    assert!(!saw_credentials(&thief));
}

#[test]
fn systemd_creds_protects_the_key() {
    // With a host's secret of its own, where the machine's would be.
    let secret = tempfile::tempdir().unwrap();
    let script = format!(
        "mount --bind {} /var/lib/systemd && exec \"$@\"",
        secret.path().display()
    );
    let isolated = |program: &str, arguments: &[&str]| {
        let mut command = Command::new("unshare");
        command
            .args(["-m", "sh", "-ec", &script, "sh", program])
            .args(arguments);
        command
    };
    let (engine, registry) = (engine(), registry());
    let image = registry.push(&fixture(Fixture::Busybox));
    let address = registry.address();
    let run = |arguments: &[&str]| -> Ran {
        let mut command = isolated(SAMPAN, arguments);
        engine.environment(&mut command);
        command.output().unwrap().into()
    };
    let ran = run(&[
        "login",
        "-u",
        USER,
        "-p",
        PASSWORD,
        "--key",
        "systemd-creds",
        &address,
    ]);
    assert!(
        ran.stderr.contains("systemd-creds protects their key"),
        "{ran:?}"
    );
    assert_eq!(ran.ok(), "Login Succeeded");
    assert!(!engine.root().join("credential-keys").exists());
    assert_eq!(betrayals(engine.scratch()), [] as [PathBuf; 0]);
    let _ = run(&["pull", "-q", &image]).ok();
    let _ = run(&["rmi", &image]).ok();
    // On another machine, or with another TPM, it opens nothing.
    if has_keyrings() {
        forget_keyring(&engine);
    }
    fs::remove_file(secret.path().join("credential.secret")).unwrap();
    let ran = run(&["pull", "-q", &image]);
    assert!(ran.stderr.contains("systemd-creds"), "{ran:?}");
    assert_eq!(ran.code, 1);
    assert_eq!(betrayals(engine.scratch()), [] as [PathBuf; 0]);
}

/// A credential helper that keeps what it is given in files, and its arguments in a log.
const HELPER: &str = r#"#!/bin/sh
cd "$(dirname "$0")" || exit 1
echo "$@" >>log
case $1 in
store) cat >kept ;;
get) cat >asked; if [ -e kept ]; then cat kept; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm -f kept ;;
esac
"#;

#[test]
fn a_credential_helper_is_used_as_by_docker() {
    let (engine, registry) = (engine(), registry());
    let image = registry.push(&fixture(Fixture::Busybox));
    let address = registry.address();
    let programs = engine.scratch().join("programs");
    fs::create_dir(&programs).unwrap();
    let helper = programs.join("docker-credential-test");
    fs::write(&helper, HELPER).unwrap();
    fs::set_permissions(&helper, fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(config(&engine)).unwrap();
    let file = config(&engine).join("config.json");
    fs::write(&file, r#"{"psFormat":"{{.ID}}","credsStore":"test"}"#).unwrap();
    let with_path = |mut command: Command| -> Ran {
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", programs.display()));
        command.output().unwrap().into()
    };
    let ran = with_path(engine.command(&["login", "-u", USER, "-p", PASSWORD, &address]));
    assert_eq!(ran.ok(), "Login Succeeded");
    assert!(!config(&engine).join("sampan").exists());
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains("psFormat") && text.contains(&address),
        "{text}"
    );
    assert!(!text.contains("auth\":"), "{text}");
    for client in ["sampan", "docker"] {
        let pull = ["pull", "-q", &image];
        let command = match client {
            "sampan" => engine.command(&pull),
            _ => engine.docker_command(&pull),
        };
        let _ = with_path(command).ok();
        let _ = engine.sampan(&["rmi", &image]).ok();
    }
    assert_eq!(fs::read_to_string(programs.join("asked")).unwrap(), address);
    let _ = with_path(engine.command(&["logout", &address])).ok();
    assert!(!programs.join("kept").exists());
    let log = fs::read_to_string(programs.join("log")).unwrap();
    assert!(!log.contains(PASSWORD), "{log}");
    let text = fs::read_to_string(&file).unwrap();
    assert!(!text.contains(&address), "{text}");
    assert_eq!(with_path(engine.command(&["pull", "-q", &image])).code, 1);
}

/// Answers prompts on a terminal of its own (script(1)); returns what the screen showed.
fn at_prompts(engine: &TestEngine, command: &str, answers: &[(&str, &str)]) -> (String, i32) {
    let mut script = Command::new("script");
    engine.environment(&mut script);
    let mut child = script
        .args(["-qefc", command, "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut keys, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    let mut screen = Vec::new();
    let mut seen = 0;
    let mut buffer = [0; 1024];
    let mut answers = answers.iter();
    let mut next = answers.next();
    loop {
        let n = output.read(&mut buffer).unwrap();
        if n == 0 {
            break;
        }
        screen.extend_from_slice(&buffer[..n]);
        let text = String::from_utf8_lossy(&screen[seen..]);
        if let Some((prompt, answer)) = next
            && text.contains(prompt)
        {
            seen = screen.len();
            // The terminal is made silent right after the question.
            std::thread::sleep(Duration::from_millis(300));
            keys.write_all(answer.as_bytes()).unwrap();
            next = answers.next();
        }
    }
    let code = child.wait().unwrap().code().unwrap();
    (String::from_utf8_lossy(&screen).into_owned(), code)
}

#[test]
fn a_person_is_asked_and_the_password_is_not_shown() {
    let (engine, registry) = (engine(), registry());
    let command = format!("{SAMPAN} login --key file {}", registry.address());
    let (user, password) = (format!("{USER}\n"), format!("{PASSWORD}\n"));
    let answers = [("Username: ", &*user), ("Password: ", &*password)];
    let (screen, code) = at_prompts(&engine, &command, &answers);
    assert_eq!(code, 0, "{screen}");
    assert!(screen.contains("Login Succeeded"), "{screen}");
    assert!(!screen.contains(PASSWORD), "{screen}");
    let _ = engine.sampan(&["logout", &registry.address()]).ok();
    // Ctrl-C at the password gives the terminal back.
    let command = format!("{SAMPAN} login {}; stty -a", registry.address());
    let answers = [("Username: ", &*user), ("Password: ", "sec\x03")];
    let (screen, _) = at_prompts(&engine, &command, &answers);
    assert!(screen.contains("interrupted"), "{screen}");
    assert!(screen.contains(" echo "), "{screen}");
}

#[test]
fn wrong_ways_to_log_in_are_refused() {
    let engine = engine();
    for (arguments, said) in [
        (
            &["login", "--password-stdin", "r.io"][..],
            "the --password-stdin option requires --username to be set",
        ),
        (
            &["login", "-u", "x", "-p", "y", "--password-stdin", "r.io"],
            "conflicting options: cannot specify both --password and --password-stdin",
        ),
        (&["login", "-u", "x", "r.io"], "non TTY device"),
        (&["login", "r.io"], "non TTY device"),
        (
            &["login", "--key", "safe", "r.io"],
            "invalid --key \"safe\"",
        ),
        (&["login", "a", "b"], "requires at most 1 argument"),
    ] {
        let stderr = engine.sampan(arguments).failed(1);
        assert!(stderr.contains(said), "{arguments:?}: {stderr}");
    }
}
