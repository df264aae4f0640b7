//! What several crates read and write alike: causes of errors, durations, paths as text.

pub mod duration;
pub mod path;

use std::error::Error;

/// An error and its causes in one line, with `: ` between them.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}

/// The innermost cause of an error, or the error itself where it names none.
#[must_use]
pub fn root_cause<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Outer(std::num::ParseIntError);

    impl std::fmt::Display for Outer {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("read the port")
        }
    }

    impl Error for Outer {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            Some(&self.0)
        }
    }

    #[test]
    fn causes_follow_in_one_line() {
        let cause = "x".parse::<u16>().unwrap_err();
        assert_eq!(with_causes(&cause), "invalid digit found in string");
        let outer = Outer(cause);
        assert_eq!(
            with_causes(&outer),
            "read the port: invalid digit found in string"
        );
        assert_eq!(
            root_cause(&outer).to_string(),
            "invalid digit found in string"
        );
    }
}
