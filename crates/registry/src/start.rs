//! A service from a configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::access::Policy;
use crate::audit::AuditLog;
use crate::auth::{Authentication, Scheme, TokenKey, Users, UsersError};
use crate::cache::Upstream;
use crate::config::{AuthScheme, Cache, Config};
use crate::error::Error;
use crate::http::{Parts, Service};
use crate::registry::Registry;
use crate::storage::{Files, Storage, StorageError};
use crate::tls::{Certificate, TlsError};

/// A registry cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The store cannot be opened.
    #[error("cannot open the store in {}", root.display())]
    Store {
        /// Where it is.
        root: PathBuf,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// The bucket cannot be used.
    #[error("cannot use the bucket {bucket}")]
    Bucket {
        /// Its name.
        bucket: String,
        /// Why.
        #[source]
        source: StorageError,
    },
    /// What the store holds cannot be read.
    #[error("cannot read what the registry holds")]
    Load(#[source] Error),
    /// The users cannot be read.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// The certificate cannot be used.
    #[error(transparent)]
    Certificate(#[from] TlsError),
    /// A file that the configuration names cannot be used.
    #[error("cannot use {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The configuration asks for what cannot be.
    #[error("{0}")]
    Config(String),
}

impl Service {
    /// Opens the store in `root` and all that the configuration names.
    pub async fn start(config: &Config, root: &Path) -> Result<Self, StartError> {
        let in_store = |source| StartError::Store {
            root: root.to_path_buf(),
            source,
        };
        let files = Files::open(root).map_err(in_store)?;
        let scheme = scheme(config, root)?;
        let storage = storage(config, files).await?;
        let registry = Registry::open(storage, config.settings())
            .await
            .map_err(StartError::Load)?;
        let audit = config.audit_log.as_ref().map(|path| {
            AuditLog::open(path).map_err(|source| StartError::File {
                path: path.clone(),
                source,
            })
        });
        let certificate = config
            .tls
            .as_ref()
            .map(|tls| Certificate::open(tls.certificate.clone(), tls.key.clone()));
        let upstreams: Result<Vec<Upstream>, StartError> =
            config.caches.iter().map(upstream).collect();
        let parts = Parts {
            limits: config.limits(),
            authentication: Some(Authentication::new(
                scheme,
                config.rules.clone().map(Policy::new),
            )),
            audit: audit.transpose()?,
            public_url: config.public_url.clone(),
            certificate: certificate.transpose()?,
            upstreams: upstreams?,
        };
        Ok(Self::new(registry, parts))
    }
}

#[cfg(feature = "s3")]
async fn storage(config: &Config, files: Files) -> Result<Arc<dyn Storage>, StartError> {
    use crate::storage::Bucket;

    let Some(s3) = &config.s3 else {
        return Ok(Arc::new(files));
    };
    let failed = |error: StorageError| StartError::Bucket {
        bucket: s3.bucket.clone(),
        source: error,
    };
    let mut s3 = s3.clone();
    if let Some(path) = &s3.secret_access_key_file {
        s3.secret_access_key = Some(secret(path)?);
    }
    // The directory stays locked: what else is in it belongs to this process.
    let bucket = Bucket::connect(&s3, files).await.map_err(failed)?;
    Ok(Arc::new(bucket))
}

#[cfg(not(feature = "s3"))]
async fn storage(config: &Config, files: Files) -> Result<Arc<dyn Storage>, StartError> {
    if config.s3.is_some() {
        let message = "this build has no support for S3";
        return Err(StartError::Config(message.to_owned()));
    }
    Ok(Arc::new(files))
}

fn secret(path: &Path) -> Result<String, StartError> {
    std::fs::read_to_string(path)
        .map(|text| text.trim_end_matches('\n').to_owned())
        .map_err(|source| StartError::File {
            path: path.to_path_buf(),
            source,
        })
}

fn scheme(config: &Config, root: &Path) -> Result<Scheme, StartError> {
    let users = || match &config.auth.users {
        Some(path) => Ok(Users::open(path)?),
        None => Err(StartError::Config("there is no file of users".to_owned())),
    };
    Ok(match config.auth.scheme {
        AuthScheme::None => Scheme::Open,
        AuthScheme::Basic => Scheme::Basic(users()?),
        AuthScheme::Token => {
            let service = config.auth.service.as_deref().unwrap_or("sampan-registry");
            let key = TokenKey::open(root.join("token.key"), service);
            let key = key.map_err(|source| StartError::Store {
                root: root.to_path_buf(),
                source,
            })?;
            Scheme::Token(users()?, key)
        }
    })
}

fn upstream(cache: &Cache) -> Result<Upstream, StartError> {
    let (scheme, rest) = match cache.upstream.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, cache.upstream.as_str()),
    };
    let registry = match rest.trim_end_matches('/') {
        // All names of Docker Hub.
        "registry-1.docker.io" | "index.docker.io" | "hub.docker.com" => "docker.io",
        other => other,
    };
    let fits = matches!(scheme, None | Some("https" | "http"))
        && sampan_oci::Reference::new(registry, "x", None, None).is_ok();
    if !fits {
        let message = format!(
            "{:?} is no registry: use a host, as in docker.io or https://registry.example.com",
            cache.upstream
        );
        return Err(StartError::Config(message));
    }
    let password = match &cache.password_file {
        Some(path) => secret(path)?,
        None => cache.password.clone().unwrap_or_default(),
    };
    Ok(Upstream {
        prefix: cache.prefix.trim_matches('/').to_owned(),
        registry: registry.to_owned(),
        insecure: cache.insecure || scheme == Some("http"),
        credentials: crate::Credentials {
            username: cache.username.clone().unwrap_or_default(),
            password,
            ..crate::Credentials::default()
        },
        token_hosts: cache.token_hosts.clone(),
        fresh: cache.fresh.map(|time| time.0),
        keep: cache.keep.map(|time| time.0),
    })
}
