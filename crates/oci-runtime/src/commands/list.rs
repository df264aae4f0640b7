//! `list` and `state`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::Result;
use sampan_oci::runtime::{State, Status};
use serde::Serialize;

use super::{print, print_json};
use crate::container::Container;
use crate::record::{Directory, Missing};

/// The state with what runc adds to it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown {
    oci_version: String,
    id: String,
    pid: i32,
    status: Status,
    bundle: String,
    rootfs: String,
    created: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: BTreeMap<String, String>,
    owner: String,
}

pub(crate) fn state(root: &Path, id: &str) -> Result<()> {
    print_json(&shown(root, &Container::open(root, id)?)?)
}

fn shown(root: &Path, container: &Container) -> Result<Shown> {
    let status = container.status()?;
    let State {
        oci_version,
        id,
        status,
        pid,
        bundle,
        annotations,
    } = container.state(status);
    let owner = std::fs::metadata(root.join(&id)).map(|found| found.uid());
    Ok(Shown {
        oci_version,
        pid: pid.unwrap_or(0),
        status,
        bundle: bundle.display().to_string(),
        rootfs: container.record.rootfs.display().to_string(),
        created: container.record.created.clone(),
        annotations,
        owner: match owner {
            Ok(0) => "root".to_owned(),
            Ok(uid) => format!("#{uid}"),
            Err(_) => String::new(),
        },
        id,
    })
}

pub(crate) fn list(root: &Path, json: bool, quiet: bool) -> Result<()> {
    let ids = Directory::ids(root)?;
    if quiet {
        return print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>());
    }
    let mut rows = Vec::new();
    for id in &ids {
        match Container::open(root, id).and_then(|container| shown(root, &container)) {
            Ok(row) => rows.push(row),
            // It was deleted since it was listed.
            Err(error) if error.is::<Missing>() => {}
            Err(error) => eprintln!("load container {id}: {error:#}"),
        }
    }
    if json {
        let rows = if rows.is_empty() {
            "null".to_owned()
        } else {
            serde_json::to_string(&rows)?
        };
        // runc writes no newline here; a program reads it, and a person is glad of one.
        return print(&format!("{rows}\n"));
    }
    let cells = rows.iter().map(|row| {
        [
            row.id.clone(),
            row.pid.to_string(),
            row.status.to_string(),
            row.bundle.clone(),
            row.created.clone(),
            row.owner.clone(),
        ]
    });
    print(&table(
        &["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"].map(str::to_owned),
        cells.collect(),
    ))
}

/// Columns as Go's tabwriter sets them: 12 wide at least, 3 apart.
fn table(head: &[String; 6], rows: Vec<[String; 6]>) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        let widest = cells.chain([head[column].chars().count()]).max();
        (widest.unwrap_or(0) + 3).max(12)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(head).chain(&rows) {
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            // Writing to a string cannot fail.
            let _ = if at + 1 == row.len() {
                write!(text, "{cell}")
            } else {
                write!(text, "{cell:width$}")
            };
        }
        text.push('\n');
    }
    text
}
