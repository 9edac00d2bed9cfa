//! Stream tail: the last bytes of a stream, where a mark may be cut in two.

use crate::mark::LONGEST;

/// The start of an incomplete mark.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Tail {
    /// Scans new bytes together with the tail. `scan` returns how many bytes it consumed; the
    /// rest is shorter than `mark`, the length of a mark.
    pub(crate) fn feed(&mut self, bytes: &[u8], mark: usize, mut scan: impl FnMut(&[u8]) -> usize) {
        let mut at = 0;
        if self.length > 0 {
            let kept = self.length;
            let more = bytes.len().min(mark);
            let mut joint = [0; 2 * LONGEST];
            joint[..kept].copy_from_slice(&self.bytes[..kept]);
            joint[kept..kept + more].copy_from_slice(&bytes[..more]);
            let done = scan(&joint[..kept + more]);
            if done < kept {
                // Too few bytes: the mark that begins in the tail is still incomplete.
                return self.keep(&joint[done..kept + more]);
            }
            at = done - kept;
        }
        let done = at + scan(&bytes[at..]);
        self.keep(&bytes[done..]);
    }

    fn keep(&mut self, rest: &[u8]) {
        let length = rest.len().min(LONGEST);
        self.bytes[..length].copy_from_slice(&rest[..length]);
        self.length = length;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mark::{MarkKind, Marks, text};

    #[test]
    fn marks_are_found_however_the_stream_is_cut() {
        let marks = Marks::new(MarkKind::Text);
        let stream = format!("ttw{}..{}{}tw", text(1), text(2), text(3));
        for size in 1..stream.len() {
            let mut tail = Tail::default();
            let mut found = Vec::new();
            for part in stream.as_bytes().chunks(size) {
                tail.feed(part, marks.length(), |bytes| {
                    marks.each(bytes, |number| found.push(number))
                });
            }
            assert_eq!(found, [1, 2, 3], "in parts of {size}");
        }
    }
}
