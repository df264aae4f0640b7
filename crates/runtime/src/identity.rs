//! Who a process runs as: Docker's `name|uid[:group|gid]` looked up in the
//! container's own user database.
//!
//! The files are the image's, hence hostile: they are opened inside the root,
//! must be regular and small, and a number is never taken for a name.

use std::ffi::CStr;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use sampan_oci::runtime::User;

use crate::Error;
use crate::resolve::{Links, open, open_with};

/// Largest user or group file that is read.
const MAX_DATABASE: u64 = 4 * 1024 * 1024;

/// Largest id: what fits a signed 32-bit number, as Docker has it.
const MAX_ID: u32 = i32::MAX.unsigned_abs();

/// User, groups and home directory of a process.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Looks up the user of a specification in the container's files. `home` says
/// whether the home directory is of interest.
pub(crate) fn identify(
    root: BorrowedFd<'_>,
    user: &User,
    home: HomeWanted,
) -> Result<Identity, Error> {
    let Some(name) = &user.username else {
        let home = match home {
            HomeWanted::No => None,
            HomeWanted::Yes => passwd(root)?
                .into_iter()
                .find(|entry| entry.uid == user.uid)
                .map(|entry| entry.home),
        };
        return Ok(Identity {
            uid: user.uid,
            gid: user.gid,
            groups: user.additional_gids.clone(),
            home: home_or_root(home),
        });
    };
    let mut identity = lookup(name, &passwd(root)?, || group(root))?;
    let mut further = user.additional_gids.clone();
    if !user.additional_groups.is_empty() {
        let known = group(root)?;
        for name in &user.additional_groups {
            further.push(group_id(name, &known)?);
        }
    }
    for gid in further {
        if !identity.groups.contains(&gid) {
            identity.groups.push(gid);
        }
    }
    Ok(identity)
}

/// Looks up a user in the files of a container with the root `root` and says it in numbers, for
/// whoever does not look names up.
///
/// # Errors
/// When there is no such user or group.
pub fn numeric_user(root: BorrowedFd<'_>, user: &User) -> Result<User, Error> {
    let Identity {
        uid, gid, groups, ..
    } = identify(root, user, HomeWanted::No)?;
    Ok(User {
        uid,
        gid,
        additional_gids: groups,
        username: None,
        additional_groups: Vec::new(),
        ..user.clone()
    })
}

/// Whether a home directory must be found out.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum HomeWanted {
    Yes,
    No,
}

fn home_or_root(home: Option<String>) -> String {
    home.filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct PasswdEntry {
    name: String,
    uid: u32,
    gid: u32,
    home: String,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct GroupEntry {
    name: String,
    gid: u32,
    members: Vec<String>,
}

/// Either a number or a name, never both.
enum Word<'a> {
    Id(u32),
    Name(&'a str),
}

impl<'a> Word<'a> {
    fn parse(text: &'a str) -> Result<Self, Error> {
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Ok(Self::Name(text));
        }
        match text.parse::<u32>() {
            Ok(id) if id <= MAX_ID => Ok(Self::Id(id)),
            _ => Err(Error::IdRange(text.to_owned())),
        }
    }
}

fn lookup(
    text: &str,
    users: &[PasswdEntry],
    groups: impl FnOnce() -> Result<Vec<GroupEntry>, Error>,
) -> Result<Identity, Error> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (text, None),
    };
    let word = Word::parse(if user.is_empty() { "0" } else { user })?;
    let found = users.iter().find(|entry| match word {
        Word::Id(id) => entry.uid == id,
        Word::Name(name) => entry.name == name,
    });
    let mut identity = match (found, &word) {
        (Some(entry), _) => Identity {
            uid: entry.uid,
            gid: entry.gid,
            groups: Vec::new(),
            home: home_or_root(Some(entry.home.clone())),
        },
        (None, Word::Id(id)) => Identity {
            uid: *id,
            gid: 0,
            groups: Vec::new(),
            home: home_or_root(None),
        },
        (None, Word::Name(name)) => return Err(Error::UnknownUser((*name).to_owned())),
    };
    match (group, found) {
        (Some(group), _) => {
            identity.gid = match Word::parse(group)? {
                Word::Id(id) => id,
                Word::Name(name) => group_id(name, &groups()?)?,
            };
        }
        (None, Some(entry)) => {
            let memberships = groups()?;
            let memberships = memberships
                .iter()
                .filter(|group| group.members.contains(&entry.name));
            identity.groups = memberships.map(|group| group.gid).collect();
            identity.groups.dedup();
        }
        (None, None) => {}
    }
    Ok(identity)
}

fn group_id(name: &str, groups: &[GroupEntry]) -> Result<u32, Error> {
    let found = groups.iter().find(|entry| entry.name == name);
    found
        .map(|entry| entry.gid)
        .ok_or_else(|| Error::UnknownGroup(name.to_owned()))
}

fn passwd(root: BorrowedFd<'_>) -> Result<Vec<PasswdEntry>, Error> {
    let text = read_database(root, c"etc/passwd", "etc/passwd")?;
    let entries = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let uid = id(fields.nth(1)?)?;
        let gid = id(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(PasswdEntry {
            name: name.to_owned(),
            uid,
            gid,
            home: home.to_owned(),
        })
    });
    Ok(entries.collect())
}

fn group(root: BorrowedFd<'_>) -> Result<Vec<GroupEntry>, Error> {
    let text = read_database(root, c"etc/group", "etc/group")?;
    let entries = text.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty())?;
        let gid = id(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default().split(',');
        let members = members.map(str::trim).filter(|member| !member.is_empty());
        Some(GroupEntry {
            name: name.to_owned(),
            gid,
            members: members.map(str::to_owned).collect(),
        })
    });
    Ok(entries.collect())
}

/// An id of a file's line; a line whose id does not fit does not count.
fn id(text: &str) -> Option<u32> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|id| *id <= MAX_ID)
}

/// The file's text; a file that does not exist is empty.
fn read_database(root: BorrowedFd<'_>, path: &CStr, name: &'static str) -> Result<String, Error> {
    let refused = |reason: &str| Error::UserDatabase {
        path: name,
        reason: reason.to_owned(),
    };
    // Looked at before it is opened: opening a device node may do something.
    let found = match open(root, path, Links::Follow) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(String::new()),
        Err(errno) => return Err(refused(&std::io::Error::from(errno).to_string())),
        Ok(found) => found,
    };
    let is_regular = |file: BorrowedFd<'_>| {
        fstat(file).map(|s| FileType::from_raw_mode(s.st_mode) == FileType::RegularFile)
    };
    if is_regular(found.as_fd()) != Ok(true) {
        return Err(refused("it is not a regular file"));
    }
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = open_with(root, path, Links::Follow, flags)
        .map_err(|errno| refused(&std::io::Error::from(errno).to_string()))?;
    if is_regular(file.as_fd()) != Ok(true) {
        return Err(refused("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(MAX_DATABASE + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| refused(&error.to_string()))?;
    if bytes.len() as u64 > MAX_DATABASE {
        return Err(refused("it is larger than 4 MiB"));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::OwnedFd;
    use std::path::Path;

    fn rooted(directory: &Path) -> OwnedFd {
        File::open(directory).unwrap().into()
    }

    fn user(name: &str) -> User {
        User {
            username: Some(name.to_owned()),
            ..User::default()
        }
    }

    fn root_with(passwd: &str, group: &str) -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("etc")).unwrap();
        std::fs::write(directory.path().join("etc/passwd"), passwd).unwrap();
        std::fs::write(directory.path().join("etc/group"), group).unwrap();
        directory
    }

    #[test]
    fn docker_s_rules_of_users_and_groups() {
        let directory = root_with(
            "root:x:0:0:root:/root:/bin/sh\n1000:x:0:0:trap:/root:/bin/sh\n\
             web:x:33:34:web:/srv:/bin/sh\nbig:x:4294967296:0::/:\nbroken\n::::\n",
            "root:x:0:\nweb:x:34:\nextra:x:50:web,root\n77:x:0:web\nstaff:x:60:web\n",
        );
        let root = rooted(directory.path());
        let find = |name: &str| {
            identify(root.as_fd(), &user(name), HomeWanted::Yes)
                .map(|i| (i.uid, i.gid, i.groups, i.home))
                .map_err(|e| e.to_string())
        };
        let home = |h: &str| h.to_owned();
        assert_eq!(find(""), Ok((0, 0, vec![50], home("/root"))));
        assert_eq!(find("web"), Ok((33, 34, vec![50, 0, 60], home("/srv"))));
        assert_eq!(find("33"), Ok((33, 34, vec![50, 0, 60], home("/srv"))));
        assert_eq!(find("web:extra"), Ok((33, 50, vec![], home("/srv"))));
        assert_eq!(find("web:"), Ok((33, 34, vec![50, 0, 60], home("/srv"))));
        // A number is a number, whatever the files call it.
        assert_eq!(find("1000"), Ok((1000, 0, vec![], home("/"))));
        assert_eq!(find("1000:77"), Ok((1000, 77, vec![], home("/"))));
        assert_eq!(find("12:13"), Ok((12, 13, vec![], home("/"))));
        for bad in [
            "4294967296",
            "2147483648",
            "-1",
            "1:-1",
            "99999999999999999999",
        ] {
            assert!(find(bad).unwrap_err().contains("must be in range"), "{bad}");
        }
        for bad in ["0x0", " 1", "nobody", "big", "broken"] {
            let error = find(bad).unwrap_err();
            assert!(error.starts_with("unable to find user"), "{bad}: {error}");
        }
        for bad in ["1:1:1", "web:none", "web: 1"] {
            let error = find(bad).unwrap_err();
            assert!(error.starts_with("unable to find group"), "{bad}: {error}");
        }
    }

    #[test]
    fn groups_are_added_by_number_and_name() {
        let directory = root_with("root:x:0:0::/:\n", "extra:x:50:root\nvideo:x:44:\n");
        let root = rooted(directory.path());
        let mut user = user("");
        user.additional_gids = vec![7, 50];
        user.additional_groups = vec!["video".to_owned()];
        let found = identify(root.as_fd(), &user, HomeWanted::No).unwrap();
        assert_eq!(found.groups, [50, 7, 44]);
        user.additional_groups = vec!["none".to_owned()];
        let error = identify(root.as_fd(), &user, HomeWanted::No).unwrap_err();
        assert!(matches!(error, Error::UnknownGroup(name) if name == "none"));
    }

    #[test]
    fn hostile_user_files_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let etc = directory.path().join("etc");
        std::fs::create_dir(&etc).unwrap();
        let root = rooted(directory.path());
        let find = || identify(root.as_fd(), &user("web"), HomeWanted::Yes);

        std::os::unix::fs::symlink("/dev/zero", etc.join("passwd")).unwrap();
        assert!(
            matches!(find(), Err(Error::UnknownUser(_))),
            "inside the root there is none"
        );
        std::fs::remove_file(etc.join("passwd")).unwrap();

        rustix::fs::mknodat(
            rustix::fs::CWD,
            etc.join("passwd"),
            FileType::Fifo,
            rustix::fs::Mode::from_raw_mode(0o644),
            0,
        )
        .unwrap();
        assert!(matches!(find(), Err(Error::UserDatabase { .. })));
        std::fs::remove_file(etc.join("passwd")).unwrap();

        let huge = File::create(etc.join("passwd")).unwrap();
        huge.set_len(1 << 30).unwrap();
        assert!(matches!(find(), Err(Error::UserDatabase { .. })));
    }
}
