//! Summaries of what a client missed: an engine's way to tell much in one publication.
//!
//! An engine implements [`MissedSummary`] and registers it for a namespace with
//! [`StreamCore::register_summary`](crate::StreamCore::register_summary) before clients connect.
//! A client that subscribes with a position then receives one summary for each run of publications
//! that the engine covers. All others follow each once, in their place.
//!
//! # Worked example
//! A client was away from 3 on. 4, 5 and 7 are notifications, 6 is a message. The client receives a
//! summary of 4 and 5 with the number 5, then 6, then 7. Wherever its link breaks meanwhile, its
//! position tells what it has. A summary of 4, 5 and 7 would not: after 6, it could have 4 or not.

use std::sync::Arc;

use crate::{Event, Publication};

/// Missed publications from which on a client that is connected gets a summary: one that fell
/// behind by fewer receives each of them.
const MANY: usize = 32;

/// Sums up the missed publications of a namespace's channels.
pub trait MissedSummary: Send + Sync + 'static {
    /// Whether a summary can stand for such an event.
    fn covers(&self, event: &Event) -> bool;

    /// Sums up consecutive publications that it covers, oldest first, in an event of about
    /// `max_bytes` or fewer. None if they follow one by one.
    fn summarize(&self, missed: &[Arc<Publication>], max_bytes: usize) -> Option<Event>;
}

/// How far behind a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Absence {
    /// It was not subscribed.
    Away,
    /// It is subscribed, and was too slow or paused.
    Behind,
}

impl Absence {
    /// Length of a run from which on it is summed up.
    fn least(self) -> usize {
        match self {
            Self::Away => 1,
            Self::Behind => MANY,
        }
    }
}

/// The publications to send for `missed`, which are consecutive and oldest first.
pub(crate) fn condense(
    summary: Option<&dyn MissedSummary>,
    missed: Vec<Arc<Publication>>,
    absence: Absence,
    max_bytes: usize,
) -> Vec<Arc<Publication>> {
    let Some(summary) = summary else {
        return missed;
    };
    let mut condensed = Vec::new();
    let covers = |one: &Arc<Publication>| summary.covers(&one.event());
    for run in missed.chunk_by(|one, next| covers(one) == covers(next)) {
        match sum_up(summary, run, absence, max_bytes) {
            Some(sum) => condensed.push(sum),
            None => condensed.extend_from_slice(run),
        }
    }
    condensed
}

fn sum_up(
    summary: &dyn MissedSummary,
    run: &[Arc<Publication>],
    absence: Absence,
    max_bytes: usize,
) -> Option<Arc<Publication>> {
    let (first, last) = (run.first()?, run.last()?);
    if run.len() < absence.least() || !summary.covers(&first.event()) {
        return None;
    }
    let event = summary.summarize(run, max_bytes)?;
    Some(Publication::summary_of(first, last, event))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{ChannelName, Epoch, Position, publication::Seq};

    /// Covers the documents `1`.
    struct Ones;

    impl MissedSummary for Ones {
        fn covers(&self, event: &Event) -> bool {
            matches!(event, Event::Message(bytes) if bytes[..] == *b"1")
        }

        fn summarize(&self, _: &[Arc<Publication>], _: usize) -> Option<Event> {
            Some(Event::Message(Bytes::from_static(b"\"sum\"")))
        }
    }

    /// The number before each publication, and its own.
    fn condensed(documents: &'static str, absence: Absence) -> Vec<(Seq, Seq)> {
        let documents = documents.split_ascii_whitespace().zip(4..);
        let publications = documents.map(|(document, seq)| {
            let position = Position {
                epoch: Epoch::new("e"),
                seq,
            };
            let event = Event::Message(Bytes::from_static(document.as_bytes()));
            Publication::new(ChannelName::parse("demo:a").unwrap(), position, 0, event)
        });
        let all = condense(Some(&Ones), publications.collect(), absence, 1_000);
        all.iter().map(|one| (one.after(), one.seq())).collect()
    }

    #[test]
    fn each_run_has_a_summary_at_its_end() {
        let away = |documents| condensed(documents, Absence::Away);
        assert_eq!(away("1 1 2 1"), [(3, 5), (5, 6), (6, 7)]);
        assert_eq!(away("2 1 1 1"), [(3, 4), (4, 7)]);
        assert_eq!(away("2 2"), [(3, 4), (4, 5)]);
        assert_eq!(away("1"), [(3, 4)]);
        assert_eq!(away(""), []);
        let behind = condensed("1 1", Absence::Behind);
        assert_eq!(behind, [(3, 4), (4, 5)], "a few are sent one by one");
    }
}
