//! `--chmod`: octal, or symbolic as chmod(1) has it (`u=rwX,go=rX`).

use crate::error::{Error, ErrorKind};

/// How permissions are changed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Chmod(Change);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Change {
    /// All twelve bits.
    Octal(u32),
    Symbolic(Vec<Clause>),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Clause {
    /// Of whom: a bit each for user, group and others, as 4, 2 and 1.
    whom: u32,
    action: char,
    /// The bits that are given to each, as 4, 2 and 1.
    bits: u32,
    /// `X`: execution for directories and for what somebody can execute.
    execute_some: bool,
    set_id: bool,
    sticky: bool,
    /// The class whose bits are taken.
    copied: Option<Class>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Class {
    User,
    Group,
    Others,
}

impl Chmod {
    /// Reads an expanded `--chmod`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        let wrong = || {
            let message = format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777"
            );
            Error::new(ErrorKind::Flag, message)
                .with_hint("symbolic modes are understood too: u=rwX,go=rX")
        };
        if text.starts_with(|first: char| first.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777);
            return mode.map(Change::Octal).map(Self).ok_or_else(wrong);
        }
        let mut clauses = Vec::new();
        for clause in text.split(',') {
            read_clauses(clause, &mut clauses).ok_or_else(wrong)?;
        }
        Ok(Self(Change::Symbolic(clauses)))
    }

    /// The permissions that a file gets which had `mode`, twelve bits each.
    pub fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match &self.0 {
            Change::Octal(mode) => *mode,
            Change::Symbolic(clauses) => {
                let change = |mode, clause: &Clause| clause.apply(mode, is_directory);
                clauses.iter().fold(mode & 0o7777, change)
            }
        }
    }
}

/// `ug+rw-x`: several actions for the same classes.
fn read_clauses(text: &str, clauses: &mut Vec<Clause>) -> Option<()> {
    let start = text.find(['+', '-', '='])?;
    let (classes, mut rest) = text.split_at(start);
    let mut whom = 0;
    for class in classes.chars() {
        whom |= match class {
            'u' => 4,
            'g' => 2,
            'o' => 1,
            'a' => 7,
            _ => return None,
        };
    }
    if classes.is_empty() {
        whom = 7;
    }
    while let Some(action) = rest.chars().next() {
        let end = rest[1..]
            .find(['+', '-', '='])
            .map_or(rest.len(), |end| end + 1);
        clauses.push(read_clause(whom, action, &rest[1..end])?);
        rest = &rest[end..];
    }
    Some(())
}

fn read_clause(whom: u32, action: char, permissions: &str) -> Option<Clause> {
    let mut clause = Clause {
        whom,
        action,
        bits: 0,
        execute_some: false,
        set_id: false,
        sticky: false,
        copied: None,
    };
    clause.copied = match permissions {
        "u" => Some(Class::User),
        "g" => Some(Class::Group),
        "o" => Some(Class::Others),
        _ => None,
    };
    if clause.copied.is_some() {
        return Some(clause);
    }
    for permission in permissions.chars() {
        match permission {
            'r' => clause.bits |= 4,
            'w' => clause.bits |= 2,
            'x' => clause.bits |= 1,
            'X' => clause.execute_some = true,
            's' => clause.set_id = true,
            't' => clause.sticky = true,
            _ => return None,
        }
    }
    Some(clause)
}

impl Clause {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let mut bits = match self.copied {
            Some(Class::User) => mode >> 6 & 7,
            Some(Class::Group) => mode >> 3 & 7,
            Some(Class::Others) => mode & 7,
            None => self.bits,
        };
        if self.execute_some && (is_directory || mode & 0o111 != 0) {
            bits |= 1;
        }
        let mut given = 0;
        let mut held = 0;
        for (class, shift, id) in [(4, 6, 0o4000), (2, 3, 0o2000), (1, 0, 0)] {
            if self.whom & class != 0 {
                given |= bits << shift;
                held |= 7 << shift;
                given |= if self.set_id { id } else { 0 };
                // As chmod(1) has it, a directory keeps what is not named.
                held |= if is_directory { 0 } else { id };
            }
        }
        if self.sticky && self.whom & 1 != 0 {
            given |= 0o1000;
        }
        if self.whom == 7 && !is_directory {
            held |= 0o1000;
        }
        match self.action {
            '+' => mode | given,
            '-' => mode & !given,
            _ => mode & !held | given,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_change_as_chmod_changes_them() {
        let cases = [
            ("755", 0o600, false, 0o755),
            ("0644", 0o4755, false, 0o644),
            ("4755", 0o600, false, 0o4755),
            ("0", 0o777, false, 0),
            ("u=rwX,go=rX", 0o600, false, 0o644),
            ("u=rwX,go=rX", 0o700, false, 0o755),
            ("u=rwX,go=rX", 0o600, true, 0o755),
            ("a+x", 0o644, false, 0o755),
            ("+x", 0o644, false, 0o755),
            ("go-rwx", 0o777, false, 0o700),
            ("g=u", 0o750, false, 0o770),
            ("o=g,g=", 0o750, false, 0o705),
            ("u+s", 0o755, false, 0o4755),
            ("ug-s", 0o6755, false, 0o755),
            ("+t", 0o777, true, 0o1777),
            ("u=rw", 0o4755, false, 0o655),
            ("u+r-w", 0o200, false, 0o400),
            ("a=rwx", 0o2000, true, 0o2777),
        ];
        for (text, mode, is_directory, expected) in cases {
            let got = Chmod::parse(text).unwrap().apply(mode, is_directory);
            assert_eq!(got, expected, "{text} {mode:o}: {got:o}");
        }
    }

    #[test]
    fn other_texts_are_refused() {
        for text in [
            "", "8", "10000", "-1", "rwx", "u", "x+r", "u=q", "u=rw,", "0x1", "u=ug",
        ] {
            let result = Chmod::parse(text);
            assert!(result.is_err(), "{text}: {result:?}");
        }
    }
}
