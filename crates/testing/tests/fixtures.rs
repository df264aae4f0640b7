//! The images that the other tests stand on can be made here.

use sampan_testing::{Fixture, Registry, fixture};

#[test]
fn every_image_can_be_made_and_pushed() {
    sampan_kernel::requires!(root);
    let registry = Registry::start();
    for image in [
        Fixture::Busybox,
        Fixture::Debian,
        Fixture::Flask,
        Fixture::Nginx,
        Fixture::Redis,
        Fixture::Postgres,
    ] {
        let reference = registry.push(&fixture(image));
        assert!(reference.starts_with(&registry.address()));
    }
}
