//! Engines that are reached by TCP and by ssh, with the real `docker` client and with `sampan`.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use sampan_testing::{Fixture, TestEngine, free_port, run};

use crate::SAMPAN;

/// An authority, a certificate of the engine and one of a client, by Docker's names.
struct Certificates(tempfile::TempDir);

impl Certificates {
    fn make() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for who in ["server", "client", "stranger", "fooled"] {
            fs::create_dir(directory.path().join(who)).unwrap();
        }
        let made = Self(directory);
        made.authority("ca");
        made.authority("other");
        made.sign("ca", "server", "serverAuth");
        made.sign("ca", "client", "clientAuth");
        made.sign("other", "stranger", "clientAuth");
        // Strangers believe the engine, which does not believe them.
        fs::copy(made.at("ca.pem"), made.at("stranger/ca.pem")).unwrap();
        // And one of the engine's clients believes another authority.
        for (from, to) in [
            ("client/cert.pem", "fooled/cert.pem"),
            ("client/key.pem", "fooled/key.pem"),
            ("other.pem", "fooled/ca.pem"),
        ] {
            fs::copy(made.at(from), made.at(to)).unwrap();
        }
        made
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn openssl(words: &[&str]) {
        let _ = run("openssl", words).ok();
    }

    fn authority(&self, name: &str) {
        let (key, certificate) = (
            self.text(&format!("{name}.key")),
            self.text(&format!("{name}.pem")),
        );
        let subject = format!("/CN={name}");
        Self::openssl(&[
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-days",
            "30",
            "-subj",
            &subject,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ]);
    }

    fn sign(&self, authority: &str, who: &str, usage: &str) {
        let at = |file: &str| self.text(&format!("{who}/{file}"));
        let extensions = self.at("extensions");
        let lines =
            format!("extendedKeyUsage={usage}\nsubjectAltName=DNS:localhost,IP:127.0.0.1\n");
        fs::write(&extensions, lines).unwrap();
        let subject = format!("/CN={who}");
        Self::openssl(&[
            "req",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:prime256v1",
            "-nodes",
            "-subj",
            &subject,
            "-keyout",
            &at("key.pem"),
            "-out",
            &at("request"),
        ]);
        Self::openssl(&[
            "x509",
            "-req",
            "-in",
            &at("request"),
            "-days",
            "30",
            "-CAcreateserial",
            "-CA",
            &self.text(&format!("{authority}.pem")),
            "-CAkey",
            &self.text(&format!("{authority}.key")),
            "-extfile",
            extensions.to_str().unwrap(),
            "-out",
            &at("cert.pem"),
        ]);
        fs::copy(
            self.at(&format!("{authority}.pem")),
            self.at(&format!("{who}/ca.pem")),
        )
        .unwrap();
    }
}

fn said(output: &Output) -> String {
    let text = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

/// Runs a client that knows the engine by this name alone.
fn client(
    engine: &TestEngine,
    program: &str,
    host: &str,
    certificates: Option<&Path>,
    words: &[&str],
) -> Output {
    let mut command = Command::new(program);
    engine.environment(&mut command);
    command
        .env("DOCKER_HOST", host)
        .env("SAMPAN_HOST", host)
        .args(words);
    if let Some(directory) = certificates {
        command
            .env("DOCKER_CERT_PATH", directory)
            .env("DOCKER_TLS_VERIFY", "1");
    }
    command.output().unwrap()
}

#[test]
fn tcp_is_for_clients_with_a_certificate() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let certificates = Certificates::make();
    let host = format!("tcp://127.0.0.1:{}", free_port());
    let server = |file: &str| certificates.text(&format!("server/{file}"));
    let engine = TestEngine::start_with(
        SAMPAN,
        &[
            "--host",
            &host,
            "--tlsverify",
            "--tlscacert",
            &server("ca.pem"),
            "--tlscert",
            &server("cert.pem"),
            "--tlskey",
            &server("key.pem"),
        ],
    );
    engine.load(Fixture::Busybox);
    for program in [SAMPAN, "docker"] {
        let known = certificates.at("client");
        let ran = client(
            &engine,
            program,
            &host,
            Some(&known),
            &["run", "--rm", "busybox", "echo", "far"],
        );
        assert_eq!(
            String::from_utf8_lossy(&ran.stdout),
            "far\n",
            "{}",
            said(&ran)
        );
        // What is typed goes there, and its end.
        let mut command = Command::new("sh");
        engine.environment(&mut command);
        let line = format!(
            "head -c 300000 /dev/zero | {program} run --rm -i busybox sh -c 'wc -c; exit 7'"
        );
        let piped = command
            .args(["-c", &line])
            .env("DOCKER_HOST", &host)
            .env("SAMPAN_HOST", &host)
            .env("DOCKER_CERT_PATH", &known)
            .env("DOCKER_TLS_VERIFY", "1")
            .output()
            .unwrap();
        assert_eq!(
            String::from_utf8_lossy(&piped.stdout),
            "300000\n",
            "{}",
            said(&piped)
        );
        assert_eq!(piped.status.code(), Some(7));
        let stranger = certificates.at("stranger");
        for (place, why) in [
            (Some(stranger.as_path()), "a strange certificate"),
            (None, "no TLS"),
        ] {
            let refused = client(&engine, program, &host, place, &["ps"]);
            assert!(
                !refused.status.success(),
                "{program} with {why}: {}",
                said(&refused)
            );
        }
        let flags = [
            "-H",
            &host,
            "--tlsverify",
            "--tlscacert",
            &certificates.text("client/ca.pem"),
            "--tlscert",
            &certificates.text("client/cert.pem"),
            "--tlskey",
            &certificates.text("client/key.pem"),
            "version",
        ];
        let mut command = Command::new(program);
        engine.environment(&mut command);
        let shown = command
            .env_remove("DOCKER_HOST")
            .args(flags)
            .output()
            .unwrap();
        assert!(shown.status.success(), "{}", said(&shown));
        // An engine that another authority has signed is not believed.
        let fooled = client(
            &engine,
            program,
            &host,
            Some(&certificates.at("fooled")),
            &["ps"],
        );
        assert!(!fooled.status.success());
    }
    // A killed engine is followed by one that listens there, too.
    engine.kill();
    let again = client(
        &engine,
        SAMPAN,
        &host,
        Some(&certificates.at("client")),
        &["version"],
    );
    assert!(again.status.success(), "{}", said(&again));
    // And the socket is there as ever.
    let _ = engine.sampan(&["ps"]).ok();
}

#[test]
fn tcp_without_protection_is_refused() {
    for (words, says) in [
        (&["-H", "tcp://0.0.0.0:1"][..], "is not protected"),
        (
            &["-H", "tcp://0.0.0.0:1", "--insecure-tcp"],
            "use --tlsverify",
        ),
        (&["-H", "tcp://0.0.0.0:1", "--tls"], "use --tlsverify"),
        (&["-H", "tcp://127.0.0.1:1"], "--insecure-tcp"),
        (&["-H", "tcp://:1", "--tlsverify"], "name the address"),
    ] {
        let refused = Command::new(SAMPAN)
            .arg("daemon")
            .args(words)
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(125));
        assert!(
            said(&refused).contains(says),
            "{words:?}: {}",
            said(&refused)
        );
    }
}

#[test]
fn tcp_of_this_machine_may_be_wished_for() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let host = format!("tcp://127.0.0.1:{}", free_port());
    let engine = TestEngine::start_with(SAMPAN, &["--host", &host, "--insecure-tcp"]);
    for program in [SAMPAN, "docker"] {
        let ran = client(
            &engine,
            program,
            &host,
            None,
            &["version", "--format", "{{.Server.APIVersion}}"],
        );
        assert_eq!(
            String::from_utf8_lossy(&ran.stdout),
            "1.51\n",
            "{}",
            said(&ran)
        );
    }
}

/// A machine that is reached by an `ssh` which runs what it is told to right here.
#[test]
fn engines_are_reached_by_ssh() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = TestEngine::with_busybox(SAMPAN);
    let programs = engine.scratch().join("bin");
    fs::create_dir(&programs).unwrap();
    let ssh = programs.join("ssh");
    let script = "#!/bin/sh\necho \"$@\" >> \"$SSH_LOG\"\nwhile [ \"$1\" != -- ]; do shift; done\n\
        shift 2\nunset DOCKER_HOST SAMPAN_HOST\nexec sh -c \"$*\"\n";
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    // What the other machine needs: `sampan`, and for docker's clients `docker`.
    for name in ["sampan", "docker"] {
        symlink(SAMPAN, programs.join(name)).unwrap();
    }
    let log = engine.scratch().join("ssh.log");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let docker = run("sh", &["-c", "command -v docker"]).ok();
    for program in [SAMPAN, docker.trim()] {
        let ran = |words: &[&str]| {
            let mut command = Command::new(program);
            engine.environment(&mut command);
            command
                .env("PATH", &path)
                .env("SSH_LOG", &log)
                .env_remove("DOCKER_HOST")
                .args(["-H", "ssh://me@far.example:2222"])
                .args(words)
                .output()
                .unwrap()
        };
        let echo = ran(&["run", "--rm", "busybox", "echo", "far"]);
        assert_eq!(
            String::from_utf8_lossy(&echo.stdout),
            "far\n",
            "{}",
            said(&echo)
        );
        let listed = ran(&["images", "--format", "{{.Repository}}"]);
        assert_eq!(String::from_utf8_lossy(&listed.stdout), "busybox\n");
    }
    let log = fs::read_to_string(log).unwrap();
    for words in ["sampan system dial-stdio", "docker system dial-stdio"] {
        let line = format!("-T -l me -p 2222 -- far.example {words}");
        assert!(log.contains(&line), "{log}");
    }
    let bad = engine
        .sampan(&["-H", "ssh://-oProxyCommand=x", "ps"])
        .failed(1);
    assert!(bad.contains("begins with a dash"), "{bad}");
}

#[test]
fn shells_complete_words() {
    sampan_kernel::requires!(root, cgroups, overlay, nftables);
    let engine = TestEngine::with_busybox(SAMPAN);
    let _ = engine
        .sampan(&["create", "--name", "box-one", "busybox"])
        .ok();
    let _ = engine.sampan(&["volume", "create", "vol-one"]).ok();
    let offered = |words: &[&str]| -> Vec<String> {
        let words = [&["__complete", "--"], words].concat();
        let out = engine.sampan(&words).ok();
        out.lines()
            .map(|line| line.split('\t').next().unwrap().to_owned())
            .collect()
    };
    assert_eq!(offered(&["rm", "-f", "box"]), ["box-one"]);
    assert_eq!(offered(&["run", "--rm", "busy"]), ["busybox:latest"]);
    assert_eq!(offered(&["volume", "rm", ""]), ["vol-one"]);
    assert_eq!(offered(&["run", "--network", "br"]), ["bridge"]);
    assert_eq!(offered(&["run", "--env-file", "x"]), [":"]);
    assert!(offered(&["con"]).contains(&"container".to_owned()));
    for shell in ["bash", "zsh", "fish", "powershell"] {
        let script = engine.sampan(&["completion", shell]).ok();
        assert!(script.contains("sampan __complete"), "{shell}");
    }
    // A real shell takes the script and asks.
    let directory = Path::new(SAMPAN).parent().unwrap().display().to_string();
    let line = format!(
        "PATH={directory}:$PATH; source <(sampan completion bash); COMP_WORDS=(sampan rm box); \
         COMP_CWORD=2; _sampan; echo \"${{COMPREPLY[@]}}\""
    );
    let mut bash = Command::new("bash");
    engine.environment(&mut bash);
    let bash = bash.args(["-c", &line]).output().unwrap();
    assert_eq!(
        String::from_utf8_lossy(&bash.stdout),
        "box-one\n",
        "{}",
        said(&bash)
    );
    let pages = engine.scratch().join("man");
    let _ = engine.sampan(&["__man", pages.to_str().unwrap()]).ok();
    let page = fs::read_to_string(pages.join("sampan-container-cp.1")).unwrap();
    assert!(page.contains("\\-\\-follow\\-link"), "{page}");
    engine.remove_all();
    let _ = engine.sampan(&["volume", "rm", "vol-one"]).ok();
}
