//! Edited examples: valid inputs with up to four random edits.

use std::sync::atomic::{AtomicUsize, Ordering};

use bolero::TypeGenerator;

use super::iterations;

/// A valid example and its edits.
#[derive(Debug, Clone, TypeGenerator)]
struct Case {
    seed: u8,
    count: u8,
    edits: [Edit; MOST_EDITS],
}

/// Edits of one example. Beyond a few, parsers refuse the input at once.
const MOST_EDITS: usize = 4;

/// An edit. Offsets wrap at the length.
#[derive(Debug, Clone, TypeGenerator)]
enum Edit {
    Flip {
        at: u16,
        bits: u8,
    },
    Insert {
        at: u16,
        byte: u8,
    },
    Remove {
        at: u16,
        length: u8,
    },
    Repeat {
        at: u16,
        length: u8,
        times: u8,
    },
    Token {
        at: u16,
        which: u8,
    },
    /// Replaces a field's value, so that the input stays JSON.
    Value {
        at: u16,
        which: u8,
    },
    Cut {
        at: u16,
    },
}

/// Byte sequences that often break parsers.
const TOKENS: [&[u8]; 18] = [
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"NaN",
    b"\"\"",
    b"[]",
    b"{}",
    b"\\u0000",
    b"\\ud800",
    b"\xff",
    b",",
    b":",
    b"\"",
    b"[[[[[[[[",
    b"{\"type\":",
    b"\x00",
];

/// JSON values at the edges of their types.
const VALUES: [&[u8]; 16] = [
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1.5",
    b"1e-7",
    b"1e999",
    b"18446744073709551616",
    b"\"\"",
    b"\"0\"",
    b"\"-0.5\"",
    b"\"1e-30\"",
    b"\"79228162514264337593543950336\"",
    b"\"NaN\"",
    b"[]",
    b"{}",
];

impl Case {
    /// Returns the edited bytes. Some cases have no edit, so that valid input is covered too.
    fn bytes(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[usize::from(self.seed) % seeds.len()].clone();
        let count = usize::from(self.count) % (MOST_EDITS + 1);
        for edit in &self.edits[..count] {
            edit.apply(&mut bytes);
        }
        bytes
    }
}

impl Edit {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let place = |at: u16, length: usize| usize::from(at) % (length + 1);
        let range = |at: u16, length: u8, of: usize| {
            let start = place(at, of);
            start..of.min(start + usize::from(length))
        };
        let total = bytes.len();
        match *self {
            Self::Flip { at, bits } => {
                if let Some(byte) = bytes.get_mut(place(at, total)) {
                    *byte ^= bits;
                }
            }
            Self::Insert { at, byte } => bytes.insert(place(at, total), byte),
            Self::Remove { at, length } => drop(bytes.drain(range(at, length, total))),
            Self::Repeat { at, length, times } => {
                let range = range(at, length, total);
                let part = bytes[range.clone()].repeat(usize::from(times));
                bytes.splice(range, part);
            }
            Self::Token { at, which } => {
                let at = place(at, total);
                let token = TOKENS[usize::from(which) % TOKENS.len()];
                bytes.splice(at..at, token.iter().copied());
            }
            Self::Value { at, which } => {
                let begins: Vec<_> = (0..total).filter(|at| bytes[*at] == b':').collect();
                let Some(begin) = begins.get(usize::from(at) % begins.len().max(1)) else {
                    return;
                };
                let begin = begin + 1;
                let is_end = |byte: &u8| matches!(byte, b',' | b'}' | b']');
                let length = bytes[begin..].iter().position(is_end);
                let end = length.map_or(total, |length| begin + length);
                let value = VALUES[usize::from(which) % VALUES.len()];
                bytes.splice(begin..end, value.iter().copied());
            }
            Self::Cut { at } => bytes.truncate(place(at, total)),
        }
    }
}

pub(super) fn texts(seeds: &[&str]) -> Vec<Vec<u8>> {
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

/// Whether a target accepted its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Accepted,
    Refused,
}

/// Runs a target on edited examples and on random bytes.
pub(super) fn fuzz(
    seeds: &[Vec<u8>],
    target: impl Fn(&[u8]) -> Verdict + std::panic::RefUnwindSafe,
) {
    for seed in seeds {
        let text = String::from_utf8_lossy(seed);
        assert_eq!(target(seed), Verdict::Accepted, "the example {text}");
    }
    let counts = [AtomicUsize::new(0), AtomicUsize::new(0)];
    bolero::check!()
        .with_iterations(iterations())
        .with_type::<Case>()
        .for_each(|case| {
            let verdict = target(&case.bytes(seeds));
            counts[verdict as usize].fetch_add(1, Ordering::Relaxed);
        });
    let counts = counts.map(AtomicUsize::into_inner);
    let few = iterations() / 20;
    assert!(
        counts.iter().all(|count| *count > few),
        "{counts:?} edited examples were accepted and refused, expected more than {few} of each"
    );
    bolero::check!()
        .with_iterations(iterations() / 4)
        .with_type::<Vec<u8>>()
        .for_each(|bytes| {
            target(bytes);
        });
}
