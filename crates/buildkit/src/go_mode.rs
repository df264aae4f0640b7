//! Modes of files as Go has them (`io/fs.FileMode`), in which they go over the wire.

const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SET_UID: u32 = 1 << 23;
const SET_GID: u32 = 1 << 22;
const CHARACTER_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;
const KINDS: u32 = DIRECTORY | SYMLINK | DEVICE | FIFO | SOCKET | CHARACTER_DEVICE | IRREGULAR;

const SPECIAL: [(u32, u32); 3] = [(SET_UID, 0o4000), (SET_GID, 0o2000), (STICKY, 0o1000)];

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A directory.
    Directory,
    /// A regular file.
    File,
    /// A symbolic link.
    Symlink,
    /// A named pipe.
    Fifo,
}

/// None for devices, sockets and what Go does not know.
#[must_use]
pub fn kind(mode: u32) -> Option<Kind> {
    match mode & KINDS {
        0 => Some(Kind::File),
        DIRECTORY => Some(Kind::Directory),
        SYMLINK => Some(Kind::Symlink),
        FIFO => Some(Kind::Fifo),
        _ => None,
    }
}

/// The permission bits as system calls have them.
#[must_use]
pub fn permissions(mode: u32) -> u32 {
    let special = SPECIAL.iter().filter(|(go, _)| mode & go != 0);
    special.fold(mode & 0o777, |bits, (_, unix)| bits | unix)
}

/// A mode as Go has it.
#[must_use]
pub fn to_go(kind: Kind, permissions: u32) -> u32 {
    let kind = match kind {
        Kind::File => 0,
        Kind::Directory => DIRECTORY,
        Kind::Symlink => SYMLINK,
        Kind::Fifo => FIFO,
    };
    let special = SPECIAL.iter().filter(|(_, unix)| permissions & unix != 0);
    special.fold(kind | permissions & 0o777, |bits, (go, _)| bits | go)
}

/// The whole of a mode of stat(2), kind and permissions, as Go has it.
#[must_use]
pub fn of(mode: u32) -> u32 {
    let kind = match mode & 0o170_000 {
        0o040_000 => DIRECTORY,
        0o120_000 => SYMLINK,
        0o060_000 => DEVICE,
        0o020_000 => DEVICE | CHARACTER_DEVICE,
        0o010_000 => FIFO,
        0o140_000 => SOCKET,
        _ => 0,
    };
    let special = SPECIAL.iter().filter(|(_, unix)| mode & unix != 0);
    special.fold(kind | mode & 0o777, |bits, (go, _)| bits | go)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_come_back_as_they_were() {
        for kind_of in [Kind::File, Kind::Directory, Kind::Symlink, Kind::Fifo] {
            for bits in [0o644, 0o7777, 0o1777, 0] {
                let go = to_go(kind_of, bits);
                assert_eq!((kind(go), permissions(go)), (Some(kind_of), bits));
            }
        }
        assert_eq!(to_go(Kind::Directory, 0o1755), 0x8010_01ed);
        assert_eq!(kind(DEVICE | CHARACTER_DEVICE), None);
        assert_eq!(kind(SOCKET), None);
        assert_eq!(of(0o041_777), DIRECTORY | STICKY | 0o777);
        assert_eq!(of(0o020_620), DEVICE | CHARACTER_DEVICE | 0o620);
        assert_eq!(of(0o104_755), SET_UID | 0o755);
    }
}
