//! What `--format` and the tables print.

pub(crate) mod data;
pub(crate) mod list;
pub(crate) mod natural;
pub(crate) mod quote;
pub(crate) mod table;
pub(crate) mod template;
pub(crate) mod units;
