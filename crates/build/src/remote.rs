//! Contexts that are named by an address.

use std::collections::BTreeMap;
use std::sync::Arc;

use sampan_archive::{Attributes, LayerWriter};
use sampan_dockerfile::{MAX_SIZE, Source, Transfer};
use sampan_images::HeldLayer;
use sampan_text::path::below_root;
use tokio_util::sync::CancellationToken;

use crate::context::Context;
use crate::copy::{Unpack, Wish, is_archive, select};
use crate::fetch::Fetcher;
use crate::files::{Files, Kind};
use crate::git::GitSource;
use crate::times::Times;
use crate::web::is_url;
use crate::{Error, Result};

/// What a Dockerfile that came alone is called.
pub(crate) const ALONE: &str = "Dockerfile";

/// Files at an address.
#[derive(Debug)]
pub struct Remote {
    /// The files.
    pub context: Context,
    /// There is nothing but a Dockerfile, of that name.
    pub is_dockerfile: bool,
}

impl Fetcher<'_> {
    /// Fetches a context: a repository, a tar, or a Dockerfile alone. Layers that are made are added
    /// to `made`, also when it fails. Blocks.
    pub fn context(
        &self,
        address: &str,
        made: &mut Vec<HeldLayer>,
        cancel: &CancellationToken,
    ) -> Result<Remote> {
        if let Some(source) = GitSource::parse(address)? {
            let fetched = self.repository(&source, made, cancel)?;
            let context = Context::of_layers(fetched.layers);
            let context = self.part(context, &source.subdirectory, made)?;
            return Ok(Remote {
                context,
                is_dockerfile: false,
            });
        }
        if !is_url(address) {
            return Err(Error::Step(format!(
                "{address}: a context is a directory, or the address of a repository or of a file (https, http, git, ssh)"
            )));
        }
        let mut file = self.file(address, cancel)?;
        if is_archive(file.file()?) {
            let layer = file.unpacked(self.images)?;
            made.push(layer.clone());
            return Ok(Remote {
                context: Context::of_layer(layer),
                is_dockerfile: false,
            });
        }
        let text = file.bytes(MAX_SIZE as u64)?;
        if text.contains(&0) {
            return Err(Error::Step(format!(
                "{address} is neither a tar nor a Dockerfile"
            )));
        }
        let attributes = Attributes {
            mode: 0o644,
            ..Attributes::default()
        };
        let layer = self.images.write_layer(|out| {
            let mut layer = LayerWriter::new(out);
            layer.file(ALONE.as_bytes(), &attributes, text.len() as u64, &text[..])?;
            layer.finish()
        })?;
        let layer = layer.ok_or_else(|| Error::Step(format!("{address} is empty")))?;
        made.push(layer.clone());
        Ok(Remote {
            context: Context::of_layer(layer),
            is_dockerfile: true,
        })
    }

    /// A directory of a context as a context.
    fn part(&self, whole: Context, path: &str, made: &mut Vec<HeldLayer>) -> Result<Context> {
        let path = below_root(path);
        if path.is_empty() {
            return Ok(whole);
        }
        let files = Arc::new(whole.files(self.images)?);
        let resolved = files.resolve(path.as_bytes())?;
        let is_directory = files
            .look(&resolved.path)?
            .is_some_and(|found| found.kind == Kind::Directory);
        if !is_directory {
            return Err(Error::Step(format!(
                "{path} is no directory of the repository"
            )));
        }
        let transfer = Transfer {
            sources: vec![Source::Path(path)],
            destination: "/".to_owned(),
            ..Transfer::default()
        };
        let wish = Wish {
            transfer: &transfer,
            parents: false,
            unpack: Unpack::Nothing,
            fetched: &BTreeMap::new(),
            directory: "/",
            name: "COPY",
        };
        let nothing = Files::of::<HeldLayer>(self.images, &[], None);
        let sources = wish.gather(&files)?;
        let selection = select(&wish, sources, &nothing, self.images, &mut Vec::new())?;
        let layer = self
            .images
            .write_layer(|out| selection.write(out, Times::default()))?;
        made.extend(layer.clone());
        Ok(Context::of_layers(layer.into_iter().collect()))
    }
}
