//! Whether a registry knows a user.

use http::{Method, StatusCode};

use crate::challenge::{Challenge, challenge};
use crate::client::{Access, Ask, Client, Failure, Place, Source};
use crate::token::basic;
use crate::{Credentials, Error, Result};

impl Client {
    /// Checks credentials with a registry, as in `docker.io` or `localhost:5000`.
    ///
    /// Returns the token that its token service gives to be kept in place of the password; empty
    /// if it gives none. A registry that asks nobody for anything accepts everybody.
    pub async fn log_in(&self, registry: &str, credentials: &Credentials) -> Result<String> {
        self.settings();
        let source = Source {
            registry: registry.to_owned(),
            repository: String::new(),
            credentials: credentials.clone(),
            title: registry.to_owned(),
            name: registry.to_owned(),
            access: Access::Nothing,
            is_mirror: false,
        };
        // Not `retry`: the future of an asynchronous closure could not move between threads.
        let mut attempt = 1;
        loop {
            let failure = match self.log_in_once(&source).await {
                Ok(token) => return Ok(token),
                Err(error) => Failure::from(error),
            };
            if !failure.may_pass(attempt, &self.0.config) {
                return Err(failure.error);
            }
            tokio::time::sleep(self.backoff(attempt)).await;
            attempt += 1;
        }
    }

    async fn log_in_once(&self, source: &Source) -> Result<String> {
        let ask = Ask {
            place: Place::Registry("v2/".to_owned()),
            ..Ask::new(source, Method::GET, "")
        };
        let (url, response) = self.send(&ask, None).await?;
        let wanted = match response.status() {
            StatusCode::UNAUTHORIZED => challenge(response.headers()),
            status if status.is_success() => return Ok(String::new()),
            status => return Err(unexpected(status)),
        };
        drop(response);
        let (authorization, token) = match wanted {
            None => return Err(Error::Protocol("it does not say how to log in".into())),
            Some(Challenge::Basic) => (basic(&source.credentials), String::new()),
            Some(Challenge::Bearer { realm, service, .. }) => {
                self.log_in_to_service(source, &url, &realm, &service)
                    .await?
            }
        };
        let status = self.send(&ask, Some(&authorization)).await?.1.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::LoginRefused {
                url: url.into(),
                status: status.to_string(),
            }),
            status if status.is_success() => Ok(token),
            status => Err(unexpected(status)),
        }
    }
}

fn unexpected(status: StatusCode) -> Error {
    Error::Status {
        status: status.to_string(),
        code: status.as_u16(),
    }
}
