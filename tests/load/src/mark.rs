//! Marks: numbers in payloads that identify a message on arrival.
//!
//! Every message carries a number as digits that each encoding keeps contiguous: as a text, or
//! as the fraction of a price. The [`Ledger`] stores when each number was sent and to how many
//! subscribers. Readers search for the tag before the digits and parse nothing else.

use memchr::memmem::Finder;

use crate::clock;

/// Digits of a number.
const DIGITS: usize = 8;
/// Count of numbers.
const NUMBERS: u32 = 100_000_000;
/// Length of the longest tag with its digits.
pub(crate) const LONGEST: usize = 32;

/// Encoding of the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MarkKind {
    /// A text in the payload.
    Text,
    /// A price in JSON.
    JsonPrice,
    /// A price in protobuf.
    ProtoPrice,
}

/// The whole part of every price.
const PRICE: &str = "7090";

/// Formats a number as a text.
pub(crate) fn text(number: u32) -> String {
    format!("tw#{number:08}")
}

/// Formats a number as a price. The last digit is never zero, because some notations drop
/// trailing zeros.
pub(crate) fn price(number: u32) -> String {
    format!("{PRICE}.{number:08}7")
}

/// Finds marks.
#[derive(Debug)]
pub(crate) struct Marks {
    finder: Finder<'static>,
    tag: usize,
}

impl Marks {
    pub(crate) fn new(kind: MarkKind) -> Self {
        let length = price(0).len() as u8;
        let tag = match kind {
            MarkKind::Text => b"tw#".to_vec(),
            MarkKind::JsonPrice => format!("\"price\":{PRICE}.").into_bytes(),
            // Field 2 of an update holds a message whose field 1 is the digits.
            MarkKind::ProtoPrice => {
                let mut tag = vec![0x12, length + 2, 0x0a, length];
                tag.extend_from_slice(PRICE.as_bytes());
                tag.push(b'.');
                tag
            }
        };
        Self {
            finder: Finder::new(&tag).into_owned(),
            tag: tag.len(),
        }
    }

    /// Length of a mark, in bytes.
    pub(crate) fn length(&self) -> usize {
        self.tag + DIGITS
    }

    /// Passes every number to `take`. Returns how many bytes were consumed; an incomplete mark
    /// begins after them.
    pub(crate) fn each(&self, bytes: &[u8], mut take: impl FnMut(u32)) -> usize {
        let mut at = 0;
        while let Some(found) = self.finder.find(&bytes[at..]) {
            let digits = at + found + self.tag;
            let Some(digits) = bytes.get(digits..digits + DIGITS) else {
                return at + found;
            };
            if let Some(number) = number(digits) {
                take(number);
            }
            at += found + self.length();
        }
        // A tag may begin in the remaining bytes.
        at.max(bytes.len().saturating_sub(self.tag - 1))
    }
}

fn number(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |number, digit| {
        digit
            .is_ascii_digit()
            .then(|| number * 10 + u32::from(digit - b'0'))
    })
}

/// A message that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) number: u32,
    pub(crate) channel: u16,
    /// When it was written to the socket.
    pub(crate) at: u64,
}

/// Messages in the ledger: several seconds at any rate.
const REMEMBERED: usize = 1 << 18;

/// Sent messages, with their times and expected deliveries.
#[derive(Debug)]
pub(crate) struct Ledger {
    ring: Vec<Sent>,
    next: u32,
    /// Subscribers per channel.
    pub(crate) subscribers: Vec<u64>,
    /// Whether messages sent now count.
    pub(crate) counts: bool,
    pub(crate) messages: u64,
    pub(crate) expected: u64,
}

impl Ledger {
    pub(crate) fn new(subscribers: Vec<u64>) -> Self {
        let never = Sent {
            number: u32::MAX,
            channel: 0,
            at: 0,
        };
        Self {
            ring: vec![never; REMEMBERED],
            next: 0,
            subscribers,
            counts: false,
            messages: 0,
            expected: 0,
        }
    }

    /// Returns the number of the next message.
    pub(crate) fn next(&self) -> u32 {
        self.next
    }

    /// Records a message sent now on a channel, and returns its number.
    ///
    /// # Errors
    /// No numbers are left.
    pub(crate) fn enter(&mut self, channel: usize) -> anyhow::Result<u32> {
        let number = self.next;
        anyhow::ensure!(number < NUMBERS, "more than {NUMBERS} messages in one run");
        self.next += 1;
        self.ring[number as usize % REMEMBERED] = Sent {
            number,
            channel: channel as u16,
            at: clock::now(),
        };
        if self.counts {
            self.messages += 1;
            self.expected += self.subscribers[channel];
        }
        Ok(number)
    }

    /// Returns a message, unless the ledger has overwritten it.
    pub(crate) fn find(&self, number: u32) -> Option<Sent> {
        let sent = self.ring[number as usize % REMEMBERED];
        (sent.number == number).then_some(sent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(kind: MarkKind, bytes: &[u8]) -> (Vec<u32>, usize) {
        let mut found = Vec::new();
        let done = Marks::new(kind).each(bytes, |number| found.push(number));
        (found, done)
    }

    #[test]
    fn marks_are_found_in_what_surrounds_them() {
        let frame = format!("{{\"a\":\"{}\"}}..{}", text(7), text(12_345_678));
        assert_eq!(numbers(MarkKind::Text, frame.as_bytes()).0, [7, 12_345_678]);
        let json = format!(
            "{{\"symbol\":\"A\",\"price\":{},\"twap\":7090.1}}",
            price(42)
        );
        assert_eq!(numbers(MarkKind::JsonPrice, json.as_bytes()).0, [42]);
    }

    #[test]
    fn an_incomplete_mark_waits_for_the_next_read() {
        let bytes = [b"some".as_slice(), text(99).as_bytes(), b" and"].concat();
        for cut in 0..=bytes.len() {
            let (mut found, done) = numbers(MarkKind::Text, &bytes[..cut]);
            found.extend(numbers(MarkKind::Text, &bytes[done..]).0);
            assert_eq!(found, [99], "cut at {cut}");
        }
    }

    #[test]
    fn prices_are_found_in_protobuf() {
        use tidewire_proto::{prost::Message as _, v1};
        let update = v1::PriceUpdate {
            symbol: "A-B".to_owned(),
            price: Some(v1::Decimal { value: price(31) }),
            ..v1::PriceUpdate::default()
        };
        let batch = v1::PriceBatch {
            updates: vec![update.clone(), update],
            timestamp: 1,
        };
        let bytes = batch.encode_to_vec();
        assert_eq!(numbers(MarkKind::ProtoPrice, &bytes).0, [31, 31]);
    }

    #[test]
    fn the_ledger_knows_what_was_sent_lately() {
        let mut ledger = Ledger::new(vec![3, 5]);
        assert_eq!(ledger.enter(0).unwrap(), 0);
        ledger.counts = true;
        assert_eq!(ledger.enter(1).unwrap(), 1);
        assert_eq!((ledger.messages, ledger.expected), (1, 5));
        assert_eq!(ledger.find(1).unwrap().channel, 1);
        assert_eq!(ledger.find(2), None);
    }
}
