//! `sampan login`.

use std::io::{self, Read};

use zeroize::Zeroizing;

use sampan_text::with_causes;

use super::command::{Arguments, Command, Flag, Parsed};
use super::credentials::{self, HUB, KeyKind, Login};
use super::failure::Failure;
use super::output;
use super::session::Session;
use super::terminal;

/// The longest password that is read.
const LONGEST: u64 = 64 << 10;

pub(crate) const COMMAND: Command = Command {
    names: &["login"],
    usage: "[OPTIONS] [SERVER]",
    about: "Authenticate to a registry",
    flags: &[&[
        Flag::one(
            "key",
            "string",
            "Where the key of saved credentials is: auto, keyring, systemd-creds, passphrase, file",
        )
        .default("auto"),
        Flag::switch(
            "passphrase",
            "Protect saved credentials by a passphrase, as --key passphrase",
        ),
        Flag::one(
            "password",
            "string",
            "Password or Personal Access Token (PAT)",
        )
        .short('p'),
        Flag::switch(
            "password-stdin",
            "Take the Password or Personal Access Token (PAT) from stdin",
        ),
        Flag::one("username", "string", "Username").short('u'),
    ]],
    arguments: Arguments::AtMost(1),
    run,
    ..Command::PLAIN
};

fn run(session: &Session, parsed: &Parsed<'_>) -> Result<u8, Failure> {
    let server = parsed.arguments().first().copied().unwrap_or(HUB);
    let server = credentials::server_key(server);
    let key = chosen_key(parsed)?;
    let client = session.client()?;
    let login = match given(parsed)? {
        Some(login) => login,
        None => match stored(session, &server) {
            Some(login) => {
                output::line("Authenticating with existing credentials...");
                let checked = session.wait(client.check_auth(&login.for_engine(&server)));
                match checked {
                    Ok(answer) => return succeed(session, &server, login, &answer, key),
                    Err(error) => eprintln!(
                        "Login did not succeed, error: {}",
                        Failure::from(error).text()
                    ),
                }
                ask(&login.username)?
            }
            None => ask(parsed.text("username").unwrap_or_default())?,
        },
    };
    let answer = session.wait(client.check_auth(&login.for_engine(&server)))?;
    succeed(session, &server, login, &answer, key)
}

fn chosen_key(parsed: &Parsed<'_>) -> Result<Option<KeyKind>, Failure> {
    let chosen = KeyKind::parse(parsed.text("key").unwrap_or("auto")).map_err(Failure::message)?;
    match (parsed.switch("passphrase")?, chosen) {
        (true, None | Some(KeyKind::Passphrase)) => Ok(Some(KeyKind::Passphrase)),
        (true, Some(_)) => Err(Failure::message(
            "--passphrase and --key contradict each other",
        )),
        (false, chosen) => Ok(chosen),
    }
}

/// What the command line says, complete or not at all.
fn given(parsed: &Parsed<'_>) -> Result<Option<Login>, Failure> {
    let (user, password) = (parsed.text("username"), parsed.text("password"));
    let from_input = parsed.switch("password-stdin")?;
    if password.is_some() {
        eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        if from_input {
            return Err(Failure::message(
                "conflicting options: cannot specify both --password and --password-stdin",
            ));
        }
    }
    let login = |user: &str, secret: Zeroizing<String>| Login {
        username: user.to_owned(),
        secret,
        is_token: false,
    };
    match (user.filter(|user| !user.is_empty()), password) {
        (None, _) if from_input => Err(Failure::message(
            "the --password-stdin option requires --username to be set",
        )),
        (Some(user), _) if from_input => Ok(Some(login(user, password_from_input()?))),
        (Some(user), Some(password)) => Ok(Some(login(user, Zeroizing::new(password.to_owned())))),
        (Some(user), None) => ask(user).map(Some),
        (None, Some(password)) => {
            let user = ask_user()?;
            Ok(Some(login(&user, Zeroizing::new(password.to_owned()))))
        }
        (None, None) => Ok(None),
    }
}

fn password_from_input() -> Result<Zeroizing<String>, Failure> {
    let mut text = Zeroizing::new(String::new());
    io::stdin()
        .take(LONGEST)
        .read_to_string(&mut text)
        .map_err(|error| Failure::message(format!("cannot read the password: {error}")))?;
    let text = text.trim_end_matches(['\n', '\r']);
    Ok(Zeroizing::new(text.to_owned()))
}

/// What is saved already. That it cannot be read is no reason not to log in.
fn stored(session: &Session, server: &str) -> Option<Login> {
    credentials::lookup(session, server).unwrap_or_else(|error| {
        eprintln!("WARNING: {}", with_causes(&error));
        None
    })
}

fn ask(user: &str) -> Result<Login, Failure> {
    let username = match user {
        "" => ask_user()?,
        user => {
            check_terminal()?;
            user.to_owned()
        }
    };
    let secret = terminal::read_secret("Password: ")
        .map_err(|error| Failure::message(format!("cannot read the password: {error}")))?;
    if secret.is_empty() {
        return Err(Failure::message("password required"));
    }
    Ok(Login {
        username,
        secret,
        is_token: false,
    })
}

fn ask_user() -> Result<String, Failure> {
    check_terminal()?;
    let user = terminal::read_line("Username: ")
        .map_err(|error| Failure::message(format!("cannot read the user name: {error}")))?;
    match user.trim() {
        "" => Err(Failure::message("username is required")),
        user => Ok(user.to_owned()),
    }
}

fn check_terminal() -> Result<(), Failure> {
    if terminal::stdin_is_terminal() {
        return Ok(());
    }
    Err(Failure::message(
        "Error: Cannot perform an interactive login from a non TTY device",
    ))
}

fn succeed(
    session: &Session,
    server: &str,
    login: Login,
    answer: &sampan_api::types::auth::AuthResponse,
    key: Option<KeyKind>,
) -> Result<u8, Failure> {
    let login = match answer.identity_token.as_str() {
        "" => login,
        token => Login {
            secret: Zeroizing::new(token.to_owned()),
            is_token: true,
            ..login
        },
    };
    let sentence = credentials::save(session, server, &login, key).map_err(|error| {
        Failure::message(format!("cannot save credentials: {}", with_causes(&error)))
    })?;
    if let Some(sentence) = sentence {
        eprintln!("{sentence}");
    }
    output::line(match answer.status.as_str() {
        "" => "Login Succeeded",
        status => status,
    });
    Ok(0)
}
