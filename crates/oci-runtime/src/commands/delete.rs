//! `delete`.

use std::path::Path;

use anyhow::{Result, bail};
use sampan_cgroups::Hierarchies;
use sampan_oci::runtime::Status;

use crate::bundle;
use crate::container::Container;
use crate::log::Log;
use crate::record::{Directory, Missing, Record};

pub(crate) fn delete(root: &Path, log: &Log, id: &str, force: bool) -> Result<()> {
    let directory = match Directory::open(root, id) {
        Err(error) if force && error.is::<Missing>() => return Ok(()),
        other => other?,
    };
    let lock = directory.lock();
    let record = match directory.read() {
        Ok(Some(record)) => record,
        // Its making was cut short, or its record has been damaged.
        Ok(None) if force => return sweep(&directory, id),
        Err(error) if force => {
            log.warn(&format!("{error:#}"));
            return sweep(&directory, id);
        }
        Ok(None) => bail!("the making of the container was cut short: delete it with --force"),
        Err(error) => return Err(error),
    };
    let deleted = delete_found(directory, record, log, force);
    drop(lock);
    deleted
}

fn delete_found(directory: Directory, record: Record, log: &Log, force: bool) -> Result<()> {
    let container = Container::of(directory, record)?;
    match container.status()? {
        Status::Stopped => {}
        Status::Created => container.end()?,
        _ if force => container.end()?,
        status => bail!(
            "cannot delete container {} that is not stopped: {status}",
            container.record.id
        ),
    }
    container.destroy(log)
}

/// Removes what can be found of a container without its record.
fn sweep(directory: &Directory, id: &str) -> Result<()> {
    sampan_runtime::delete(&Hierarchies::detect()?, &bundle::default_cgroup(id)?)?;
    directory.remove()
}
