//! Makes namespaces of users for an engine, which has too many threads for it.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::process::ExitCode;

use sampan_kernel::ancillary::send_with_descriptors;
use sampan_runtime::UserNamespaces;
use sampan_shim_protocol::UserMaps;
use sampan_text::with_causes;

/// Makes a namespace of users with the maps in the first argument, and one of its networks, and
/// sends both over standard input, a socket; why that failed goes to standard error.
pub(crate) fn run(arguments: &[OsString]) -> ExitCode {
    match make(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nobody else can be told.
            let _ = write!(io::stderr(), "{}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn make(arguments: &[OsString]) -> Result<(), Box<dyn std::error::Error>> {
    let [maps] = arguments else {
        return Err("one argument is wanted: the maps".into());
    };
    let maps: UserMaps = serde_json::from_slice(maps.as_encoded_bytes())?;
    let made = UserNamespaces::make(&maps.users, &maps.groups)?;
    let descriptors = [made.user.as_fd(), made.network.as_fd()];
    send_with_descriptors(io::stdin().as_fd(), b"n", &descriptors)?;
    Ok(())
}
