//! Signals by name and number, as people write them.

const NAMES: [(&str, i32); 38] = [
    ("HUP", 1),
    ("INT", 2),
    ("QUIT", 3),
    ("ILL", 4),
    ("TRAP", 5),
    ("ABRT", 6),
    ("IOT", 6),
    ("BUS", 7),
    ("FPE", 8),
    ("KILL", 9),
    ("USR1", 10),
    ("SEGV", 11),
    ("USR2", 12),
    ("PIPE", 13),
    ("ALRM", 14),
    ("TERM", 15),
    ("STKFLT", 16),
    ("CHLD", 17),
    ("CLD", 17),
    ("CONT", 18),
    ("STOP", 19),
    ("TSTP", 20),
    ("TTIN", 21),
    ("TTOU", 22),
    ("URG", 23),
    ("XCPU", 24),
    ("XFSZ", 25),
    ("VTALRM", 26),
    ("PROF", 27),
    ("WINCH", 28),
    ("IO", 29),
    ("POLL", 29),
    ("PWR", 30),
    ("SYS", 31),
    ("UNUSED", 31),
    ("RTMIN", 34),
    ("RTMAX", 64),
    ("EXIT", 0),
];

/// Ends a process at once.
pub const KILL: i32 = 9;
/// The number of SIGINT.
pub const INT: i32 = 2;
/// The number of SIGQUIT.
pub const QUIT: i32 = 3;
/// Asks a process to end.
pub const TERM: i32 = 15;

/// Reads a signal: a number from 1 to 64, or a name in any case with or without `SIG`, `RTMIN+n`
/// and `RTMAX-n` included.
pub fn parse(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (1..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |digits: &str| digits.parse::<i32>().ok().filter(|n| (0..=30).contains(n));
    if let Some(digits) = name.strip_prefix("RTMIN+") {
        return offset(digits).map(|n| 34 + n);
    }
    if let Some(digits) = name.strip_prefix("RTMAX-") {
        return offset(digits).map(|n| 64 - n);
    }
    NAMES
        .into_iter()
        .find(|(known, number)| *known == name && *number > 0)
        .map(|(_, number)| number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signals_are_read_in_all_writings() {
        for (text, number) in [
            ("9", 9),
            ("KILL", 9),
            ("SIGTERM", 15),
            ("sigusr1", 10),
            ("RTMIN+3", 37),
            ("SIGRTMAX-1", 63),
            ("64", 64),
        ] {
            assert_eq!(parse(text), Some(number), "{text}");
        }
        for text in [
            "", "0", "65", "-9", "SIG", "EXIT", "FLY", "RTMIN+31", "RTMIN+-1", "9.5",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
