//! Looks for the detach sequence in what a client types.

use sampan_shim_protocol::DetachKeys;

/// Finds a key sequence that may be spread over several reads.
#[derive(Debug)]
pub(crate) struct DetachScanner {
    keys: Vec<u8>,
    /// How many of the keys have been typed; they are held back until it is clear.
    matched: usize,
}

impl DetachScanner {
    /// `None` where the sequence is empty.
    pub(crate) fn new(keys: &DetachKeys) -> Option<Self> {
        let keys = keys.as_bytes().to_vec();
        (!keys.is_empty()).then_some(Self { keys, matched: 0 })
    }

    /// Takes what was typed and appends what is meant for the process to `through`. True when the
    /// sequence is complete; what follows it is dropped.
    pub(crate) fn feed(&mut self, typed: &[u8], through: &mut Vec<u8>) -> bool {
        for &byte in typed {
            if self.keys[self.matched] == byte {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return true;
                }
                continue;
            }
            // The longest end of what was held back, with this byte, may begin the sequence again.
            let mut held = self.keys[..self.matched].to_vec();
            held.push(byte);
            let again = (0..held.len())
                .rev()
                .find(|&length| held.ends_with(&self.keys[..length]))
                .unwrap_or(0);
            through.extend_from_slice(&held[..held.len() - again]);
            self.matched = again;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(keys: &str, pieces: &[&[u8]]) -> (Vec<u8>, bool) {
        let mut scanner = DetachScanner::new(&keys.parse().unwrap()).unwrap();
        let mut through = Vec::new();
        for piece in pieces {
            if scanner.feed(piece, &mut through) {
                return (through, true);
            }
        }
        (through, false)
    }

    #[test]
    fn the_sequence_is_found_across_reads_and_nothing_else_is_lost() {
        type Case = (&'static str, &'static [&'static [u8]], &'static [u8], bool);
        let cases: [Case; 9] = [
            ("ctrl-p,ctrl-q", &[b"ls\n\x10\x11more"], b"ls\n", true),
            ("ctrl-p,ctrl-q", &[b"a\x10", b"\x11"], b"a", true),
            ("ctrl-p,ctrl-q", &[b"a\x10", b"b\x11"], b"a\x10b\x11", false),
            ("ctrl-p,ctrl-q", &[b"\x10\x10\x11"], b"\x10", true),
            ("ctrl-p,ctrl-q", &[b"\x10"], b"", false),
            ("a,a,b", &[b"aaab"], b"a", true),
            ("a,a,b", &[b"aaxaab"], b"aax", true),
            ("a,b,a,c", &[b"ab", b"ab", b"ac"], b"ab", true),
            ("x", &[b"abc"], b"abc", false),
        ];
        for (keys, pieces, through, found) in cases {
            assert_eq!(
                scan(keys, pieces),
                (through.to_vec(), found),
                "{keys} {pieces:?}"
            );
        }
    }

    #[test]
    fn an_empty_sequence_is_no_sequence() {
        assert!(DetachScanner::new(&DetachKeys::none()).is_none());
    }
}
