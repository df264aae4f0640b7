//! Programs for other processors, which the kernel hands to an emulator.

use std::path::Path;

/// Where `binfmt_misc` lists what it knows (Documentation/admin-guide/binfmt-misc.rst).
const FORMATS: &str = "/proc/sys/fs/binfmt_misc";

/// Whether programs for a processor, in Go's name, run in any root: by an emulator that the kernel
/// has opened already.
pub(super) fn runs(architecture: &str) -> bool {
    runs_by(Path::new(FORMATS), architecture)
}

fn runs_by(formats: &Path, architecture: &str) -> bool {
    let Some(machine) = machine(architecture) else {
        return false;
    };
    let entries = std::fs::read_dir(formats).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| std::fs::read_to_string(entry.path()).ok())
        .any(|format| is_for(&format, machine))
}

/// The `e_machine` of a program's head (elf(5)).
fn machine(architecture: &str) -> Option<u16> {
    Some(match architecture {
        "386" => 3,
        "amd64" => 62,
        "arm" => 40,
        "arm64" => 183,
        "loong64" => 258,
        "mips64" | "mips64le" => 8,
        "ppc64" | "ppc64le" => 21,
        "riscv64" => 243,
        "s390x" => 22,
        _ => return None,
    })
}

/// Reads the text of a format: whether it is on, opens its interpreter beforehand (flag `F`), and
/// is for such programs.
fn is_for(format: &str, machine: u16) -> bool {
    let mut lines = format.lines();
    let enabled = lines.next() == Some("enabled");
    let (mut fixed, mut fits) = (false, false);
    for line in lines {
        if let Some(flags) = line.strip_prefix("flags:") {
            fixed = flags.contains('F');
        } else if let Some(magic) = line.strip_prefix("magic ") {
            fits = of_magic(magic) == Some(machine);
        }
    }
    enabled && fixed && fits
}

fn of_magic(magic: &str) -> Option<u16> {
    let byte = |at: usize| u8::from_str_radix(magic.get(2 * at..2 * at + 2)?, 16).ok();
    let two = [byte(18)?, byte(19)?];
    // EI_DATA: 2 is big-endian.
    match byte(5)? {
        2 => Some(u16::from_be_bytes(two)),
        _ => Some(u16::from_le_bytes(two)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARM64: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\n\
        mask ffffffffffffff00fffffffffffffffffeffffff\n";
    const S390X: &str = "enabled\ninterpreter /usr/bin/qemu-s390x\nflags: F\noffset 0\n\
        magic 7f454c4602020100000000000000000000020016\n";

    #[test]
    fn emulators_that_work_in_any_root_are_found() {
        let formats = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(formats.path().join(name), text);
        write("status", "enabled").unwrap();
        assert!(!runs_by(formats.path(), "arm64"));
        write("qemu-aarch64", ARM64).unwrap();
        write("qemu-s390x", S390X).unwrap();
        assert!(runs_by(formats.path(), "arm64"));
        assert!(runs_by(formats.path(), "s390x"));
        assert!(!runs_by(formats.path(), "riscv64"));
        write("qemu-aarch64", &ARM64.replace("enabled", "disabled")).unwrap();
        write("qemu-s390x", &S390X.replace("flags: F", "flags: ")).unwrap();
        assert!(!runs_by(formats.path(), "arm64"));
        assert!(!runs_by(formats.path(), "s390x"));
    }
}
