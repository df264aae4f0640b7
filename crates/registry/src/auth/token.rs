//! Tokens: JSON web tokens with an HMAC, made and read by this registry alone.
//!
//! A token names a user and what it is good for. It is short-lived, and what it says is checked
//! against the rules again whenever it is used.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use ring::hmac;
use serde::{Deserialize, Serialize};

use crate::access::{Access, Grant, Right};
use crate::storage::StorageError;

/// How long a token is good.
const LIFE: i64 = 300;
/// How far clocks may be apart; a token may also be read by the registry's next process.
const SKEW: i64 = 30;
const ISSUER: &str = "sampan-registry";
/// The longest token that is read.
const MAX_TOKEN: usize = 16 << 10;
/// The most scopes that one token has.
const MAX_SCOPES: usize = 100;

/// Makes and reads tokens.
pub struct TokenKey {
    key: hmac::Key,
    service: String,
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

#[derive(Serialize, Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: String,
    iat: i64,
    nbf: i64,
    exp: i64,
    access: Vec<Claim>,
}

#[derive(Serialize, Deserialize)]
struct Claim {
    r#type: String,
    name: String,
    actions: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    alg: String,
    typ: String,
}

/// A token as a client gets it.
pub(crate) struct Issued {
    pub(crate) token: String,
    pub(crate) life: i64,
    pub(crate) issued: Timestamp,
}

/// What a token says.
pub(crate) struct Verified {
    pub(crate) user: Arc<str>,
    pub(crate) grants: Arc<[Grant]>,
}

/// What a client wants a token for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Scope {
    kind: String,
    name: String,
    actions: Vec<String>,
}

impl Scope {
    /// Reads `repository:name:pull,push`; the name may have colons.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (name, actions) = rest.rsplit_once(':')?;
        // `repository(plugin)` is Docker's name for repositories of a class.
        let kind = kind.split('(').next().unwrap_or_default();
        Some(Self {
            kind: kind.to_owned(),
            name: name.to_owned(),
            actions: actions
                .split(',')
                .map(|word| word.trim().to_owned())
                .collect(),
        })
    }
}

impl TokenKey {
    /// Reads the key from a file that only its owner may read, or makes one.
    pub fn open(path: impl AsRef<Path>, service: &str) -> Result<Self, StorageError> {
        let path = path.as_ref();
        let failed =
            |error: &dyn fmt::Display| StorageError::failed("read the key of tokens", error);
        let secret = match std::fs::read(path) {
            Ok(secret) if secret.len() >= 32 => secret,
            Ok(_) => return Err(failed(&"it is too short")),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let mut secret = vec![0; 32];
                rustix::rand::getrandom(&mut secret[..], rustix::rand::GetRandomFlags::empty())
                    .map_err(|error| failed(&error))?;
                sampan_fs::write_file(path, &secret, sampan_fs::Sync::Durable)
                    .map_err(|error| failed(&error))?;
                secret
            }
            Err(error) => return Err(failed(&error)),
        };
        Ok(Self::new(&secret, service))
    }

    fn new(secret: &[u8], service: &str) -> Self {
        Self {
            key: hmac::Key::new(hmac::HMAC_SHA256, secret),
            service: service.to_owned(),
        }
    }

    /// The name of the service that tokens are for.
    pub(crate) fn service(&self) -> &str {
        &self.service
    }

    /// Issues a token for as much of what is wanted as the client may have.
    pub(crate) fn issue(&self, access: &Access, wanted: &[Scope]) -> Issued {
        let now = Timestamp::now();
        let claims = Claims {
            iss: ISSUER.to_owned(),
            sub: access.user().unwrap_or_default().to_owned(),
            aud: self.service.clone(),
            iat: now.as_second(),
            nbf: now.as_second() - SKEW,
            exp: now.as_second() + LIFE,
            access: wanted
                .iter()
                .take(MAX_SCOPES)
                .filter_map(|scope| granted(access, scope))
                .collect(),
        };
        let header = Header {
            alg: "HS256".to_owned(),
            typ: "JWT".to_owned(),
        };
        let mut token = format!("{}.{}", encode(&header), encode(&claims));
        let signature = hmac::sign(&self.key, token.as_bytes());
        token.push('.');
        token.push_str(&URL_SAFE_NO_PAD.encode(signature));
        Issued {
            token,
            life: LIFE,
            issued: now,
        }
    }

    /// Reads a token; none if it is not ours or not good now.
    pub(crate) fn verify(&self, token: &str) -> Option<Verified> {
        self.verify_at(token, Timestamp::now().as_second())
    }

    fn verify_at(&self, token: &str, now: i64) -> Option<Verified> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        let (header, claims) = signed.split_once('.')?;
        let header: Header = decode(header)?;
        let claims: Claims = decode(claims)?;
        let right = header.alg == "HS256"
            && claims.iss == ISSUER
            && claims.aud == self.service
            && claims.nbf - SKEW <= now
            && now < claims.exp;
        if !right {
            return None;
        }
        let grants = claims.access.into_iter().filter_map(grant).collect();
        Some(Verified {
            user: claims.sub.into(),
            grants,
        })
    }
}

fn encode(value: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(value).expect("texts and numbers are always JSON"))
}

fn decode<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}

fn granted(access: &Access, scope: &Scope) -> Option<Claim> {
    if scope.kind != "repository" {
        return None;
    }
    let wants = |right: Right| {
        let mut actions = scope.actions.iter();
        actions.any(|action| action == "*" || action == right.as_str())
    };
    let actions: Vec<String> = Right::ALL
        .into_iter()
        .filter(|right| wants(*right) && access.may_ever(&scope.name, *right))
        .map(|right| right.as_str().to_owned())
        .collect();
    (!actions.is_empty()).then(|| Claim {
        r#type: scope.kind.clone(),
        name: scope.name.clone(),
        actions,
    })
}

fn grant(claim: Claim) -> Option<Grant> {
    if claim.r#type != "repository" {
        return None;
    }
    let has = |right: &Right| claim.actions.iter().any(|action| action == right.as_str());
    Some(Grant {
        rights: Right::ALL.into_iter().filter(has).collect(),
        repository: claim.name.into(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Policy, Subject};

    fn access(user: Option<&str>) -> Access {
        let policy = Arc::new(Policy::all_to(Subject::Authenticated));
        Access::new(user.map(Into::into), policy)
    }

    fn scope(text: &str) -> Scope {
        Scope::parse(text).unwrap()
    }

    #[test]
    fn a_token_says_what_was_granted() {
        let key = TokenKey::new(&[1; 32], "here");
        let wanted = [
            scope("repository:a/b:pull,push"),
            scope("registry:catalog:*"),
        ];
        let issued = key.issue(&access(Some("alice")), &wanted);
        let read = key.verify(&issued.token).unwrap();
        assert_eq!(&*read.user, "alice");
        let expected = Grant {
            repository: "a/b".into(),
            rights: vec![Right::Pull, Right::Push],
        };
        assert_eq!(*read.grants, [expected]);
        let nothing = key.issue(&access(None), &wanted);
        assert!(key.verify(&nothing.token).unwrap().grants.is_empty());
    }

    #[test]
    fn forged_foreign_and_old_tokens_are_refused() {
        let key = TokenKey::new(&[1; 32], "here");
        let token = key.issue(&access(Some("alice")), &[]).token;
        let now = Timestamp::now().as_second();
        assert!(key.verify_at(&token, now).is_some());
        assert!(key.verify_at(&token, now + LIFE + 1).is_none());
        assert!(key.verify_at(&token, now - 1000).is_none());
        assert!(TokenKey::new(&[2; 32], "here").verify(&token).is_none());
        assert!(TokenKey::new(&[1; 32], "there").verify(&token).is_none());
        let parts: Vec<&str> = token.split('.').collect();
        let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        for bad in [
            "".to_owned(),
            "a.b.c".to_owned(),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{none}.{}.", parts[1]),
            format!("{none}.{}.{}", parts[1], parts[2]),
            format!("{}.{}A.{}", parts[0], parts[1], parts[2]),
            "x".repeat(MAX_TOKEN + 1),
        ] {
            assert!(key.verify(&bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn scopes_are_read_from_both_ends() {
        let read = scope("repository:host:5000/a:pull");
        assert_eq!((read.name.as_str(), read.actions.len()), ("host:5000/a", 1));
        assert_eq!(scope("repository(plugin):a:pull").kind, "repository");
        assert!(Scope::parse("repository:a").is_none());
        assert!(Scope::parse("").is_none());
    }
}
