//! Decisions: what this node prefers for each of its shards, from the candidates that it saw and the leases
//! that it holds. Time is that of the caller, and nothing here waits.
//!
//! A plan changes at each candidate that comes or goes, and nodes see that at different moments. So a
//! shard is handed over only once its planned owner has been the same for a while, one at a time, and only
//! if that node asks for it. A shard that comes back after it was handed over waits twice as long. A
//! node that could not use a shard is no candidate for it for a while.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use super::{
    super::{
        clock::LeaseInstant,
        preference::{Preference, TenureChange},
    },
    plan::{Candidate, Plan, plan},
};

/// How long the planned owner must have been the same before a shard is handed over to it.
const STABLE: Duration = Duration::from_secs(5);

/// Time between two shards that are handed over.
const PAUSE: Duration = Duration::from_secs(2);

/// How long a shard is offered, before another one has its turn.
const OFFER: Duration = Duration::from_secs(5);

/// Time within which a shard that comes back after it was handed over counts as returned.
const RETURN: Duration = Duration::from_secs(120);

/// How long candidates that were seen count as present.
const FRESH: Duration = Duration::from_millis(2_500);

/// Time for which a node is no candidate for a shard that it could not use, at first.
const WITHDRAWN: Duration = Duration::from_secs(600);

/// How long a shard must have been held to be one that this node can use.
const PROVEN: Duration = Duration::from_secs(60);

/// Doublings of a time at most.
const DOUBLINGS: u32 = 6;

/// The preferences of a node, and all that they follow from.
#[derive(Debug)]
pub(super) struct Decisions {
    node: Arc<str>,
    shards: BTreeMap<Arc<str>, Shard>,
    candidates: Vec<Candidate>,
    /// When the candidates were seen.
    seen_at: Option<LeaseInstant>,
    offered: Option<Offered>,
    handed_over_at: Option<LeaseInstant>,
    handovers: u64,
    is_leaving: bool,
}

/// The shard that may be handed over at present.
#[derive(Debug)]
struct Offered {
    shard: Arc<str>,
    since: LeaseInstant,
}

/// A shard that this node may own.
#[derive(Debug)]
struct Shard {
    /// The leases that name it: one, or two while one takes the place of another.
    leases: usize,
    held_since: Option<LeaseInstant>,
    planned: Option<Arc<str>>,
    planned_since: LeaseInstant,
    /// Whether this node should be the owner if the planned one is gone.
    is_next: bool,
    handed_over_at: Option<LeaseInstant>,
    /// How often it came back soon after it was handed over.
    returns: u32,
    /// How often this node could not use it.
    failures: u32,
    withdrawn_until: Option<LeaseInstant>,
}

impl Shard {
    /// Whether it has been held for long enough to be one that this node can use.
    fn is_proven(&self, now: LeaseInstant) -> bool {
        self.held_since
            .is_some_and(|since| now >= since.after(PROVEN))
    }

    fn is_withdrawn(&self, now: LeaseInstant) -> bool {
        let until = self.withdrawn_until;
        until.is_some_and(|until| now < until) && !self.is_proven(now)
    }

    fn is_stable(&self, now: LeaseInstant) -> bool {
        now >= self.planned_since.after(doubled(STABLE, self.returns))
    }
}

impl Decisions {
    pub(super) fn new(node: Arc<str>) -> Self {
        Self {
            node,
            shards: BTreeMap::new(),
            candidates: Vec::new(),
            seen_at: None,
            offered: None,
            handed_over_at: None,
            handovers: 0,
            is_leaving: false,
        }
    }

    /// This node may own a shard from now on.
    pub(super) fn add(&mut self, now: LeaseInstant, shard: &Arc<str>) {
        let new = Shard {
            leases: 0,
            held_since: None,
            planned: None,
            planned_since: now,
            is_next: false,
            handed_over_at: None,
            returns: 0,
            failures: 0,
            withdrawn_until: None,
        };
        let shard = self.shards.entry(shard.clone()).or_insert(new);
        shard.leases += 1;
        self.apply(now);
    }

    /// This node may not own a shard any more.
    pub(super) fn remove(&mut self, shard: &str) {
        if let Some(known) = self.shards.get_mut(shard) {
            known.leases -= 1;
            if known.leases == 0 {
                self.shards.remove(shard);
            }
        }
    }

    /// All shards of this node go to others.
    pub(super) fn leave(&mut self) {
        self.is_leaving = true;
    }

    /// The shards for which this node is a candidate.
    pub(super) fn candidacies(&self, now: LeaseInstant) -> impl Iterator<Item = &Arc<str>> {
        let shards = self.shards.iter().filter(|_| !self.is_leaving);
        shards.filter_map(move |(name, shard)| (!shard.is_withdrawn(now)).then_some(name))
    }

    /// Takes note of the candidates that are there.
    pub(super) fn observe(&mut self, now: LeaseInstant, candidates: Vec<Candidate>) {
        self.seen_at = Some(now);
        if candidates != self.candidates {
            self.candidates = candidates;
            self.apply(now);
        }
    }

    /// Plans anew.
    fn apply(&mut self, now: LeaseInstant) {
        let planned = plan(self.candidates.iter());
        // The plans without one of the nodes.
        let mut others: BTreeMap<Arc<str>, Plan> = BTreeMap::new();
        for (name, shard) in &mut self.shards {
            let owner = planned.get(name);
            if shard.planned.as_ref() != owner {
                shard.planned = owner.cloned();
                shard.planned_since = now;
            }
            shard.is_next = owner.is_none_or(|owner| {
                let others = others.entry(owner.clone()).or_insert_with(|| {
                    plan(self.candidates.iter().filter(|one| one.node != *owner))
                });
                others.get(name) == Some(&self.node)
            });
        }
    }

    /// The preference for a shard.
    pub(super) fn preference(&mut self, now: LeaseInstant, name: &str) -> Preference {
        if self.is_leaving {
            return Preference::HandOver;
        }
        let is_fresh = self.seen_at.is_some_and(|seen| now < seen.after(FRESH));
        self.offer(now);
        let Some(shard) = self.shards.get(name).filter(|one| !one.is_withdrawn(now)) else {
            return match self.is_offered(name) && is_fresh {
                true => Preference::HandOver,
                false => Preference::Allowed,
            };
        };
        let is_own = shard.planned.as_ref() == Some(&self.node);
        match is_own {
            true if is_fresh => Preference::Wanted,
            true => Preference::Equal,
            false if self.is_offered(name) && is_fresh => Preference::HandOver,
            false if shard.is_next => Preference::Equal,
            false => Preference::Allowed,
        }
    }

    fn is_offered(&self, name: &str) -> bool {
        let offered = self.offered.as_ref();
        offered.is_some_and(|offered| *offered.shard == *name)
    }

    /// Chooses the shard that may be handed over.
    fn offer(&mut self, now: LeaseInstant) {
        let is_misplaced = |shard: &Shard| {
            let planned = shard.planned.as_ref();
            let is_elsewhere = planned.is_some_and(|planned| *planned != self.node);
            shard.held_since.is_some() && is_elsewhere && shard.is_stable(now)
        };
        if let Some(offered) = &self.offered {
            let shard = self.shards.get(&offered.shard);
            if shard.is_some_and(is_misplaced) && now < offered.since.after(OFFER) {
                return;
            }
        }
        if self.handed_over_at.is_some_and(|at| now < at.after(PAUSE)) {
            self.offered = None;
            return;
        }
        // The next one in the order of the names has its turn.
        let before = self.offered.take().map(|offered| offered.shard);
        let is_later = |name: &Arc<str>| before.as_ref().is_none_or(|before| name > before);
        let misplaced = || self.shards.iter().filter(|(_, shard)| is_misplaced(shard));
        let next = misplaced().find(|(name, _)| is_later(name));
        let next = next.or_else(|| misplaced().next());
        self.offered = next.map(|(name, _)| Offered {
            shard: name.clone(),
            since: now,
        });
    }

    /// Takes note of what became of the lease of a shard.
    pub(super) fn note(&mut self, now: LeaseInstant, name: &str, change: TenureChange) {
        let Some(shard) = self.shards.get_mut(name) else {
            return;
        };
        if shard.is_proven(now) {
            (shard.failures, shard.withdrawn_until) = (0, None);
        }
        shard.held_since = None;
        match change {
            TenureChange::Began => {
                shard.held_since = Some(now);
                let handed_over = shard.handed_over_at.take();
                shard.returns = match handed_over {
                    Some(at) if now < at.after(RETURN) => (shard.returns + 1).min(DOUBLINGS),
                    _ => 0,
                };
            }
            TenureChange::Ended => {}
            TenureChange::HandedOver => {
                shard.handed_over_at = Some(now);
                self.handed_over_at = Some(now);
                self.handovers += 1;
            }
            TenureChange::GivenUp => {
                let withdrawn = doubled(WITHDRAWN, shard.failures);
                shard.withdrawn_until = Some(now.after(withdrawn));
                shard.failures = (shard.failures + 1).min(DOUBLINGS);
            }
        }
    }

    /// How many shards this node owns.
    pub(super) fn owned(&self) -> usize {
        let held = |shard: &&Shard| shard.held_since.is_some();
        self.shards.values().filter(held).count()
    }

    /// How many shards this node has handed over.
    pub(super) fn handovers(&self) -> u64 {
        self.handovers
    }
}

fn doubled(time: Duration, times: u32) -> Duration {
    time * (1 << times.min(DOUBLINGS))
}
