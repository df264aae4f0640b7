//! Who a client is: nobody asks, a password, or a token that this registry issued.

mod token;
mod users;

use std::sync::{Arc, RwLock};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use http::header::{AUTHORIZATION, HeaderMap};

use crate::access::{Access, Policy, Subject};

pub use token::TokenKey;
pub(crate) use token::{Issued, Scope};
pub use users::{Users, UsersError, hash_password};

/// How clients say who they are.
#[derive(Debug)]
pub enum Scheme {
    /// They do not: everybody is nobody.
    Open,
    /// By user name and password with each request.
    Basic(Users),
    /// By a token, which this registry gives for user name and password.
    Token(Users, TokenKey),
}

/// Tells who a client is and what it may do.
#[derive(Debug)]
pub struct Authentication {
    scheme: Scheme,
    policy: RwLock<Arc<Policy>>,
}

/// Why a client is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// User name and password are wrong.
    Credentials,
    /// The token is not ours, or too old.
    Token,
    /// The header is none that is understood.
    Header,
}

impl Authentication {
    /// Makes it of a scheme and rules. No rules at all give everything to whoever can be told to
    /// be somebody, which is everybody where nobody is asked.
    pub fn new(scheme: Scheme, policy: Option<Policy>) -> Self {
        let usual = match scheme {
            Scheme::Open => Policy::all_to(Subject::Anyone),
            Scheme::Basic(_) | Scheme::Token(..) => Policy::all_to(Subject::Authenticated),
        };
        Self {
            scheme,
            policy: RwLock::new(Arc::new(policy.unwrap_or(usual))),
        }
    }

    pub(crate) fn scheme(&self) -> &Scheme {
        &self.scheme
    }

    /// Reads the file of users again.
    pub fn reload(&self) -> Result<(), UsersError> {
        match &self.scheme {
            Scheme::Open => Ok(()),
            Scheme::Basic(users) | Scheme::Token(users, _) => users.reload(),
        }
    }

    fn policy(&self) -> Arc<Policy> {
        let policy = self.policy.read();
        Arc::clone(&policy.unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Tells who sent a request with these headers.
    pub(crate) async fn access(&self, headers: &HeaderMap) -> Result<Access, Denied> {
        let policy = self.policy();
        let Some(value) = headers.get(AUTHORIZATION) else {
            return Ok(Access::new(None, policy));
        };
        let text = value.to_str().map_err(|_| Denied::Header)?;
        let (kind, rest) = text.split_once(' ').unwrap_or((text, ""));
        match &self.scheme {
            // Whatever a client says, it is nobody.
            Scheme::Open => Ok(Access::new(None, policy)),
            Scheme::Token(_, key) if kind.eq_ignore_ascii_case("bearer") => {
                let token = key.verify(rest.trim()).ok_or(Denied::Token)?;
                let user = Some(token.user).filter(|user| !user.is_empty());
                Ok(Access::new(user, policy).restricted(token.grants))
            }
            Scheme::Basic(users) | Scheme::Token(users, _) => {
                if !kind.eq_ignore_ascii_case("basic") {
                    return Err(Denied::Header);
                }
                let (user, password) = credentials(rest).ok_or(Denied::Header)?;
                // What skopeo, podman and buildah send when they were given neither.
                if user.is_empty() && password.is_empty() {
                    return Ok(Access::new(None, policy));
                }
                let user = users.verify(&user, &password).await;
                let user = user.ok_or(Denied::Credentials)?;
                Ok(Access::new(Some(user), policy))
            }
        }
    }

    /// Tells who has this user name and password.
    pub(crate) async fn login(&self, user: &str, password: &str) -> Result<Access, Denied> {
        match &self.scheme {
            Scheme::Open => Ok(Access::new(None, self.policy())),
            Scheme::Basic(users) | Scheme::Token(users, _) => {
                let user = users.verify(user, password).await;
                let user = user.ok_or(Denied::Credentials)?;
                Ok(Access::new(Some(user), self.policy()))
            }
        }
    }
}

fn credentials(text: &str) -> Option<(String, String)> {
    let text = text.trim();
    let bytes = STANDARD
        .decode(text)
        .or_else(|_| STANDARD_NO_PAD.decode(text))
        .ok()?;
    let text = String::from_utf8(bytes).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_owned(), password.to_owned()))
}
