//! Sources that `ADD` fetches: files by URL, and repositories.

use std::collections::BTreeMap;
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixListener;
use std::sync::Arc;

use base64::prelude::{BASE64_STANDARD, Engine as _};
use sampan_dockerfile::{Add, Source};
use sampan_images::{HeldLayer, ImageStore};
use sampan_text::path::below_root;
use tokio_util::sync::CancellationToken;

use crate::agent::{Agent, serve_while};
use crate::cache::Cache;
use crate::context::Context;
use crate::copy::Fetched;
use crate::files::Files;
use crate::git::{self, GitSource, Login, Scratch};
use crate::secrets::Secrets;
use crate::solve::Solver;
use crate::web::{self, Download, Web, download};
use crate::{Error, Result};

/// The agent that repositories are fetched with.
const AGENT: &str = "default";

impl Solver<'_> {
    /// Fetches what an `ADD` names by its address. Layers that are made are added to `made`.
    pub(crate) fn fetch(
        &self,
        add: &Add,
        made: &mut Vec<HeldLayer>,
    ) -> Result<BTreeMap<String, Fetched>> {
        let sources = &add.transfer.sources;
        if add.checksum.is_some() && sources.len() > 1 {
            let why = "checksum can only be specified for a single source";
            return Err(Error::Step(why.to_owned()));
        }
        let mut fetched = BTreeMap::new();
        for source in sources {
            let Source::Path(text) = source else {
                continue;
            };
            let found = match GitSource::parse(text)? {
                Some(git) => Some(self.fetch_repository(git, add, made)?),
                None if web::is_url(text) => Some(self.fetch_file(text, add, made)?),
                None => None,
            };
            if let Some(found) = found {
                fetched.insert(text.clone(), found);
            }
        }
        if add.checksum.is_some() && fetched.is_empty() {
            let why = "checksum requires HTTP(S) or Git sources";
            return Err(Error::Step(why.to_owned()));
        }
        Ok(fetched)
    }

    fn fetcher(&self) -> Fetcher<'_> {
        Fetcher {
            images: self.build.images,
            cache: self.build.cache,
            secrets: self.build.secrets,
            web: self.build.web,
        }
    }

    fn fetch_file(&self, url: &str, add: &Add, made: &mut Vec<HeldLayer>) -> Result<Fetched> {
        let mut file = self.fetcher().file(url, &self.cancel)?;
        if let Some(checksum) = &add.checksum {
            file.check(checksum)?;
        }
        let images = self.build.images;
        let layer = file.layer(images)?;
        made.push(layer.clone());
        Ok(Fetched {
            files: Arc::new(Context::of_layer(layer).files(images)?),
            path: file.name.into_bytes(),
            commit: None,
            repository: None,
        })
    }

    fn fetch_repository(
        &self,
        mut source: GitSource,
        add: &Add,
        made: &mut Vec<HeldLayer>,
    ) -> Result<Fetched> {
        if let Some(checksum) = &add.checksum {
            if source.commit.as_ref().is_some_and(|of| of != checksum) {
                return Err(Error::Step(format!(
                    "the commit is named twice: {checksum} and in the address"
                )));
            }
            if !git::is_commit(checksum) {
                return Err(Error::Step(format!(
                    "invalid checksum {checksum:?}: no commit"
                )));
            }
            source.commit = Some(checksum.clone());
        }
        let build = self.build;
        let fetched = self.fetcher().repository(&source, made, &self.cancel)?;
        let files = Context::of_layers(fetched.layers).files(build.images)?;
        let path = below_root(&source.subdirectory);
        let resolved = files.resolve(path.as_bytes())?;
        if !resolved.exists {
            return Err(Error::Step(format!(
                "{path} is not in {} at {}",
                source.url, fetched.commit
            )));
        }
        let keeps = add.keep_git_dir || source.keep_git_dir == Some(true);
        let repository = match keeps {
            true => Some(Arc::new(Files::of_host(build.images, fetched.repository)?)),
            false => None,
        };
        Ok(Fetched {
            files: Arc::new(files),
            path: resolved.path,
            commit: Some(fetched.commit),
            repository,
        })
    }
}

/// Fetches with what a client lends.
#[derive(Clone, Copy)]
pub struct Fetcher<'a> {
    /// Where layers are.
    pub images: &'a ImageStore,
    /// Has a place for what is fetched.
    pub cache: &'a Cache,
    /// What authenticates.
    pub secrets: &'a dyn Secrets,
    /// Fetches files.
    pub web: &'a Web<'a>,
}

impl Fetcher<'_> {
    /// Fetches a file.
    pub(crate) fn file(&self, url: &str, cancel: &CancellationToken) -> Result<Download> {
        let host = web::host(url);
        let header = match self.secret(&format!("HTTP_AUTH_HEADER_{host}"))? {
            Some(header) => Some(header),
            None => {
                let token = self.secret(&format!("HTTP_AUTH_TOKEN_{host}"))?;
                token.map(|token| format!("Bearer {token}"))
            }
        };
        download(
            url,
            header.as_deref(),
            self.web,
            self.cache.scratch(),
            cancel,
        )
    }

    /// Fetches a repository.
    pub(crate) fn repository(
        &self,
        source: &GitSource,
        made: &mut Vec<HeldLayer>,
        cancel: &CancellationToken,
    ) -> Result<git::Fetched> {
        let host = source.host();
        let basic = |token: String| {
            let pair = BASE64_STANDARD.encode(format!("x-access-token:{token}"));
            format!("basic {pair}")
        };
        let of_host = self.secret(&format!("GIT_AUTH_HEADER.{host}"))?;
        let header = match of_host {
            Some(header) => Some(header),
            None => match self.secret(&format!("GIT_AUTH_TOKEN.{host}"))? {
                Some(token) => Some(basic(token)),
                None => match self.secret("GIT_AUTH_HEADER")? {
                    Some(header) => Some(header),
                    None => self.secret("GIT_AUTH_TOKEN")?.map(basic),
                },
            },
        };
        let scratch = self.cache.scratch();
        let mut fetch = |agent: Option<&str>| {
            let login = Login {
                header: header.as_deref(),
                agent,
            };
            source.fetch(scratch, self.images, login, made, cancel)
        };
        match source.is_over_ssh() {
            true => self.with_agent(&mut |socket| fetch(Some(socket))),
            false => fetch(None),
        }
    }

    /// Does something with the socket of the client's SSH agent.
    fn with_agent<T>(&self, work: &mut dyn FnMut(&str) -> Result<T>) -> Result<T> {
        if self.secrets.agent(AGENT)?.is_none() {
            return Err(Error::Step(
                "git over SSH needs an agent: start one with your key and build with --ssh default"
                    .to_owned(),
            ));
        }
        let scratch = Scratch::new(self.cache.scratch())?;
        // The path of a socket is short: the directory is named by its descriptor.
        let directory = sampan_fs::open_dir(scratch.path())?;
        let socket = format!(
            "/proc/{}/fd/{}/agent",
            std::process::id(),
            directory.as_raw_fd()
        );
        let listener = UnixListener::bind(&socket).map_err(Error::io("make an agent's socket"))?;
        let agent = Agent::new(listener, AGENT.to_owned());
        serve_while(&[agent], self.secrets, || work(&socket))
    }

    /// A secret of one line.
    fn secret(&self, id: &str) -> Result<Option<String>> {
        let Some(secret) = self.secrets.secret(id)? else {
            return Ok(None);
        };
        let wrong = || Error::Step(format!("the secret {id} is no single line of text"));
        let text = String::from_utf8(secret).map_err(|_| wrong())?;
        let text = text.trim_end_matches(['\r', '\n']);
        match text.contains(|c: char| c.is_control()) {
            true => Err(wrong()),
            false => Ok(Some(text.to_owned())),
        }
    }
}
