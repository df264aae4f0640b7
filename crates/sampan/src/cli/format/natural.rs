//! The order in which Docker's client lists names: numbers in them count as numbers.

use std::cmp::Ordering;

/// Compares two names: `data9` comes before `data10`, digits before anything else, and of two
/// numbers that are equal the one with fewer zeros before it.
pub(crate) fn order(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while let (Some(first), Some(second)) = (a.first(), b.first()) {
        match (first.is_ascii_digit(), second.is_ascii_digit()) {
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            (false, false) if first == second => (a, b) = (&a[1..], &b[1..]),
            (false, false) => return first.cmp(second),
            (true, true) => {
                let (one, other) = (Number::first(&mut a), Number::first(&mut b));
                let order = one.cmp(&other);
                if order.is_ne() {
                    return order;
                }
            }
        }
    }
    a.len().cmp(&b.len())
}

/// A number as it is written: what comes first counts first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Number<'a> {
    length: usize,
    digits: &'a [u8],
    zeros: usize,
}

impl<'a> Number<'a> {
    /// Takes the number off with which a text begins.
    fn first(text: &mut &'a [u8]) -> Self {
        let count = |text: &[u8], wanted: fn(&u8) -> bool| {
            text.iter().take_while(|byte| wanted(byte)).count()
        };
        let zeros = count(text, |byte| *byte == b'0');
        let length = count(&text[zeros..], u8::is_ascii_digit);
        let digits = &text[zeros..zeros + length];
        *text = &text[zeros + length..];
        Self {
            length,
            digits,
            zeros,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_count_as_numbers() {
        let mut names = [
            "data10", "data9", "data09", "data", "b", "a1b2", "a1b10", "a01b1", "10", "9a", "0",
            "", "00", "A",
        ];
        names.sort_unstable_by(|a, b| order(a, b));
        let sorted = [
            "", "0", "00", "9a", "10", "A", "a1b2", "a1b10", "a01b1", "b", "data", "data9",
            "data09", "data10",
        ];
        assert_eq!(names, sorted);
    }
}
