//! The kernel's keyrings (keyrings(7)): secrets that no file holds and no reboot survives.
//!
//! Keys lie in the caller's *user keyring*: every process of the same user in the same user
//! namespace finds them, whatever session it belongs to, and nobody else does.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use crate::check;

/// `KEY_SPEC_USER_KEYRING`.
const USER_KEYRING: i32 = -4;
/// `KEYCTL_SETPERM`, `_SEARCH`, `_READ`, `_UNLINK`, `_SET_TIMEOUT` (linux/keyctl.h).
const SET_PERMISSIONS: i32 = 5;
const UNLINK: i32 = 9;
const SEARCH: i32 = 10;
const READ: i32 = 11;
const SET_TIMEOUT: i32 = 15;
/// All rights for whoever possesses the key, view, read, write, search and set attributes for
/// its user: a process of another session does not possess it. None for anybody else.
const OWNER_ONLY: u32 = 0x3f2f_0000;
/// The longest key that is read.
const LONGEST: usize = 4096;

/// Gives the calling process a session keyring of its own, which what it starts inherits, in
/// place of the one that it has inherited. Does not allocate.
///
/// # Errors
/// `ENOSYS` or `EPERM` where keyrings are not to be had; `EDQUOT` when the user has too many.
pub fn join_new_session(name: &CStr) -> io::Result<()> {
    const JOIN_SESSION_KEYRING: i32 = 1;
    // SAFETY: the name ends in NUL.
    check(unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// Keeps `secret` under `name`, in place of what was there, for at most so long.
///
/// # Errors
/// `ENOSYS` or `EPERM` where keyrings are not to be had, as in most containers; `EDQUOT` when the
/// user has too many.
pub fn store(name: &CStr, secret: &[u8], timeout: Option<Duration>) -> io::Result<()> {
    // SAFETY: both texts end in NUL; the kernel reads `secret.len()` bytes of `secret`.
    let key = check(unsafe {
        libc::syscall(
            libc::SYS_add_key,
            c"user".as_ptr(),
            name.as_ptr(),
            secret.as_ptr(),
            secret.len(),
            USER_KEYRING,
        )
    })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, SET_PERMISSIONS, key, OWNER_ONLY) })?;
    if let Some(timeout) = timeout {
        let seconds = u32::try_from(timeout.as_secs()).unwrap_or(u32::MAX);
        // SAFETY: plain numbers.
        check(unsafe { libc::syscall(libc::SYS_keyctl, SET_TIMEOUT, key, seconds) })?;
    }
    Ok(())
}

/// Returns what is kept under `name`; none when nothing is, or not any more.
///
/// # Errors
/// As [`store`].
pub fn load(name: &CStr) -> io::Result<Option<Vec<u8>>> {
    let Some(key) = find(name)? else {
        return Ok(None);
    };
    let mut buffer = vec![0; LONGEST];
    // SAFETY: the kernel writes at most `buffer.len()` bytes to `buffer`.
    let length = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            READ,
            key,
            buffer.as_mut_ptr(),
            buffer.len(),
        )
    })?;
    // The answer is the key's length, of which no more than the buffer's was written.
    let length = usize::try_from(length).unwrap_or(usize::MAX);
    if length > buffer.len() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            "the key is too long",
        ));
    }
    buffer.truncate(length);
    Ok(Some(buffer))
}

/// Forgets what is kept under `name`. Does nothing when nothing is.
///
/// # Errors
/// As [`store`].
pub fn remove(name: &CStr) -> io::Result<()> {
    let Some(key) = find(name)? else {
        return Ok(());
    };
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_keyctl, UNLINK, key, USER_KEYRING) })?;
    Ok(())
}

fn find(name: &CStr) -> io::Result<Option<i64>> {
    // SAFETY: both texts end in NUL.
    let found = check(unsafe {
        libc::syscall(
            libc::SYS_keyctl,
            SEARCH,
            USER_KEYRING,
            c"user".as_ptr(),
            name.as_ptr(),
            0,
        )
    });
    match found {
        Ok(key) => Ok(Some(key)),
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOKEY | libc::EKEYEXPIRED | libc::EKEYREVOKED) => Ok(None),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_kept_replaced_and_forgotten() {
        let name = std::ffi::CString::new(format!("sampan-test:{}", std::process::id())).unwrap();
        match store(&name, b"first", None) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::ENOSYS | libc::EPERM | libc::EACCES)
                ) =>
            {
                println!("SKIP: no keyrings here: {error}");
                return;
            }
            other => other.unwrap(),
        }
        assert_eq!(load(&name).unwrap().unwrap(), b"first");
        store(&name, b"second", Some(Duration::from_secs(3600))).unwrap();
        assert_eq!(load(&name).unwrap().unwrap(), b"second");
        remove(&name).unwrap();
        assert_eq!(load(&name).unwrap(), None);
        remove(&name).unwrap();
    }
}
