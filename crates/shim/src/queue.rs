//! Bytes on their way to somebody who takes them slower than they come.

/// A first-in first-out buffer that gives its memory back when it is empty.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: Vec<u8>,
    start: usize,
}

impl Queue {
    /// Number of bytes waiting.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.start
    }

    /// Whether nothing waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What waits.
    pub(crate) fn front(&self) -> &[u8] {
        &self.bytes[self.start..]
    }

    /// Adds bytes at the end.
    pub(crate) fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 && self.start >= self.len() {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// Takes `count` bytes away from the front.
    pub(crate) fn consume(&mut self, count: usize) {
        self.start += count;
        if self.start >= self.bytes.len() {
            self.bytes = Vec::new();
            self.start = 0;
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_come_out_as_they_went_in() {
        let mut queue = Queue::default();
        let mut out = Vec::new();
        for number in 0..1000_usize {
            queue.push(&vec![number as u8; number % 7]);
            let count = queue.len().min(number % 5);
            out.extend_from_slice(&queue.front()[..count]);
            queue.consume(count);
        }
        out.extend_from_slice(queue.front());
        let expected: Vec<u8> = (0..1000_usize)
            .flat_map(|number| vec![number as u8; number % 7])
            .collect();
        assert_eq!(out, expected);
        queue.clear();
        assert!(queue.is_empty());
    }
}
