//! Kept answers: the newest answers to other nodes, which may not have heard them.
//!
//! A node that misses an answer asks again under the same number. It gets the answer of before, and
//! nothing is carried out twice.

use std::{
    collections::{HashMap, VecDeque},
    time::Duration,
};

use bytes::Bytes;
use tokio::time::Instant;

use crate::broker::NodeTag;

/// Time for which an answer is kept: longer than any node waits for one.
const KEPT: Duration = Duration::from_secs(30);

/// Bytes of all answers that are kept.
const BYTES: usize = 16 << 20;

/// Bytes that an answer takes beside its own, about.
const OVERHEAD: usize = 128;

/// A question: who asked, and under which number.
type Number = (NodeTag, u64);

/// The newest answers.
#[derive(Debug, Default)]
pub(super) struct KeptAnswers {
    answers: HashMap<Number, Bytes>,
    /// The same, oldest first.
    order: VecDeque<(Number, Instant)>,
    bytes: usize,
}

impl KeptAnswers {
    /// Keeps an answer.
    pub(super) fn keep(&mut self, number: Number, answer: Bytes) {
        let size = answer.len() + OVERHEAD;
        self.bytes += size;
        match self.answers.insert(number, answer) {
            Some(before) => self.bytes -= before.len() + OVERHEAD,
            None => self.order.push_back((number, Instant::now())),
        }
        while let Some((oldest, at)) = self.order.front()
            && (self.bytes > BYTES || at.elapsed() > KEPT)
        {
            let removed = self.answers.remove(oldest);
            self.bytes -= removed.map_or(0, |answer| answer.len() + OVERHEAD);
            self.order.pop_front();
        }
    }

    /// The answer to a question, if it is kept.
    pub(super) fn find(&self, number: Number) -> Option<Bytes> {
        self.answers.get(&number).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_newest_answers_are_kept_for_a_while() {
        let tag = NodeTag::random();
        let mut kept = KeptAnswers::default();
        let answer = Bytes::from(vec![7; BYTES / 4]);
        for number in 0..5 {
            kept.keep((tag, number), answer.clone());
        }
        assert_eq!(kept.find((tag, 1)), None);
        assert_eq!(kept.find((tag, 4)), Some(answer));
        assert_eq!(kept.find((NodeTag::random(), 4)), None);
        tokio::time::advance(KEPT * 2).await;
        kept.keep((tag, 9), Bytes::from_static(b"new"));
        assert_eq!(kept.find((tag, 4)), None);
        assert_eq!((kept.answers.len(), kept.order.len()), (1, 1));
        assert_eq!(kept.bytes, 3 + OVERHEAD);
    }
}
