//! Numbers of system calls by architecture.

use std::collections::HashMap;

/// `name<TAB>x86_64<TAB>x86<TAB>x32<TAB>aarch64<TAB>arm`, from the kernel's
/// unistd headers; `-` where an architecture lacks the call.
const TABLE: &str = include_str!("syscalls.tsv");

/// Marks the numbers of the x32 interface (asm/unistd.h).
pub(super) const X32_BIT: u32 = 0x4000_0000;

/// A system call interface.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Architecture {
    X86_64,
    X86,
    X32,
    Aarch64,
    Arm,
}

impl Architecture {
    #[cfg(target_arch = "x86_64")]
    pub(super) const NATIVE: Self = Self::X86_64;
    #[cfg(target_arch = "aarch64")]
    pub(super) const NATIVE: Self = Self::Aarch64;

    /// The architecture that a profile calls `SCMP_ARCH_…`.
    pub(super) fn from_scmp(name: &str) -> Option<Self> {
        match name {
            "SCMP_ARCH_X86_64" => Some(Self::X86_64),
            "SCMP_ARCH_X86" => Some(Self::X86),
            "SCMP_ARCH_X32" => Some(Self::X32),
            "SCMP_ARCH_AARCH64" => Some(Self::Aarch64),
            "SCMP_ARCH_ARM" => Some(Self::Arm),
            _ => None,
        }
    }

    /// The `arch` that the kernel puts into `struct seccomp_data`
    /// (linux/audit.h).
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
            Self::Arm => 0x4000_0028,
        }
    }

    fn column(self) -> usize {
        match self {
            Self::X86_64 => 0,
            Self::X86 => 1,
            Self::X32 => 2,
            Self::Aarch64 => 3,
            Self::Arm => 4,
        }
    }
}

/// The table, read once per compilation.
pub(super) struct Table {
    numbers: HashMap<&'static str, [Option<u32>; 5]>,
}

impl Table {
    pub(super) fn parse() -> Self {
        let lines = TABLE.lines().filter(|line| !line.starts_with('#'));
        let numbers = lines.filter_map(|line| {
            let mut cells = line.split('\t');
            let name = cells.next()?;
            let mut row = [None; 5];
            for (slot, cell) in row.iter_mut().zip(cells) {
                *slot = cell.parse().ok();
            }
            Some((name, row))
        });
        Self {
            numbers: numbers.collect(),
        }
    }

    /// The number of the call `name`, without the x32 bit.
    pub(super) fn number(&self, architecture: Architecture, name: &str) -> Option<u32> {
        self.numbers.get(name)?[architecture.column()]
    }
}
