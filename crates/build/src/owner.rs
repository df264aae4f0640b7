//! Owners by name, as of `--chown`: they are looked up in the image.

use crate::files::Files;
use crate::{Error, Result};

/// A file of accounts that is longer is not read.
const LONGEST: u64 = 4 << 20;

/// Reads a file of a root file system, given without a slash in front.
type Read<'r> = dyn Fn(&str) -> Option<Vec<u8>> + 'r;

/// Finds the owner that `user[:group]` means in an image.
pub(crate) fn find(text: &str, root: &Files) -> Result<(u32, u32)> {
    find_owner(text, &|file| root.read(file, LONGEST).ok())
}

/// Finds the owner that `user[:group]` means in a root file system, by its files of accounts. A
/// user alone brings its own group.
pub fn find_owner(text: &str, root: &Read<'_>) -> Result<(u32, u32)> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let unable = |what: &str, name: &str| {
        Error::Step(format!(
            "unable to convert uid/gid chown string to host mapping: can't find {what} for {what} name {name}: no such {what}"
        ))
    };
    let (uid, own_group) = match user.parse::<u32>() {
        Ok(uid) => (uid, uid),
        Err(_) if user.is_empty() => (0, 0),
        Err(_) => {
            let fields = line_of(root, "etc/passwd", user).ok_or_else(|| unable("uid", user))?;
            let number = |at: usize| fields.get(at).and_then(|field| field.parse().ok());
            number(2)
                .zip(number(3))
                .ok_or_else(|| unable("uid", user))?
        }
    };
    let gid = match group {
        None => own_group,
        Some(group) => match group.parse() {
            Ok(gid) => gid,
            Err(_) => line_of(root, "etc/group", group)
                .and_then(|fields| fields.get(2)?.parse().ok())
                .ok_or_else(|| unable("gid", group))?,
        },
    };
    Ok((uid, gid))
}

fn line_of(root: &Read<'_>, file: &str, name: &str) -> Option<Vec<String>> {
    let bytes = root(file)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines = text.lines().map(|line| line.split(':'));
    let found = lines.find(|fields| fields.clone().next() == Some(name))?;
    Some(found.map(str::to_owned).collect())
}
