//! Users and their passwords, as `htpasswd -B` writes them.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ring::hmac;
use tokio::sync::Semaphore;

/// How long a password that was right is not hashed again: bcrypt is slow on purpose, and a pull
/// is many requests.
const REMEMBER: Duration = Duration::from_secs(300);
/// Passwords remembered.
const MEMORY: usize = 4096;
/// Passwords hashed at once.
const HASHING: usize = 2;
/// How hard passwords are hashed: some 50 ms.
const COST: u32 = 10;

/// The file of users is not one.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot read the users in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A line has another form.
    #[error(
        "line {line} of {} is not of the form user:hash with a bcrypt hash, as `htpasswd -B` writes it",
        path.display()
    )]
    Line {
        /// The file.
        path: PathBuf,
        /// Which one.
        line: usize,
    },
}

/// The users of a registry.
#[derive(Debug)]
pub struct Users {
    path: PathBuf,
    hashes: Mutex<Arc<HashMap<Box<str>, Box<str>>>>,
    known: Mutex<HashMap<[u8; 32], Instant>>,
    key: hmac::Key,
    hashing: Semaphore,
    /// What is checked for a user who is not there, so that it takes as long.
    nobody: Box<str>,
}

impl Users {
    /// Reads the users from a file.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, UsersError> {
        let path = path.as_ref().to_path_buf();
        let hashes = read(&path)?;
        let mut secret = [0; 32];
        rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty()).map_err(
            |error| UsersError::Read {
                path: path.clone(),
                source: error.into(),
            },
        )?;
        let nobody = bcrypt::hash("", COST).map_err(|error| UsersError::Read {
            path: path.clone(),
            source: io::Error::other(error),
        })?;
        Ok(Self {
            nobody: nobody.into(),
            path,
            hashes: Mutex::new(Arc::new(hashes)),
            known: Mutex::default(),
            key: hmac::Key::new(hmac::HMAC_SHA256, &secret),
            hashing: Semaphore::new(HASHING),
        })
    }

    /// Reads the file again.
    pub fn reload(&self) -> Result<(), UsersError> {
        let hashes = read(&self.path)?;
        *self.hashes.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(hashes);
        self.known().clear();
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, HashMap<[u8; 32], Instant>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the user if the password is right.
    pub(crate) async fn verify(&self, user: &str, password: &str) -> Option<Arc<str>> {
        let hashes = {
            let hashes = self.hashes.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(&hashes)
        };
        let hash = hashes.get(user);
        let checked = hash.unwrap_or(&self.nobody).clone();
        let print = self.print(user, password, &checked);
        let now = Instant::now();
        if self.known().get(&print).is_some_and(|until| *until > now) {
            return Some(user.into());
        }
        let _turn = self.hashing.acquire().await.ok()?;
        let password = password.to_owned();
        let right = tokio::task::spawn_blocking(move || bcrypt::verify(password, &checked));
        let right = matches!(right.await, Ok(Ok(true)));
        if !right || hash.is_none() {
            return None;
        }
        let mut known = self.known();
        if known.len() >= MEMORY {
            known.retain(|_, until| *until > now);
            if known.len() >= MEMORY {
                known.clear();
            }
        }
        known.insert(print, now + REMEMBER);
        Some(user.into())
    }

    /// A keyed print of a password: what is remembered is of no use to anybody else.
    fn print(&self, user: &str, password: &str, hash: &str) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for text in [user, password, hash] {
            context.update(&(text.len() as u64).to_le_bytes());
            context.update(text.as_bytes());
        }
        let mut print = [0; 32];
        print.copy_from_slice(context.sign().as_ref());
        print
    }
}

fn read(path: &Path) -> Result<HashMap<Box<str>, Box<str>>, UsersError> {
    let text = std::fs::read_to_string(path).map_err(|source| UsersError::Read {
        path: path.to_path_buf(),
        source,
    })?;
    let mut hashes = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let pair = line
            .split_once(':')
            .filter(|(user, hash)| !user.is_empty() && hash.starts_with("$2"));
        let Some((user, hash)) = pair else {
            return Err(UsersError::Line {
                path: path.to_path_buf(),
                line: number + 1,
            });
        };
        hashes.insert(user.into(), hash.into());
    }
    Ok(hashes)
}

/// Hashes a password for a file of users. Takes a while on purpose.
pub fn hash_password(password: &str) -> Result<String, String> {
    bcrypt::hash(password, COST).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_user_does() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        let hash = bcrypt::hash("secret", 4).unwrap();
        std::fs::write(&file, format!("# people\n\nalice:{hash}\n")).unwrap();
        let users = Users::open(&file).unwrap();
        for _ in 0..2 {
            assert_eq!(
                users.verify("alice", "secret").await.as_deref(),
                Some("alice")
            );
            assert!(users.verify("alice", "wrong").await.is_none());
            assert!(users.verify("bob", "secret").await.is_none());
        }
        let hash = bcrypt::hash("other", 4).unwrap();
        std::fs::write(&file, format!("alice:{hash}\n")).unwrap();
        users.reload().unwrap();
        assert!(users.verify("alice", "secret").await.is_none());
        assert!(users.verify("alice", "other").await.is_some());
        assert!(!format!("{users:?}").contains("other"));
    }

    #[test]
    fn weak_hashes_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("users");
        for line in ["alice:plain", "alice:{SHA}x", "alice", ":$2y$05$x"] {
            std::fs::write(&file, line).unwrap();
            assert!(Users::open(&file).is_err(), "{line}");
        }
    }
}
