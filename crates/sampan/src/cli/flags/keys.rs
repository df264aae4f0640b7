//! `--detach-keys`: which keys leave a container running.

/// Docker's sequence.
const USUAL: [u8; 2] = [16, 17];

/// Reads a sequence such as `ctrl-p,ctrl-q` or `a,b`; the usual one when it is empty.
pub(crate) fn parse(text: &str) -> Result<Vec<u8>, String> {
    if text.is_empty() {
        return Ok(USUAL.to_vec());
    }
    text.split(',')
        .map(|key| match key.as_bytes() {
            [one] => Ok(*one),
            [b'c', b't', b'r', b'l', b'-', letter] => match letter {
                b'a'..=b'z' => Ok(letter - b'a' + 1),
                b'@' => Ok(0),
                b'[' => Ok(27),
                b'\\' => Ok(28),
                b']' => Ok(29),
                b'^' => Ok(30),
                b'_' => Ok(31),
                _ => Err(format!("Unknown character: '{key}'")),
            },
            _ => Err(format!("Unknown character: '{key}'")),
        })
        .collect()
}

/// Watches input for the sequence.
#[derive(Debug)]
pub(crate) struct Watch {
    keys: Vec<u8>,
    matched: usize,
}

impl Watch {
    /// Watches for `keys`.
    pub(crate) fn new(keys: Vec<u8>) -> Self {
        Self { keys, matched: 0 }
    }

    /// Whether the sequence is complete with this input.
    pub(crate) fn sees(&mut self, input: &[u8]) -> bool {
        for byte in input {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
            } else {
                self.matched = usize::from(self.keys.first() == Some(byte));
            }
            if !self.keys.is_empty() && self.matched == self.keys.len() {
                return true;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_letters_and_controls() {
        for (text, expected) in [
            ("", Some(vec![16, 17])),
            ("ctrl-p,ctrl-q", Some(vec![16, 17])),
            ("a", Some(vec![97])),
            ("ctrl-@,ctrl-_", Some(vec![0, 31])),
            ("ctrl-A", None),
            ("abc", None),
            (",", None),
        ] {
            assert_eq!(parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn the_sequence_may_come_in_pieces() {
        let mut watch = Watch::new(vec![16, 17]);
        assert!(!watch.sees(b"ls\x10"));
        assert!(!watch.sees(b"\x10"));
        assert!(watch.sees(b"\x11"));
    }
}
