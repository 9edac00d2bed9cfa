//! Kept pages: pages of long histories, in memory while clients recover from them.
//!
//! A history that one read brings is kept as a [tail](super::tail). A longer one is read page by
//! page, and a client takes as much of a page as its outbox has room for. Its page is kept, so that
//! the next part, and all other clients of the channel, need no read.
//!
//! A page has all publications from one seq to another, and these never change within an epoch, as far
//! as they were delivered here before ([`Page::delivered`]). Whether the history still has them is for the
//! reader to find out.
//!
//! # Shared beginnings
//! Clients at different positions use the page that has what follows. No page of a channel is within
//! another one: of those that begin at a position or before it, the one that begins last reaches
//! furthest. A read for a position that no page leads to begins at a multiple of a power of two, so
//! that it serves clients that come later and are a little behind.
//!
//! # Example
//! A page has 1 to 63. Its 63 publications make the power 32. A client at 40 takes 41 to 52 from it,
//! then 53 to 63. Nothing follows 63 here: it reads on from there, since a page leads to it, and the
//! page has 64 to 126. A client that comes at 200 reads from 192 on, and one at 195 needs no read.
//!
//! # Memory
//! All pages together take a part of `limits.history_bytes`, with the encodings of their
//! publications. The page that was used least recently goes first, and one that nobody uses goes
//! after a while.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use tokio::time::Instant;

use super::reads::{PAGE_BYTES, Page};
use crate::{
    ChannelName, Epoch, Position,
    history_memory::{HistoryMemory, HistoryShare},
    publication::Seq,
};

/// Time after its last use at which a page goes.
const IDLE: Duration = Duration::from_secs(5);

/// Part of `limits.history_bytes` for the pages.
const PART: usize = 4;

/// Memory of all pages at most.
const MAX_BYTES: usize = 64 << 20;

/// A page takes about three times its bytes with the encodings of its publications, and each channel
/// has to keep two of them: the one in use, and the next.
const PARTS_OF_A_CHANNEL: usize = 8;

/// Pages of all channels.
#[derive(Debug)]
pub(super) struct KeptPages {
    channels: HashMap<ChannelName, KeptChannel>,
    /// Channel and beginning of each page, by its last use.
    uses: BTreeMap<u64, (ChannelName, Seq)>,
    /// Number of the next use.
    next_use: u64,
    limit: usize,
    memory: Arc<HistoryMemory>,
    share: Arc<HistoryShare>,
}

/// Pages of a channel.
#[derive(Debug)]
struct KeptChannel {
    epoch: Epoch,
    /// By the seq after which they begin.
    pages: BTreeMap<Seq, KeptPage>,
    /// Reads begin at its multiples: more than a half of a page, and not more than all of it.
    step: Seq,
}

#[derive(Debug)]
struct KeptPage {
    page: Arc<Page>,
    /// Its last publication that others may take.
    last: Seq,
    last_use: u64,
    used_at: Instant,
}

impl Drop for KeptPage {
    fn drop(&mut self) {
        for one in &self.page.publications {
            one.leave_history();
        }
    }
}

impl KeptChannel {
    /// The page that reaches furthest of those that begin at `seq` or before.
    fn reaching(&self, seq: Seq) -> Option<&KeptPage> {
        self.pages.range(..=seq).next_back().map(|(_, page)| page)
    }
}

impl KeptPages {
    /// No page yet, on a node whose histories may have `history_bytes`.
    pub(super) fn new(history_bytes: usize) -> Self {
        let limit = (history_bytes / PART).min(MAX_BYTES);
        let memory = Arc::new(HistoryMemory::new(limit));
        Self {
            channels: HashMap::new(),
            uses: BTreeMap::new(),
            next_use: 0,
            limit,
            share: HistoryShare::new(&memory),
            memory,
        }
    }

    /// Memory of all pages.
    pub(super) fn bytes(&self) -> usize {
        self.memory.used()
    }

    /// A page that has publications after `since`.
    pub(super) fn find(&mut self, channel: &ChannelName, since: &Position) -> Option<Arc<Page>> {
        let kept = self.channels.get_mut(channel)?;
        if kept.epoch != since.epoch {
            return None;
        }
        let (_, found) = kept.pages.range_mut(..=since.seq).next_back()?;
        if found.last <= since.seq {
            return None;
        }
        let place = self.uses.remove(&found.last_use)?;
        self.uses.insert(self.next_use, place);
        found.last_use = self.next_use;
        found.used_at = Instant::now();
        self.next_use += 1;
        Some(found.page.clone())
    }

    /// Keeps a page that begins after a seq.
    pub(super) fn keep(&mut self, channel: &ChannelName, after: Seq, page: &Arc<Page>) {
        let last = page.last_lasting();
        if last <= after {
            return;
        }
        let epoch = &page.top.epoch;
        let is_other = |kept: &KeptChannel| kept.epoch != *epoch;
        if self.channels.get(channel).is_some_and(is_other) {
            self.forget(channel);
        }
        let new = || KeptChannel {
            epoch: epoch.clone(),
            pages: BTreeMap::new(),
            step: 1,
        };
        let kept = self.channels.entry(channel.clone()).or_insert_with(new);
        if kept.reaching(after).is_some_and(|one| one.last >= last) {
            return;
        }
        if let Some(log) = page.publications.len().checked_ilog2()
            && !page.is_end
        {
            kept.step = 1 << log;
        }
        let within = kept.pages.range(after..);
        let within = within.take_while(|(_, one)| one.last <= last);
        for begin in within.map(|(begin, _)| *begin).collect::<Vec<_>>() {
            let removed = kept.pages.remove(&begin);
            removed.and_then(|one| self.uses.remove(&one.last_use));
        }
        for one in &page.publications {
            one.enter_history(&self.share);
        }
        let one = KeptPage {
            page: page.clone(),
            last,
            last_use: self.next_use,
            used_at: Instant::now(),
        };
        kept.pages.insert(after, one);
        self.uses.insert(self.next_use, (channel.clone(), after));
        self.next_use += 1;
        self.cut();
    }

    /// The seq from which to read for a client at `seq`, if no page has what follows.
    pub(super) fn beginning(&self, channel: &ChannelName, seq: Seq) -> Seq {
        let Some(kept) = self.channels.get(channel) else {
            return seq;
        };
        match kept.reaching(seq).is_some_and(|one| one.last == seq) {
            true => seq,
            false => seq - seq % kept.step,
        }
    }

    /// Bytes to read at once for a client that has room for `wanted`: as many as the channel can keep
    /// beside the others.
    pub(super) fn page_bytes(&self, wanted: usize) -> usize {
        let own = self.limit / (self.channels.len() + 1) / PARTS_OF_A_CHANNEL;
        own.clamp(wanted.min(PAGE_BYTES), PAGE_BYTES)
    }

    /// Drops the pages that nobody uses any more, and those that have grown over the bound.
    pub(super) fn sweep(&mut self) {
        let is_idle = |kept: &KeptPages, channel: &ChannelName, begin: &Seq| {
            let one = kept.channels.get(channel)?.pages.get(begin)?;
            Some(one.used_at.elapsed() >= IDLE)
        };
        while let Some((_, (channel, begin))) = self.uses.first_key_value()
            && is_idle(self, channel, begin) != Some(false)
        {
            self.drop_first();
        }
        self.cut();
    }

    /// Drops pages until the others fit the bound.
    fn cut(&mut self) {
        while self.memory.excess().is_some() && self.drop_first() {}
    }

    /// Drops the page that was used least recently. Returns whether there was one.
    fn drop_first(&mut self) -> bool {
        let Some((_, (channel, begin))) = self.uses.pop_first() else {
            return false;
        };
        if let Some(kept) = self.channels.get_mut(&channel) {
            kept.pages.remove(&begin);
            if kept.pages.is_empty() {
                self.channels.remove(&channel);
            }
        }
        true
    }

    /// Drops the pages of a channel.
    fn forget(&mut self, channel: &ChannelName) {
        let removed = self.channels.remove(channel);
        for one in removed.iter().flat_map(|kept| kept.pages.values()) {
            self.uses.remove(&one.last_use);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Event, Publication};

    fn channel() -> ChannelName {
        ChannelName::parse("orders:1").unwrap()
    }

    fn position(epoch: &str, seq: Seq) -> Position {
        Position {
            epoch: Epoch::new(epoch),
            seq,
        }
    }

    /// A page of `count` publications after a seq, of which those up to `delivered` were.
    fn page(epoch: &str, after: Seq, count: Seq, delivered: Seq) -> Arc<Page> {
        let event = || Event::Message(vec![b'1'; 1_000].into());
        let seqs = after + 1..=after + count;
        let publications = seqs
            .map(|seq| Publication::new(channel(), position(epoch, seq), 0, event()))
            .collect();
        Arc::new(Page {
            top: position(epoch, Seq::MAX),
            now_ms: 0,
            read_at: Instant::now(),
            publications,
            mark: String::new(),
            is_end: false,
            delivered,
        })
    }

    /// The first and the last seq of the page for a client at `seq` of the epoch `e`.
    fn found(kept: &mut KeptPages, seq: Seq) -> Option<(Seq, Seq)> {
        let page = kept.find(&channel(), &position("e", seq))?;
        let (first, last) = (page.publications.first()?, page.publications.last()?);
        Some((first.seq(), last.seq()))
    }

    fn is_empty(kept: &KeptPages) -> bool {
        kept.channels.is_empty() && kept.uses.is_empty() && kept.bytes() == 0
    }

    #[tokio::test(start_paused = true)]
    async fn clients_at_different_positions_share_pages_as_in_the_example() {
        let mut kept = KeptPages::new(512 << 20);
        assert_eq!(kept.beginning(&channel(), 40), 40, "nothing is known yet");
        kept.keep(&channel(), 0, &page("e", 0, 63, 1_000));
        assert_eq!(found(&mut kept, 40), Some((1, 63)));
        assert_eq!(found(&mut kept, 62), Some((1, 63)));
        assert_eq!(found(&mut kept, 63), None);
        assert_eq!(kept.beginning(&channel(), 63), 63);
        kept.keep(&channel(), 63, &page("e", 63, 63, 1_000));
        assert_eq!(found(&mut kept, 63), Some((64, 126)));
        assert_eq!(kept.beginning(&channel(), 200), 192);
        kept.keep(&channel(), 192, &page("e", 192, 63, 1_000));
        assert_eq!(found(&mut kept, 195), Some((193, 255)));
        assert_eq!(found(&mut kept, 191), None);
        let other = ChannelName::parse("orders:2").unwrap();
        assert!(kept.find(&other, &position("e", 0)).is_none());
        assert_eq!(kept.beginning(&other, 200), 200);
        assert!(kept.find(&channel(), &position("f", 0)).is_none());
        kept.keep(&channel(), 0, &page("f", 0, 1, 1_000));
        assert_eq!(found(&mut kept, 0), None, "it has begun another epoch");
        assert_eq!((kept.channels.len(), kept.uses.len()), (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_goes_when_nobody_has_used_it_for_a_while() {
        let mut kept = KeptPages::new(512 << 20);
        kept.keep(&channel(), 0, &page("e", 0, 10, 1_000));
        kept.keep(&channel(), 10, &page("e", 10, 10, 1_000));
        tokio::time::advance(IDLE / 2).await;
        kept.sweep();
        assert_eq!(found(&mut kept, 0), Some((1, 10)));
        tokio::time::advance(IDLE / 2).await;
        kept.sweep();
        assert_eq!(
            (found(&mut kept, 0), found(&mut kept, 10)),
            (Some((1, 10)), None)
        );
        tokio::time::advance(IDLE).await;
        kept.sweep();
        assert!(is_empty(&kept));
    }

    #[tokio::test]
    async fn what_was_not_delivered_is_not_taken_later() {
        let mut kept = KeptPages::new(512 << 20);
        kept.keep(&channel(), 10, &page("e", 10, 10, 10));
        assert!(is_empty(&kept));
        kept.keep(&channel(), 10, &page("e", 10, 10, 15));
        assert!(found(&mut kept, 14).is_some() && found(&mut kept, 15).is_none());
        assert_eq!(kept.beginning(&channel(), 15), 15);
        // A later read brings the rest.
        kept.keep(&channel(), 10, &page("e", 10, 10, 20));
        assert!(found(&mut kept, 15).is_some());
    }

    #[tokio::test]
    async fn pages_take_bounded_memory_with_their_encodings() {
        const LIMIT: usize = 100_000;
        let mut kept = KeptPages::new(LIMIT * PART);
        let pages: Vec<_> = (0..9).map(|at| page("e", 10 * at, 10, 1_000)).collect();
        for (at, one) in pages.iter().enumerate() {
            kept.keep(&channel(), 10 * at as Seq, one);
            assert!(kept.bytes() <= LIMIT);
            // The first one is used all the time.
            assert_eq!(found(&mut kept, 0), Some((1, 10)));
        }
        let left = kept.uses.len();
        assert!((2..9).contains(&left), "{left} pages");
        assert_eq!(found(&mut kept, 10), None);
        for one in pages.iter().flat_map(|page| &page.publications) {
            let _ = (one.json(), one.proto());
        }
        assert!(kept.bytes() > LIMIT);
        kept.sweep();
        assert!(kept.bytes() <= LIMIT && kept.uses.len() < left);
        let mut none = KeptPages::new(0);
        none.keep(&channel(), 0, &page("e", 0, 10, 1_000));
        assert!(none.channels.is_empty() && none.uses.is_empty());
    }

    #[test]
    fn the_more_channels_there_are_the_shorter_are_the_pages() {
        let mut kept = KeptPages::new(512 << 20);
        let wanted = 256 << 10;
        let bytes = (0..100).map(|number| {
            let bytes = kept.page_bytes(wanted);
            let channel = ChannelName::parse(&format!("orders:{number}")).unwrap();
            kept.keep(&channel, 0, &page("e", 0, 1, 1));
            bytes
        });
        let bytes: Vec<_> = bytes.collect();
        assert!(bytes.is_sorted_by(|one, next| one >= next));
        assert_eq!((bytes[7], bytes[99]), (PAGE_BYTES, wanted));
        assert!(bytes[15] < PAGE_BYTES && bytes[15] > wanted);
        assert_eq!(kept.page_bytes(2 * PAGE_BYTES), PAGE_BYTES);
    }

    proptest! {
        /// Compared with a list of all pages: a client gets a page with what follows whenever one was
        /// kept, and no publication is charged for that no page has.
        #[test]
        fn a_page_that_was_kept_is_found(
            pages in prop::collection::vec((0_u64..200, 1_u64..40, 0_u64..240), 1..30),
        ) {
            let mut kept = KeptPages::new(512 << 20);
            let mut model = Vec::new();
            for (after, count, delivered) in pages {
                kept.keep(&channel(), after, &page("e", after, count, delivered));
                model.push(after..(after + count).min(delivered));
                for seq in 0..250 {
                    let is_kept = model.iter().any(|one| one.contains(&seq));
                    let found = found(&mut kept, seq);
                    prop_assert_eq!(found.is_some(), is_kept, "{}", seq);
                    prop_assert!(found.is_none_or(|(first, last)| (first..=last).contains(&(seq + 1))));
                    let begin = kept.beginning(&channel(), seq);
                    prop_assert!(begin <= seq && seq - begin < 40);
                }
                let all: Vec<_> = kept.channels.values().flat_map(|one| one.pages.values()).collect();
                prop_assert_eq!(kept.uses.len(), all.len());
                prop_assert!(all.is_sorted_by(|one, next| one.last < next.last));
                let publications = all.iter().flat_map(|one| &one.page.publications);
                let bytes: usize = publications.map(|one| one.memory_bytes()).sum();
                prop_assert_eq!(kept.bytes(), bytes);
            }
        }
    }
}
