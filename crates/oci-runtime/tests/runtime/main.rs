//! `sampan-runtime` as its callers use it, on real bundles, beside runc and crun.
#![allow(clippy::unwrap_used, missing_docs)]

mod bundle;
mod lifecycle;
mod peers;
mod specification;
