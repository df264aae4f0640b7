//! Files in memory that cannot change any more (memfd_create(2)).

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

/// Copies `source` into a memory file and seals it: nobody, root included, can
/// write, grow, shrink or unseal it. Meant for executables, so that a
/// container that gets hold of its own executable cannot change the host's.
///
/// # Errors
/// Reading `source`, memory, or a kernel without memfd.
pub fn sealed_copy(name: &str, source: &mut impl Read) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // Kernels before 6.3 do not know the flag and make all executable.
    let memory =
        memfd_create(name, flags | MemfdFlags::EXEC).or_else(|_| memfd_create(name, flags))?;
    let mut file = File::from(memory);
    io::copy(source, &mut file)?;
    file.flush()?;
    let memory = OwnedFd::from(file);
    fcntl_add_seals(
        &memory,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(memory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Seek, SeekFrom};

    #[test]
    fn a_sealed_copy_cannot_be_written() {
        let memory = sealed_copy("test", &mut &b"content"[..]).unwrap();
        let mut file = File::from(memory);
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        file.seek(SeekFrom::Start(0)).unwrap();
        assert!(file.write_all(b"x").is_err());
    }
}
