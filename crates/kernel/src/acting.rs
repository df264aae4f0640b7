//! A thread acts as another user for a while.

use std::io;
use std::marker::PhantomData;

use rustix::fs::{Gid, Uid};
use rustix::thread::{capabilities, set_capabilities, set_thread_res_gid, set_thread_res_uid};

/// The calling thread acts as another user, with all that it may do as root: what it makes belongs
/// to that one. Ends with this value, on the same thread.
#[derive(Debug)]
pub struct ActingAs {
    /// Not to be sent to another thread.
    _here: PhantomData<*const ()>,
}

impl ActingAs {
    /// Becomes the user and the group of these ids. The real and the saved ones stay root's.
    ///
    /// # Errors
    /// When the caller is not root.
    pub fn new(user: u32, group: u32) -> io::Result<Self> {
        set_thread_res_gid(Gid::ROOT, Gid::from_raw(group), Gid::ROOT)?;
        // From here on dropping it goes back.
        let acting = Self { _here: PhantomData };
        set_thread_res_uid(Uid::ROOT, Uid::from_raw(user), Uid::ROOT)?;
        // The kernel takes the capabilities out of effect with the user, but not away.
        let mut sets = capabilities(None)?;
        sets.effective = sets.permitted;
        set_capabilities(None, sets)?;
        Ok(acting)
    }
}

impl Drop for ActingAs {
    fn drop(&mut self) {
        let back = set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
            .and_then(|()| set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT));
        back.expect("the real user has been root all the time");
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn what_is_made_belongs_to_the_other_user() {
        crate::requires!(root);
        let directory = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let path = directory.path().join(name);
            std::fs::write(&path, "").unwrap();
            let metadata = std::fs::metadata(path).unwrap();
            (metadata.uid(), metadata.gid())
        };
        let acting = ActingAs::new(1234, 5678).unwrap();
        assert_eq!(make("a"), (1234, 5678));
        std::os::unix::fs::chown(directory.path().join("a"), Some(7), None).unwrap();
        drop(acting);
        assert_eq!(make("b"), (0, 0));
    }
}
