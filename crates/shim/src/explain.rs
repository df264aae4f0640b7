//! Why the kernel would not run a program that is there: what its file says.
//!
//! The kernel answers `ENOENT` where it is the interpreter that is missing, and `ENOEXEC` whatever
//! is wrong with the format; a person is told what to look for.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use sampan_fs::Root;
use sampan_oci::runtime::Process;

/// So much of a file is looked at: what the kernel looks at, and program headers.
const HEAD: u64 = 4096;
const SEARCH_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// One more clause for the message of a failed execve(2) of `process` in `root`; none where the
/// file says nothing, or lies on a mount of the container's own.
pub(crate) fn explain(root: &Root, process: &Process, errno: Errno) -> Option<String> {
    let (path, head) = candidates(process)
        .into_iter()
        .find_map(|path| head(root, &path).map(|head| (path, head)))?;
    let exists = |path: &str| root.open_file(path).is_ok();
    match errno {
        Errno::NOENT => missing_interpreter(&head, exists),
        Errno::NOEXEC => wrong_format(&path, &head),
        _ => None,
    }
}

/// Where the command may lie.
fn candidates(process: &Process) -> Vec<PathBuf> {
    let Some(command) = process.args.first() else {
        return Vec::new();
    };
    if command.contains('/') {
        // An absolute one takes the directory's place.
        return vec![Path::new(&process.cwd).join(command)];
    }
    let mut variables = process.env.iter().rev();
    let path = variables.find_map(|variable| variable.strip_prefix("PATH="));
    let directories = path.unwrap_or(SEARCH_PATH).split(':');
    directories
        .map(|directory| Path::new(directory).join(command))
        .collect()
}

fn head(root: &Root, path: &Path) -> Option<Vec<u8>> {
    let file = root.open_file(path).ok()?;
    let mut head = Vec::new();
    file.take(HEAD).read_to_end(&mut head).ok()?;
    Some(head)
}

fn missing_interpreter(head: &[u8], exists: impl Fn(&str) -> bool) -> Option<String> {
    if let Some(line) = head.strip_prefix(b"#!") {
        let line = line.split(|byte| *byte == b'\n').next()?;
        let line = String::from_utf8_lossy(line);
        let interpreter = line.split_whitespace().next()?;
        if let Some(bare) = line.strip_suffix('\r') {
            return Some(format!(
                "its first line \"#!{}\" ends with a carriage return: write the file with line feeds alone",
                bare.trim()
            ));
        }
        return (!exists(interpreter)).then(|| {
            format!("the interpreter {interpreter} that its first line names is not in the image")
        });
    }
    let loader = Elf::read(head)?.loader(head)?;
    (!exists(&loader)).then(|| {
        format!(
            "the loader {loader} that it needs is not in the image: it was built for another C library"
        )
    })
}

fn wrong_format(path: &Path, head: &[u8]) -> Option<String> {
    let Some(elf) = Elf::read(head) else {
        return Some(if head.is_empty() {
            format!("{} is empty", path.display())
        } else if head.starts_with(b"#!") {
            "its interpreter cannot be run".to_owned()
        } else {
            format!(
                "{} is neither a program nor a script with a \"#!\" line",
                path.display()
            )
        });
    };
    let own = std::env::consts::ARCH;
    let machine = elf.machine_name();
    (machine != own).then(|| {
        format!(
            "it is a program for {machine} and this machine is {own}: use an image for this platform, \
             or install an emulator for it (binfmt_misc)"
        )
    })
}

/// The head of a program (elf(5)).
struct Elf {
    wide: bool,
    big_endian: bool,
    machine: u16,
}

impl Elf {
    fn read(head: &[u8]) -> Option<Self> {
        if !head.starts_with(b"\x7fELF") || head.len() < 52 {
            return None;
        }
        let mut elf = Self {
            wide: head[4] == 2,
            big_endian: head[5] == 2,
            machine: 0,
        };
        elf.machine = u16::try_from(elf.number(head, 18, 2)?).ok()?;
        Some(elf)
    }

    fn number(&self, bytes: &[u8], at: usize, length: usize) -> Option<u64> {
        let bytes = bytes.get(at..at.checked_add(length)?)?;
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        Some(if self.big_endian {
            bytes.iter().fold(0, add)
        } else {
            bytes.iter().rev().fold(0, add)
        })
    }

    /// The program interpreter that its headers name.
    fn loader(&self, head: &[u8]) -> Option<String> {
        const PT_INTERP: u64 = 3;
        let (table, size, count) = if self.wide {
            (
                self.number(head, 32, 8)?,
                self.number(head, 54, 2)?,
                self.number(head, 56, 2)?,
            )
        } else {
            (
                self.number(head, 28, 4)?,
                self.number(head, 42, 2)?,
                self.number(head, 44, 2)?,
            )
        };
        for index in 0..count {
            let at = usize::try_from(table.checked_add(index * size)?).ok()?;
            if self.number(head, at, 4)? != PT_INTERP {
                continue;
            }
            let (offset, length) = if self.wide {
                (
                    self.number(head, at.checked_add(8)?, 8)?,
                    self.number(head, at.checked_add(32)?, 8)?,
                )
            } else {
                (
                    self.number(head, at.checked_add(4)?, 4)?,
                    self.number(head, at.checked_add(16)?, 4)?,
                )
            };
            let offset = usize::try_from(offset).ok()?;
            let end = offset.checked_add(usize::try_from(length).ok()?)?;
            let name = head.get(offset..end)?;
            let name = name.split(|byte| *byte == 0).next()?;
            return String::from_utf8(name.to_vec()).ok();
        }
        None
    }

    fn machine_name(&self) -> String {
        let name = match (self.machine, self.wide, self.big_endian) {
            (3, ..) => "x86",
            (62, ..) => "x86_64",
            (40, ..) => "arm",
            (183, ..) => "aarch64",
            (243, ..) => "riscv64",
            (21, _, true) => "powerpc64",
            (21, _, false) => "powerpc64le",
            (22, ..) => "s390x",
            (8, ..) => "mips",
            (258, ..) => "loongarch64",
            (number, ..) => return format!("machine {number}"),
        };
        name.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn elf(machine: u16, loader: &str) -> Vec<u8> {
        let mut head = vec![0_u8; 64 + 56];
        head[..6].copy_from_slice(b"\x7fELF\x02\x01");
        head[18..20].copy_from_slice(&machine.to_le_bytes());
        head[32..40].copy_from_slice(&64_u64.to_le_bytes());
        head[54..56].copy_from_slice(&56_u16.to_le_bytes());
        head[56..58].copy_from_slice(&1_u16.to_le_bytes());
        head[64..68].copy_from_slice(&3_u32.to_le_bytes());
        head[72..80].copy_from_slice(&120_u64.to_le_bytes());
        head[96..104].copy_from_slice(&(loader.len() as u64 + 1).to_le_bytes());
        head.extend(loader.bytes());
        head.push(0);
        head
    }

    #[test]
    fn what_is_missing_is_named() {
        let none = |_: &str| false;
        let said = missing_interpreter(b"#!/bin/bash -e\necho\n", none).unwrap();
        assert!(
            said.contains("/bin/bash that its first line names"),
            "{said}"
        );
        let said = missing_interpreter(b"#!/bin/sh\r\necho\r\n", |_| true).unwrap();
        assert!(said.contains("carriage return"), "{said}");
        let said = missing_interpreter(&elf(62, "/lib64/ld.so"), none).unwrap();
        assert!(said.contains("the loader /lib64/ld.so"), "{said}");
        assert_eq!(missing_interpreter(b"#!/bin/sh\n", |_| true), None);
        // A damaged head says nothing.
        let whole = elf(62, "/lib64/ld.so");
        for length in 0..whole.len() {
            let _ = missing_interpreter(&whole[..length], none);
        }
    }

    #[test]
    fn programs_of_other_machines_are_named() {
        let path = Path::new("/x");
        let said = wrong_format(path, &elf(22, "")).unwrap();
        assert!(said.contains("for s390x"), "{said}");
        let said = wrong_format(path, b"echo hello\n").unwrap();
        assert!(said.contains("neither a program nor a script"), "{said}");
        assert_eq!(wrong_format(path, b"").unwrap(), "/x is empty");
    }
}
