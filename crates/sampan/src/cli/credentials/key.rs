//! Where the key of sealed credentials is.
//!
//! The credentials are sealed with a data key. The data key is kept in one of these ways:
//!
//! | kind | the data key is | opens after a restart |
//! | --- | --- | --- |
//! | keyring | in the kernel's user keyring alone | no: log in again |
//! | systemd-creds | encrypted by systemd, with the TPM or the host's own secret | yes |
//! | passphrase | sealed with a key made of a passphrase; cached in the keyring | once it is typed |
//! | file | sealed with the key in a file of another directory and this machine's identity | yes |

use std::ffi::CString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use sampan_fs::Sync;
use sampan_kernel::keyring;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Error;
use crate::cli::session::variable;
use crate::cli::terminal;
use crate::daemon::Paths;

/// Work of making a key of a passphrase: 64 MiB, three passes.
const MEMORY_KIB: u32 = 64 << 10;
const PASSES: u32 = 3;
/// The most that a file may ask for: 1 GiB, 64 passes.
const MOST_MEMORY_KIB: u32 = 1 << 20;
const MOST_PASSES: u32 = 64;

const SYSTEMD_CREDS: &str = "systemd-creds";
const PASSPHRASE_FILE: &str = "SAMPAN_PASSPHRASE_FILE";
const KEY_DIRECTORY: &str = "credential-keys";

/// A key of 256 bits.
pub(super) type Key = Zeroizing<[u8; 32]>;

/// The ways that a user can choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyKind {
    Keyring,
    SystemdCreds,
    Passphrase,
    File,
}

impl KeyKind {
    /// Reads the value of a flag; `auto` is none of them.
    pub(crate) fn parse(text: &str) -> Result<Option<Self>, String> {
        match text {
            "auto" => Ok(None),
            "keyring" => Ok(Some(Self::Keyring)),
            "systemd-creds" => Ok(Some(Self::SystemdCreds)),
            "passphrase" => Ok(Some(Self::Passphrase)),
            "file" => Ok(Some(Self::File)),
            other => Err(format!(
                "invalid --key {other:?}: it is auto, keyring, systemd-creds, passphrase or file"
            )),
        }
    }
}

/// How the data key of a store is kept, as its file says.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub(super) enum Kept {
    Keyring,
    SystemdCreds {
        /// What systemd made of the data key.
        encrypted: String,
    },
    Passphrase {
        salt: String,
        memory_kib: u32,
        passes: u32,
        sealed: String,
    },
    File {
        path: PathBuf,
        sealed: String,
    },
}

impl Kept {
    pub(super) fn kind(&self) -> KeyKind {
        match self {
            Self::Keyring => KeyKind::Keyring,
            Self::SystemdCreds { .. } => KeyKind::SystemdCreds,
            Self::Passphrase { .. } => KeyKind::Passphrase,
            Self::File { .. } => KeyKind::File,
        }
    }
}

/// Draws random bytes.
pub(super) fn random<const N: usize>() -> Zeroizing<[u8; N]> {
    let mut bytes = Zeroizing::new([0; N]);
    SystemRandom::new()
        .fill(&mut *bytes)
        .expect("the kernel has random bytes");
    bytes
}

/// Encrypts and authenticates; `context` must be the same when it is opened. The text is base64
/// of nonce and ciphertext.
pub(super) fn seal(key: &Key, context: &str, plain: &[u8]) -> String {
    let nonce = random::<NONCE_LEN>();
    let mut bytes = plain.to_vec();
    aead(key)
        .seal_in_place_append_tag(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(context.as_bytes()),
            &mut bytes,
        )
        .expect("it is far from the longest text");
    STANDARD.encode([&nonce[..], &bytes].concat())
}

/// Undoes [`seal`]; none when key, context or text are not the right ones.
pub(super) fn unseal(key: &Key, context: &str, sealed: &str) -> Option<Zeroizing<Vec<u8>>> {
    let bytes = STANDARD.decode(sealed).ok()?;
    let (nonce, sealed) = bytes.split_at_checked(NONCE_LEN)?;
    let mut sealed = Zeroizing::new(sealed.to_vec());
    let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
    let length = aead(key)
        .open_in_place(nonce, Aad::from(context.as_bytes()), &mut sealed)
        .ok()?
        .len();
    sealed.truncate(length);
    Some(sealed)
}

fn aead(key: &Key) -> LessSafeKey {
    LessSafeKey::new(
        UnboundKey::new(&CHACHA20_POLY1305, &key[..]).expect("the key has the right length"),
    )
}

fn key_of(bytes: &[u8]) -> Option<Key> {
    Some(Zeroizing::new(bytes.try_into().ok()?))
}

/// A new data key for the store `id`, kept in the way that was chosen, or the best one there is.
pub(super) fn create(id: &str, chosen: Option<KeyKind>) -> Result<(Key, Kept), Error> {
    let key: Key = random();
    let kept = keep(id, &key, chosen)?;
    Ok((key, kept))
}

fn keep(id: &str, key: &Key, chosen: Option<KeyKind>) -> Result<Kept, Error> {
    match chosen {
        Some(KeyKind::Keyring) => {
            cache(id, key).map_err(|error| Error::Protect {
                kind: "the kernel keyring",
                reason: error.to_string(),
            })?;
            Ok(Kept::Keyring)
        }
        Some(KeyKind::SystemdCreds) => by_systemd(id, key),
        Some(KeyKind::Passphrase) => by_passphrase(id, key),
        Some(KeyKind::File) => by_file(id, key),
        // systemd's own secret is worth no more than a key file where nothing guards it: it is
        // taken unasked where systemd runs the machine, or a TPM is there.
        None if systemd_is_at_home() => by_systemd(id, key).or_else(|error| {
            tracing::debug!(%error, "no key by systemd-creds");
            by_file(id, key)
        }),
        None => by_file(id, key),
    }
}

/// Finds the data key of the store `id`. `opens` tells whether a key is the right one.
pub(super) fn find(id: &str, kept: &Kept, opens: &dyn Fn(&Key) -> bool) -> Result<Key, Error> {
    let cached = keyring::load(&keyring_name(id)).ok().flatten();
    let cached = cached.map(Zeroizing::new).and_then(|key| key_of(&key));
    if let Some(key) = cached.filter(|key| opens(key)) {
        return Ok(key);
    }
    let key = match kept {
        Kept::Keyring => {
            return Err(Error::KeyLost(
                "their key was in the kernel's keyring, which a restart of the machine empties; log in again",
            ));
        }
        Kept::SystemdCreds { encrypted } => decrypt_by_systemd(id, encrypted)?,
        Kept::Passphrase { .. } => return open_by_passphrase(id, kept, opens),
        Kept::File { path, sealed } => open_by_file(id, path, sealed)?,
    };
    if !opens(&key) {
        return Err(Error::KeyLost("the file was changed; log in again"));
    }
    if matches!(kept, Kept::SystemdCreds { .. }) {
        // Spares the TPM the next time; it works without.
        let _ = cache(id, &key);
    }
    Ok(key)
}

/// Forgets the data key of the store `id`.
pub(super) fn forget(id: &str, kept: &Kept) -> Result<(), Error> {
    // Where there are no keyrings there is nothing in them.
    let _ = keyring::remove(&keyring_name(id));
    if let Kept::File { path, .. } = kept
        && is_key_file(id, path)
    {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove the key of the saved credentials")(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// One sentence about how safe the credentials are.
pub(super) fn describe(kept: &Kept, sealed: &Path) -> String {
    let sealed = sealed.display();
    match kept {
        Kept::Keyring => format!(
            "Your credentials are sealed in {sealed}; their key is in the kernel's keyring until the machine restarts, then log in again."
        ),
        Kept::SystemdCreds { .. } => format!(
            "Your credentials are sealed in {sealed}; systemd-creds protects their key{}.",
            if has_tpm() {
                " by the TPM"
            } else {
                " by the host's secret in /var/lib/systemd, which root can read"
            }
        ),
        Kept::Passphrase { .. } => format!(
            "Your credentials are sealed in {sealed} by your passphrase, which is asked for again after a restart of the machine."
        ),
        Kept::File { path, .. } => format!(
            "WARNING! Your credentials are sealed in {sealed}, but their key is only a file, {}, that whoever is {} can read: configure a credential helper, or use --passphrase.",
            path.display(),
            if is_root() { "root" } else { "this user" }
        ),
    }
}

fn context(id: &str) -> String {
    format!("sampan data key {id}")
}

fn keyring_name(id: &str) -> CString {
    let id: String = id.chars().filter(char::is_ascii_hexdigit).collect();
    CString::new(format!("sampan:credentials:{id}")).expect("hex digits have no NUL")
}

fn cache(id: &str, key: &Key) -> io::Result<()> {
    keyring::store(&keyring_name(id), &key[..], None)
}

fn systemd_is_at_home() -> bool {
    is_root() && (Path::new("/run/systemd/system").is_dir() || has_tpm())
}

fn has_tpm() -> bool {
    Path::new("/dev/tpmrm0").exists()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn by_systemd(id: &str, key: &Key) -> Result<Kept, Error> {
    let text = STANDARD.encode(&key[..]);
    let encrypted = systemd_creds("encrypt", id, text.as_bytes())?;
    let encrypted = String::from_utf8_lossy(&encrypted).trim().to_owned();
    // What cannot be opened now will not be later.
    if decrypt_by_systemd(id, &encrypted)? != *key {
        return Err(Error::Protect {
            kind: SYSTEMD_CREDS,
            reason: "it gives back something else".to_owned(),
        });
    }
    Ok(Kept::SystemdCreds { encrypted })
}

fn decrypt_by_systemd(id: &str, encrypted: &str) -> Result<Key, Error> {
    let text = systemd_creds("decrypt", id, encrypted.as_bytes())?;
    let key = STANDARD.decode(&*text).map(Zeroizing::new).ok();
    key.and_then(|key| key_of(&key))
        .ok_or(Error::KeyLost("systemd-creds gives no key; log in again"))
}

/// Runs systemd-creds(1); both texts go through pipes.
fn systemd_creds(verb: &str, id: &str, input: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let failed = |reason: String| Error::Protect {
        kind: SYSTEMD_CREDS,
        reason,
    };
    let mut child = Command::new(SYSTEMD_CREDS)
        .arg(verb)
        .arg(format!("--name=sampan-{id}"))
        .args(["-", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that does not read says why in its own words.
        let _ = stdin.write_all(input);
    }
    let output = child
        .wait_with_output()
        .map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(failed(said));
    }
    Ok(Zeroizing::new(output.stdout))
}

fn stretch(passphrase: &str, salt: &[u8], memory_kib: u32, passes: u32) -> Result<Key, Error> {
    let wrong = |error: argon2::Error| Error::Protect {
        kind: "a passphrase",
        reason: error.to_string(),
    };
    let bounded = memory_kib <= MOST_MEMORY_KIB && passes <= MOST_PASSES;
    if !bounded {
        return Err(Error::KeyLost("the file was changed; log in again"));
    }
    let parameters = Params::new(memory_kib, passes, 1, Some(32)).map_err(wrong)?;
    let mut key = Zeroizing::new([0; 32]);
    Argon2::new(Algorithm::Argon2id, Version::V0x13, parameters)
        .hash_password_into(passphrase.as_bytes(), salt, &mut *key)
        .map_err(wrong)?;
    Ok(key)
}

fn by_passphrase(id: &str, key: &Key) -> Result<Kept, Error> {
    let passphrase = new_passphrase()?;
    let salt = random::<16>();
    let wrapping = stretch(&passphrase, &salt[..], MEMORY_KIB, PASSES)?;
    let kept = Kept::Passphrase {
        salt: STANDARD.encode(&salt[..]),
        memory_kib: MEMORY_KIB,
        passes: PASSES,
        sealed: seal(&wrapping, &context(id), &key[..]),
    };
    // Without a keyring the passphrase is asked for each time.
    let _ = cache(id, key);
    Ok(kept)
}

fn open_by_passphrase(id: &str, kept: &Kept, opens: &dyn Fn(&Key) -> bool) -> Result<Key, Error> {
    let Kept::Passphrase {
        salt,
        memory_kib,
        passes,
        sealed,
    } = kept
    else {
        return Err(Error::Locked("they have no passphrase".to_owned()));
    };
    let salt = STANDARD
        .decode(salt)
        .map_err(|_| Error::KeyLost("the file was changed; log in again"))?;
    let passphrase = known_passphrase()?;
    let wrapping = stretch(&passphrase, &salt, *memory_kib, *passes)?;
    let key = unseal(&wrapping, &context(id), sealed)
        .and_then(|key| key_of(&key))
        .filter(|key| opens(key))
        .ok_or_else(|| Error::Locked("this is not their passphrase".to_owned()))?;
    // Without a keyring the passphrase is asked for each time.
    let _ = cache(id, &key);
    Ok(key)
}

fn new_passphrase() -> Result<Zeroizing<String>, Error> {
    let passphrase = match passphrase_from_file()? {
        Some(passphrase) => passphrase,
        None => {
            let passphrase = prompt("Passphrase for saved credentials: ")?;
            if prompt("The passphrase again: ")? != passphrase {
                return Err(Error::Locked("the passphrases differ".to_owned()));
            }
            passphrase
        }
    };
    if passphrase.is_empty() {
        return Err(Error::Locked("the passphrase is empty".to_owned()));
    }
    Ok(passphrase)
}

fn known_passphrase() -> Result<Zeroizing<String>, Error> {
    match passphrase_from_file()? {
        Some(passphrase) => Ok(passphrase),
        None => prompt("Passphrase for saved credentials: "),
    }
}

fn prompt(question: &str) -> Result<Zeroizing<String>, Error> {
    if !terminal::stdin_is_terminal() {
        return Err(Error::Locked(format!(
            "their passphrase can be typed on a terminal only; {PASSPHRASE_FILE} may name a file that has it"
        )));
    }
    terminal::read_secret(question).map_err(Error::io("read the passphrase"))
}

fn passphrase_from_file() -> Result<Option<Zeroizing<String>>, Error> {
    let Some(path) = variable(PASSPHRASE_FILE) else {
        return Ok(None);
    };
    let text = std::fs::read_to_string(&path).map_err(|error| Error::File {
        file: path,
        reason: error.to_string(),
    })?;
    let text = Zeroizing::new(text);
    let line = text.lines().next().unwrap_or_default();
    Ok(Some(Zeroizing::new(line.to_owned())))
}

/// Where key files are: not where the credentials are.
fn key_directory() -> PathBuf {
    if is_root() {
        return Paths::from_environment().root.join(KEY_DIRECTORY);
    }
    let state = variable("XDG_STATE_HOME").map_or_else(
        || PathBuf::from(variable("HOME").unwrap_or_default()).join(".local/state"),
        PathBuf::from,
    );
    state.join("sampan").join(KEY_DIRECTORY)
}

/// A key file alone, as in a backup, does not open credentials on another machine.
fn bind_to_machine(key: &Key) -> Key {
    let machine = std::fs::read("/etc/machine-id").unwrap_or_default();
    let tag = hmac::sign(
        &hmac::Key::new(hmac::HMAC_SHA256, &key[..]),
        machine.trim_ascii(),
    );
    key_of(tag.as_ref()).expect("SHA-256 has 32 bytes")
}

fn by_file(id: &str, key: &Key) -> Result<Kept, Error> {
    let directory = key_directory();
    sampan_fs::create_dir_all(&directory, 0o700)?;
    let path = std::path::absolute(directory)
        .map_err(Error::io("find the directory of keys"))?
        .join(format!("{id}.key"));
    let file_key: Key = random();
    let text = Zeroizing::new(STANDARD.encode(&file_key[..]));
    sampan_fs::write_file(&path, text.as_bytes(), Sync::Durable)?;
    Ok(Kept::File {
        sealed: seal(&bind_to_machine(&file_key), &context(id), &key[..]),
        path,
    })
}

/// Whether a path that the credentials' file gives can be one of [`by_file`]: nothing else is
/// read or removed, whoever wrote that file.
fn is_key_file(id: &str, path: &Path) -> bool {
    let hex = !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_hexdigit());
    hex && path.is_absolute() && path.ends_with(Path::new(KEY_DIRECTORY).join(format!("{id}.key")))
}

fn open_by_file(id: &str, path: &Path, sealed: &str) -> Result<Key, Error> {
    if !is_key_file(id, path) {
        return Err(Error::KeyLost("the file was changed; log in again"));
    }
    let text = match std::fs::read(path) {
        Ok(text) => Zeroizing::new(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::KeyLost("their key file is missing; log in again"));
        }
        Err(error) => {
            return Err(Error::File {
                file: path.display().to_string(),
                reason: error.to_string(),
            });
        }
    };
    STANDARD
        .decode(text.trim_ascii())
        .ok()
        .map(Zeroizing::new)
        .and_then(|key| key_of(&key))
        .and_then(|key| unseal(&bind_to_machine(&key), &context(id), sealed))
        .and_then(|key| key_of(&key))
        .ok_or(Error::KeyLost(
            "their key file is another one, or this is another machine; log in again",
        ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_and_context_open() {
        let (key, other): (Key, Key) = (random(), random());
        let sealed = seal(&key, "a", b"secret");
        assert_eq!(unseal(&key, "a", &sealed).unwrap().as_slice(), b"secret");
        assert!(unseal(&other, "a", &sealed).is_none());
        assert!(unseal(&key, "b", &sealed).is_none());
        for bad in ["", "AAAA", "%", &sealed[..sealed.len() - 4]] {
            assert!(unseal(&key, "a", bad).is_none(), "{bad}");
        }
        assert_ne!(sealed, seal(&key, "a", b"secret"), "each has its own nonce");
    }

    #[test]
    fn only_key_files_are_read_and_removed() {
        let directory = tempfile::tempdir().unwrap();
        let keys = directory.path().join(KEY_DIRECTORY);
        std::fs::create_dir(&keys).unwrap();
        let kept = |path: &Path| Kept::File {
            path: path.to_owned(),
            sealed: String::new(),
        };
        for (id, path) in [
            ("ab", directory.path().join("ab.key")),
            ("ab", keys.join("cd.key")),
            ("", keys.join(".key")),
            ("../x", keys.join("../x.key")),
        ] {
            std::fs::write(&path, "precious").unwrap();
            assert!(open_by_file(id, &path, "").is_err());
            forget(id, &kept(&path)).unwrap();
            assert!(path.exists(), "{}", path.display());
        }
        let key = keys.join("ab.key");
        std::fs::write(&key, "").unwrap();
        forget("ab", &kept(&key)).unwrap();
        assert!(!key.exists());
    }

    #[test]
    fn passphrases_are_stretched_within_bounds() {
        let key = |passphrase: &str, salt: &[u8]| stretch(passphrase, salt, 64, 1).unwrap();
        assert_eq!(key("p", b"12345678"), key("p", b"12345678"));
        assert_ne!(key("p", b"12345678"), key("q", b"12345678"));
        assert_ne!(key("p", b"12345678"), key("p", b"12345679"));
        assert!(stretch("p", b"12345678", u32::MAX, 1).is_err());
        assert!(stretch("p", b"12345678", 64, u32::MAX).is_err());
    }
}
