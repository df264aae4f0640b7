//! `--userns-remap`: whose subordinate ids stand for those of containers (subuid(5)).

use sampan_engine::{IdMaps, IdRange};

/// The user that the word `default` means.
const DEFAULT: &str = "dockremap";

/// The files that say who is who.
#[derive(Debug, Default)]
struct Accounts {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

/// Reads `default`, `user`, `user:group`, `uid` or `uid:gid`. None where ids stay the host's.
pub(super) fn read(text: &str) -> Result<Option<IdMaps>, String> {
    let file = |path: &str| match std::fs::read_to_string(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        other => other.map_err(|error| format!("cannot read {path}: {error}")),
    };
    let accounts = Accounts {
        passwd: file("/etc/passwd")?,
        group: file("/etc/group")?,
        subuid: file("/etc/subuid")?,
        subgid: file("/etc/subgid")?,
    };
    accounts.maps(text)
}

/// A user or a group.
struct Account {
    name: String,
    id: u32,
}

impl Accounts {
    fn maps(&self, text: &str) -> Result<Option<IdMaps>, String> {
        let mut parts = text.split(':');
        let user = parts.next().unwrap_or_default();
        let group = parts.next();
        if user.is_empty() || group.is_some_and(str::is_empty) || parts.next().is_some() {
            return Err(format!(
                "invalid user/group specification in --userns-remap: {text:?}"
            ));
        }
        let user = self.user(user)?;
        let group = self.group(group, &user)?;
        if user.name == "root" {
            // Docker's rule: nothing can stand for itself.
            return Ok(None);
        }
        Ok(Some(IdMaps {
            users: ranges(&self.subuid, &user).ok_or_else(|| none("subuid", "user", &user))?,
            groups: ranges(&self.subgid, &group).ok_or_else(|| none("subgid", "group", &group))?,
        }))
    }

    fn user(&self, text: &str) -> Result<Account, String> {
        if let Ok(id) = text.parse::<u32>() {
            let name = named(&self.passwd, |account| account.id == id);
            return name.ok_or_else(|| format!("uid {id} has no entry in /etc/passwd"));
        }
        let name = if text == "default" { DEFAULT } else { text };
        named(&self.passwd, |account| account.name == name).ok_or_else(|| {
            let mut error =
                format!("error during uid lookup for {name:?}: no matching entries in passwd file");
            if text == "default" {
                error.push_str(
                    "; make the user: useradd --system --user-group dockremap, and give it ids: ",
                );
                error.push_str("echo dockremap:231072:65536 | tee -a /etc/subuid /etc/subgid");
            }
            error
        })
    }

    /// The group that was named, or the one of the user's name or number.
    fn group(&self, text: Option<&str>, user: &Account) -> Result<Account, String> {
        let wanted = text.unwrap_or(&user.name);
        if let Ok(id) = wanted.parse::<u32>() {
            let found = named(&self.group, |account| account.id == id);
            return found.ok_or_else(|| format!("gid {id} has no entry in /etc/group"));
        }
        named(&self.group, |account| account.name == wanted).ok_or_else(|| {
            format!("error during gid lookup for {wanted:?}: no matching entries in group file")
        })
    }
}

fn none(file: &str, kind: &str, account: &Account) -> String {
    format!(
        "no {file} ranges found for {kind} {0:?}; give it some: echo {0}:231072:65536 >> /etc/{file}",
        account.name
    )
}

/// The first account that fits, of passwd(5) or group(5).
fn named(file: &str, fits: impl Fn(&Account) -> bool) -> Option<Account> {
    let accounts = file.lines().filter_map(|line| {
        let mut fields = line.split(':');
        Some(Account {
            name: fields.next()?.to_owned(),
            id: fields.nth(1)?.parse().ok()?,
        })
    });
    accounts.into_iter().find(fits)
}

/// The ids of an account, one range behind the other.
fn ranges(file: &str, account: &Account) -> Option<Vec<IdRange>> {
    let mut inside: u32 = 0;
    let mut ranges = Vec::new();
    for line in file.lines() {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        if owner != account.name && owner.parse() != Ok(account.id) {
            continue;
        }
        let numbers = (fields.next(), fields.next());
        let (Some(host), Some(count)) = numbers else {
            continue;
        };
        let (Ok(host), Ok(count)) = (host.parse::<u32>(), count.parse::<u32>()) else {
            continue;
        };
        if count == 0 || host.checked_add(count).is_none() {
            continue;
        }
        ranges.push(IdRange {
            inside,
            host,
            count,
        });
        inside = inside.checked_add(count)?;
    }
    (!ranges.is_empty()).then_some(ranges)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accounts() -> Accounts {
        Accounts {
            passwd: "root:x:0:0:r:/root:/bin/sh\nme:x:1000:1001::/:\ndockremap:x:99:99::/:\n"
                .into(),
            group: "root:x:0:\nme:x:1000:\nusers:x:100:\ndockremap:x:99:\n".into(),
            subuid: "me:100000:1000\nother:1:1\n1000:300000:50\ndockremap:500000:65536\n".into(),
            subgid: "me:200000:65536\nusers:400000:10\ndockremap:600000:65536\n".into(),
        }
    }

    #[test]
    fn ranges_follow_each_other() {
        let maps = accounts().maps("me").unwrap().unwrap();
        let ranges: Vec<_> = maps
            .users
            .iter()
            .map(|r| (r.inside, r.host, r.count))
            .collect();
        assert_eq!(ranges, [(0, 100_000, 1000), (1000, 300_000, 50)]);
        assert_eq!(maps.groups[0].host, 200_000);
        for (text, host) in [
            ("1000:users", 400_000),
            ("me:100", 400_000),
            ("default", 600_000),
        ] {
            assert_eq!(accounts().maps(text).unwrap().unwrap().groups[0].host, host);
        }
        assert_eq!(accounts().maps("root").unwrap(), None);
    }

    #[test]
    fn mistakes_are_told_in_dockers_words() {
        let error = |text| accounts().maps(text).unwrap_err();
        assert!(error("a:b:c").starts_with("invalid user/group specification in --userns-remap"));
        assert!(error("").starts_with("invalid user/group specification"));
        assert!(error("you").starts_with("error during uid lookup for \"you\""));
        assert!(error("7").starts_with("uid 7 has no entry in /etc/passwd"));
        assert!(error("me:8").starts_with("gid 8 has no entry"));
        assert!(error("me:root").starts_with("no subgid ranges found for group \"root\""));
        let nobody = Accounts::default().maps("default").unwrap_err();
        assert!(nobody.contains("useradd --system"), "{nobody}");
    }
}
