//! Reads Dockerfiles: from bytes to stages, and from stages to what a build needs.
//!
//! It knows nothing of files, networks, images' contents or how a step is run:
//! everything here is a pure function of text and options.
//!
//! * [`Dockerfile`] reads lines, here-documents, instructions and stages as
//!   BuildKit does; an [`Error`] knows its place and shows it.
//! * [`Plan`] says which stages the target needs and what their bases are.
//! * [`Shell`] and [`Scope`] expand variables.
//! * [`Ignore`] is `.dockerignore`.
//! * [`Lint`] has BuildKit's checks.
//!
//! Where it differs from BuildKit, on purpose:
//!
//! * a trigger, a mount and a `--chmod` without variables are checked when they
//!   are read, not when they are run;
//! * an exception in `.dockerignore` that matches a directory holds for all
//!   below it, also in a walk;
//! * an instruction with bytes that are no UTF-8 is refused, and so is what
//!   would take time or memory without bounds: nested or doubling substitutions,
//!   too many ports or triggers;
//! * documents of one name in one `COPY` keep their own contents.

mod chmod;
mod directive;
mod error;
mod expose;
mod flags;
mod glob;
mod heredoc;
mod ignore;
mod instruction;
mod lines;
mod lint;
mod mount;
mod parse;
mod plan;
mod shell;
mod stage;
mod variables;
mod words;

pub use chmod::Chmod;
pub use directive::{Checks, Directives, detect_syntax};
pub use error::{Error, ErrorKind, Location};
pub use expose::exposed_ports;
pub use glob::Pattern;
pub use heredoc::Heredoc;
pub use ignore::{Ignore, Visit};
pub use instruction::{
    Add, ArgDeclaration, Command, Copy, Healthcheck, Instruction, KeyValue, Network, Run, Script,
    Security, Source, Step, Transfer, Trigger,
};
pub use lint::{BaseImage, Facts, Lint, Rule, Warning};
pub use mount::{Device, Mount, MountFlag, MountKind, Sharing};
pub use plan::{DEFAULT_PATH, Input, Options, PROXY_ARGS, Plan, PlannedStage, Scope};
pub use shell::{Expansion, Shell};
pub use stage::{Dockerfile, MAX_SIZE, Stage};
pub use variables::Variables;
