//! What `cargo xtask bench` and `cargo xtask test --vm` run: it needs crates of the product, and
//! `xtask` itself is to be built at once.

mod bench;
mod vm;

use std::process::ExitCode;

use xtask::run::end;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    end(match words.as_slice() {
        ["bench", rest @ ..] => bench::run(rest),
        ["vm", filters @ ..] => vm::test(filters),
        _ => {
            eprintln!("Usage: cargo xtask bench|test --vm …");
            return ExitCode::from(2);
        }
    })
}
