//! What the programs for developers have in common.

pub mod packages;
pub mod run;
