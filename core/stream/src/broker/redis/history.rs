//! Histories of shared channels, read page by page.

use std::sync::Arc;

use parking_lot::Mutex;

use super::{
    error::RedisError,
    positions::{ChannelState, Positions, TailState},
    reads::{NEWEST_ITEMS, PAGE_BYTES, Page, Part, Purpose, Reads},
    tail::TailBudget,
};
use crate::{
    ChannelName, Class, Namespace, Position, Publication,
    broker::{History, PageLimit, Reach},
    namespace::METADATA_TTL,
    publication::Seq,
};

/// Reads the publications after `since`, oldest first; without `since`, the newest.
pub(super) async fn read(
    reads: &Arc<Reads>,
    channel: &ChannelName,
    namespace: &Namespace,
    since: Option<&Position>,
    limit: PageLimit,
) -> Result<History, RedisError> {
    let (newest, part_bytes) = match since {
        // The position is read first where it decides what to read.
        Some(_) => (0, 1),
        None if limit.items <= NEWEST_ITEMS => (limit.items, limit.bytes),
        None => (0, 1),
    };
    if let Some(since) = since.filter(|_| limit.items > 0) {
        let from = (Purpose::Present, since);
        return read_after(reads, channel, namespace, from, limit, None).await;
    }
    let page = reads
        .page(channel, Part::Newest(newest), part_bytes)
        .await?;
    let top = page.top.clone();
    if limit.items == 0 {
        let is_lost = |since: &Position| since.epoch != top.epoch || since.seq > top.seq;
        let reach = match since {
            Some(since) if is_lost(since) => Reach::Lost,
            Some(since) if since.seq < top.seq => {
                reach_of(reads, channel, namespace, since).await?
            }
            _ => Reach::Complete,
        };
        return Ok(History {
            top,
            publications: Vec::new(),
            reach,
        });
    }
    if newest > 0 {
        let bounds = Bounds::of(namespace, &page);
        let all = page.publications.iter().filter(|one| bounds.contains(one));
        let all: Vec<_> = all.collect();
        let skipped = all.len().saturating_sub(limit.items);
        let mut taken = PageBuilder::new(limit);
        for one in &all[skipped..] {
            if !taken.push(one) {
                break;
            }
        }
        return Ok(taken.history(top, Reach::Complete));
    }
    // Far back: from the first of the newest ones on.
    let size = u64::try_from(limit.items.min(namespace.history_size)).unwrap_or(u64::MAX);
    let start = Position {
        seq: top.seq.saturating_sub(size),
        epoch: top.epoch.clone(),
    };
    let mut history = read_after(
        reads,
        channel,
        namespace,
        (Purpose::Present, &start),
        limit,
        Some(Reach::Complete),
    )
    .await?;
    history.reach = Reach::Complete;
    Ok(history)
}

/// Reads the publications after `since` for a client that recovers: from the tail of a channel of
/// this node, which the first one fills, or if that is too short, from a page of the history that all of
/// them share.
pub(super) async fn recover(
    reads: &Arc<Reads>,
    channel: &ChannelName,
    namespace: &Namespace,
    since: &Position,
    limit: PageLimit,
    (state, positions, budget): (&Arc<Mutex<ChannelState>>, &Positions, &TailBudget),
) -> Result<History, RedisError> {
    let in_memory = || {
        let recent = recent(&state.lock(), since, limit);
        recent.or_else(|| {
            // A summary of all is not made of a page.
            let is_part = limit.bytes <= PAGE_BYTES;
            let page = is_part.then(|| reads.kept(channel, since))??;
            let top = state.lock().settled_top()?.clone();
            following(&page, namespace, since, &top, limit)
        })
    };
    if let Some(history) = in_memory() {
        return Ok(history);
    }
    let turn = state.lock().tail_turn();
    // It is never closed.
    let turn = turn.acquire().await;
    if let Some(history) = in_memory() {
        return Ok(history);
    }
    let (delivered, begun) = {
        let mut state = state.lock();
        let delivered = state.settled_top().cloned();
        (delivered, state.begin_tail(budget))
    };
    match begun {
        TailState::New => positions.note_tail(state),
        TailState::Known => {}
        TailState::Absent => {
            drop(turn);
            return recover_from_pages(reads, channel, namespace, since, limit, state).await;
        }
    }
    let whole = PageLimit::bytes(PAGE_BYTES);
    let purpose = delivered.map_or(Purpose::Present, Purpose::Tail);
    let from = (purpose, since);
    let whole = read_after(reads, channel, namespace, from, whole, None).await?;
    state.lock().complete_tail(since, &whole);
    let mut taken = PageBuilder::new(limit);
    for one in &whole.publications {
        if !taken.push(one) {
            break;
        }
    }
    Ok(taken.history(whole.top, whole.reach))
}

/// Reads the publications after `since` for a client that recovers a long history.
async fn recover_from_pages(
    reads: &Arc<Reads>,
    channel: &ChannelName,
    namespace: &Namespace,
    since: &Position,
    limit: PageLimit,
    state: &Mutex<ChannelState>,
) -> Result<History, RedisError> {
    let settled_top = || state.lock().settled_top().cloned();
    let is_behind = |top: &Position| top.epoch == since.epoch && since.seq < top.seq;
    if limit.bytes <= PAGE_BYTES
        && let Some(newest) = settled_top().filter(is_behind)
    {
        let page = reads.following(channel, since, newest, limit.bytes).await?;
        // What was delivered while the page was read counts.
        if let Some(top) = settled_top()
            && let Some(history) = following(&page, namespace, since, &top, limit)
        {
            return Ok(history);
        }
    }
    // Whether the history has lost something, only Redis knows.
    read(reads, channel, namespace, Some(since), limit).await
}

/// The publications after `since` from a page, whenever it was read, as far as they had been delivered
/// here. `top` is the newest that was delivered by now. None if the page lacks the next one, or if the
/// history has dropped it since.
fn following(
    page: &Page,
    namespace: &Namespace,
    since: &Position,
    top: &Position,
    limit: PageLimit,
) -> Option<History> {
    if page.top.epoch != since.epoch || top.epoch != since.epoch {
        return None;
    }
    let age_ms = i64::try_from(page.read_at.elapsed().as_millis()).unwrap_or(i64::MAX);
    let bounds = Bounds::at(namespace, top.seq, page.now_ms.saturating_add(age_ms));
    let begin = page
        .publications
        .partition_point(|one| one.seq() <= since.seq);
    let follow = page.publications[begin..]
        .iter()
        .zip(since.seq.saturating_add(1)..);
    let mut follow = follow
        .take_while(|(one, seq)| {
            one.seq() == *seq && *seq <= page.delivered && bounds.contains(one)
        })
        .map(|(one, _)| one)
        .peekable();
    follow.peek()?;
    let mut taken = PageBuilder::new(limit);
    for one in follow {
        if !taken.push(one) {
            break;
        }
    }
    Some(taken.history(top.clone(), Reach::Complete))
}

/// The publications after `since` from the tail, if it has all of them.
fn recent(state: &ChannelState, since: &Position, limit: PageLimit) -> Option<History> {
    let (top, publications) = state.recent(since)?;
    let mut taken = PageBuilder::new(limit);
    for one in publications {
        if !taken.push(one) {
            break;
        }
    }
    Some(taken.history(top.clone(), Reach::Complete))
}

/// Whether the history reaches back to a position before the newest.
async fn reach_of(
    reads: &Arc<Reads>,
    channel: &ChannelName,
    namespace: &Namespace,
    since: &Position,
) -> Result<Reach, RedisError> {
    let first = PageLimit { items: 1, bytes: 1 };
    let from = (Purpose::Present, since);
    let history = read_after(reads, channel, namespace, from, first, None).await?;
    Ok(history.reach)
}

/// Reads the publications after `since`. With a `reach`, those that are missing at the beginning do
/// not matter.
async fn read_after(
    reads: &Arc<Reads>,
    channel: &ChannelName,
    namespace: &Namespace,
    (purpose, since): (Purpose, &Position),
    limit: PageLimit,
    reach: Option<Reach>,
) -> Result<History, RedisError> {
    let mut taken = PageBuilder::new(limit);
    let mut cursor = since.seq;
    loop {
        let page = reads
            .page_for(purpose.clone(), channel, Part::After(cursor), limit.bytes)
            .await?;
        let top = page.top.clone();
        if top.epoch != since.epoch || since.seq > top.seq {
            // On a later page: the next read finds it out.
            return Ok(match taken.publications.is_empty() {
                true => taken.history(top, Reach::Lost),
                false => taken.history_of(since, cursor),
            });
        }
        let bounds = Bounds::of(namespace, &page);
        let mut after = page
            .publications
            .iter()
            .filter(|one| one.seq() > cursor)
            .peekable();
        let is_hole = match after.peek() {
            Some(first) => first.seq() != cursor + 1 || !bounds.contains(first),
            None => cursor < top.seq && page.is_end,
        };
        if is_hole && reach.is_none() {
            return Ok(match taken.publications.is_empty() {
                true => taken.history(top, Reach::Lost),
                false => taken.history(top, Reach::Complete),
            });
        }
        let mut is_full = false;
        for one in after.filter(|one| bounds.contains(one)) {
            if !taken.push(one) {
                is_full = true;
                break;
            }
        }
        cursor = match page.publications.last() {
            Some(last) => last.seq().max(cursor),
            None => top.seq,
        };
        if is_full || page.is_end || taken.is_full() {
            return Ok(taken.history(top, Reach::Complete));
        }
    }
}

/// The publications that a history has still. Redis drops some later than it may.
struct Bounds {
    first: u64,
    oldest_ms: i64,
}

impl Bounds {
    fn of(namespace: &Namespace, page: &Page) -> Self {
        Self::at(namespace, page.top.seq, page.now_ms)
    }

    /// The bounds while the newest publication is `top`.
    fn at(namespace: &Namespace, top: Seq, now_ms: i64) -> Self {
        let (size, ttl) = match namespace.class {
            Class::History => (namespace.history_size as u64, namespace.history_ttl),
            Class::Latest => (1, METADATA_TTL),
        };
        let ttl_ms = i64::try_from(ttl.as_millis()).unwrap_or(i64::MAX);
        Self {
            first: top.saturating_sub(size).saturating_add(1),
            oldest_ms: now_ms.saturating_sub(ttl_ms),
        }
    }

    fn contains(&self, publication: &Publication) -> bool {
        publication.seq() >= self.first && publication.time_ms() >= self.oldest_ms
    }
}

/// Publications up to a limit.
struct PageBuilder {
    limit: PageLimit,
    bytes: usize,
    publications: Vec<Arc<Publication>>,
}

impl PageBuilder {
    fn new(limit: PageLimit) -> Self {
        Self {
            limit,
            bytes: 0,
            publications: Vec::new(),
        }
    }

    fn is_full(&self) -> bool {
        self.publications.len() >= self.limit.items || self.bytes >= self.limit.bytes
    }

    /// Adds a publication. Returns false if there is no room.
    fn push(&mut self, publication: &Arc<Publication>) -> bool {
        let size = publication.encoded_size_hint();
        let fits = self.publications.is_empty() || self.bytes + size <= self.limit.bytes;
        if !fits || self.publications.len() >= self.limit.items {
            return false;
        }
        self.bytes += size;
        self.publications.push(publication.clone());
        true
    }

    fn history(self, top: Position, reach: Reach) -> History {
        History {
            top,
            publications: self.publications,
            reach,
        }
    }

    /// A history that ends at `seq` of the epoch of `since`.
    fn history_of(self, since: &Position, seq: u64) -> History {
        let top = Position {
            epoch: since.epoch.clone(),
            seq,
        };
        self.history(top, Reach::Complete)
    }
}
