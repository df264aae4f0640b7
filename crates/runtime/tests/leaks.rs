//! Failed and abandoned starts leave nothing. Alone in its file, because it
//! counts what the whole process holds.
#![allow(missing_docs, clippy::unwrap_used)]

#[allow(dead_code)] // each file uses a part
mod support;

use std::fs;
use std::path::Path;

use sampan_kernel::requires;
use sampan_oci::runtime::Rlimit;
use sampan_runtime::create;
use support::{Image, bind, cgroup_directories, hierarchies, readable, spec, try_create};

#[test]
fn nothing_is_left_of_what_failed_or_was_given_up() {
    requires!(root, cgroups);
    let image = Image::new();
    let mounts = || fs::read_to_string("/proc/self/mountinfo").unwrap();
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let children = || {
        let own = std::process::id();
        let thread = rustix::thread::gettid().as_raw_nonzero();
        fs::read_to_string(format!("/proc/{own}/task/{thread}/children")).unwrap()
    };
    // The first round opens what stays open for good.
    drop(try_create(spec(&["true"]), &image));
    let mounts_before = mounts();
    let descriptors_before = descriptors();

    let failing: [&dyn Fn(&mut sampan_oci::runtime::Spec); 7] = [
        &|s| s.process.as_mut().unwrap().args = vec!["nope".to_owned()],
        &|s| s.process.as_mut().unwrap().cwd = "/bin/busybox".to_owned(),
        &|s| {
            s.mounts.push(bind(Path::new("/missing"), "/x", &["rbind"]));
        },
        &|s| {
            s.mounts
                .push(bind(Path::new("/etc"), "/bin/busybox", &["rbind"]));
        },
        &|s| s.process.as_mut().unwrap().user.username = Some("nobody".to_owned()),
        &|s| s.linux.as_mut().unwrap().namespaces.clear(),
        &|s| {
            s.process.as_mut().unwrap().rlimits = vec![Rlimit {
                kind: "RLIMIT_NOFILE".to_owned(),
                soft: u64::MAX,
                hard: u64::MAX,
            }];
        },
    ];
    for (number, change) in failing.iter().enumerate() {
        let mut spec = spec(&["true"]);
        change(&mut spec);
        let readable = readable(spec, image.root());
        let path = readable.bundle.cgroup.clone().unwrap();
        let result = create(&hierarchies(), readable.bundle).and_then(|c| c.start().map(drop));
        assert!(result.is_err(), "number {number} did not fail");
        assert_eq!(cgroup_directories(&path), Vec::<std::path::PathBuf>::new());
    }
    // Made and never started.
    let readable = readable(spec(&["true"]), image.root());
    let path = readable.bundle.cgroup.clone().unwrap();
    let created = create(&hierarchies(), readable.bundle).unwrap();
    assert!(!cgroup_directories(&path).is_empty());
    drop(created);
    drop(readable.output);
    assert_eq!(cgroup_directories(&path), Vec::<std::path::PathBuf>::new());

    assert_eq!(children(), "");
    assert_eq!(mounts(), mounts_before);
    assert_eq!(descriptors(), descriptors_before);
}
