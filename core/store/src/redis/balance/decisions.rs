//! Decisions: what this node prefers for each of its shards, from the candidates that it saw and the leases
//! that it holds. Time is that of the caller, and nothing here waits.
//!
//! A plan changes at each candidate that comes or goes, and nodes see that at different moments. So a
//! shard is handed over only once its planned owner has been the same for a while, one at a time, and only
//! if that node asks for it. A shard that comes back after it was handed over waits twice as long. A
//! node that could not use a shard is no candidate for it for a while.
//!
//! Whether this node can [use](Usability) a shard is found out by the caller: before the node asks for the
//! shard or takes it, and all the time while it has it. A node that cannot is no candidate, and gives what
//! it has to a candidate that asks. If none does, it keeps it: one that works nowhere does not go round.

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

/// The same for one that stood still here, so that another node got it.
const STOOD_STILL: Duration = Duration::from_secs(60);

/// The same while no node is a candidate for it.
const STOOD_STILL_ALONE: Duration = Duration::from_secs(10);

/// How long a shard that was found to be usable counts as usable before it is held.
const CHECKED: Duration = Duration::from_secs(30);

/// Pause before another check of a shard that cannot be used, at first and at most.
const RECHECK: Duration = Duration::from_secs(2);
const LONGEST_RECHECK: Duration = Duration::from_secs(60);

/// The longest one while no node is a candidate for it.
const URGENT_RECHECK: Duration = Duration::from_secs(8);

/// Time for which a lease that is expected to be free is so.
const EXPECTED: Duration = Duration::from_secs(1);

/// How long a shard must have been held, and have worked, to be one that this node can use.
const PROVEN: Duration = Duration::from_secs(60);

/// Doublings of a time at most.
const DOUBLINGS: u32 = 6;

/// Whether this node can use a shard, as far as it has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Usability {
    /// It has not found out.
    Unknown,
    /// It could when it last looked.
    Usable(LeaseInstant),
    Unusable,
}

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
    /// Since when it is held and works.
    works_since: Option<LeaseInstant>,
    usability: Usability,
    checked_at: Option<LeaseInstant>,
    /// Checks in a row by which it cannot be used.
    failed_checks: u32,
    /// Until when its lease is expected to be free, or to be free soon.
    free_until: Option<LeaseInstant>,
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
    /// The same while no node is a candidate.
    withdrawn_alone_until: Option<LeaseInstant>,
}

impl Shard {
    /// Whether it has worked here for long enough to be one that this node can use.
    fn is_proven(&self, now: LeaseInstant) -> bool {
        self.works_since
            .is_some_and(|since| now >= since.after(PROVEN))
    }

    /// Whether this node could use it if it had it. One that has it finds out by itself.
    fn is_usable(&self, now: LeaseInstant) -> bool {
        let is_held = self.held_since.is_some();
        match self.usability {
            Usability::Usable(at) => is_held || now < at.after(CHECKED),
            Usability::Unknown => is_held,
            Usability::Unusable => false,
        }
    }

    /// Has this node be no candidate for a while, in general and if there is no other one. Longer each time,
    /// until the shard works.
    fn withdraw(&mut self, now: LeaseInstant, time: Duration, alone: Duration) {
        let until = |time| Some(now.after(doubled(time, self.failures)));
        (self.withdrawn_until, self.withdrawn_alone_until) = (until(time), until(alone));
        self.failures = (self.failures + 1).min(DOUBLINGS);
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
            works_since: None,
            usability: Usability::Unknown,
            checked_at: None,
            failed_checks: 0,
            free_until: None,
            planned: None,
            planned_since: now,
            is_next: false,
            handed_over_at: None,
            returns: 0,
            failures: 0,
            withdrawn_until: None,
            withdrawn_alone_until: None,
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
        shards.filter_map(move |(name, shard)| {
            let may_own = !shard.is_withdrawn(now) && shard.usability != Usability::Unusable;
            may_own.then_some(name)
        })
    }

    /// Takes note that the lease of a shard is free, or will be soon if its owner stays silent.
    pub(super) fn expect_free(&mut self, now: LeaseInstant, name: &str) {
        if let Some(shard) = self.shards.get_mut(name) {
            shard.free_until = Some(now.after(EXPECTED));
        }
    }

    /// Whether it has to be found out at present if this node can use a shard.
    pub(super) fn is_check_due(&self, now: LeaseInstant, name: &str) -> bool {
        let Some(shard) = self.shards.get(name) else {
            return false;
        };
        if shard.held_since.is_some() || self.is_leaving {
            return false;
        }
        let is_free = shard.free_until.is_some_and(|until| now < until);
        let is_past = |pause| shard.checked_at.is_none_or(|at| now >= at.after(pause));
        if shard.usability != Usability::Unusable {
            let is_own = shard.planned.as_ref() == Some(&self.node) && !shard.is_withdrawn(now);
            return (is_own || is_free) && !shard.is_usable(now);
        }
        let mut candidates = self.candidates.iter();
        let pause = doubled(RECHECK, shard.failed_checks.saturating_sub(1)).min(LONGEST_RECHECK);
        is_past(match candidates.any(|one| one.shards.contains(name)) {
            _ if is_free => RECHECK,
            true => pause,
            false => pause.min(URGENT_RECHECK),
        })
    }

    /// Takes note of whether this node can use a shard. Returns whether it is another candidate thereby.
    pub(super) fn report(&mut self, now: LeaseInstant, name: &str, is_usable: bool) -> bool {
        let Some(shard) = self.shards.get_mut(name) else {
            return false;
        };
        let was_unusable = shard.usability == Usability::Unusable;
        shard.checked_at = Some(now);
        if is_usable {
            shard.usability = Usability::Usable(now);
            shard.failed_checks = 0;
            if shard.held_since.is_some() && shard.works_since.is_none() {
                shard.works_since = Some(now);
            }
            if shard.is_proven(now) {
                (shard.failures, shard.withdrawn_until) = (0, None);
            }
        } else {
            shard.usability = Usability::Unusable;
            shard.failed_checks = (shard.failed_checks + 1).min(DOUBLINGS);
            shard.works_since = None;
        }
        was_unusable == is_usable
    }

    /// Whether this node can use a shard, as far as it has found out.
    pub(super) fn usability(&self, name: &str) -> Usability {
        let shard = self.shards.get(name);
        shard.map_or(Usability::Unknown, |shard| shard.usability)
    }

    /// Takes note of the candidates that are there.
    pub(super) fn observe(&mut self, now: LeaseInstant, candidates: Vec<Candidate>) {
        self.seen_at = Some(now);
        for (name, shard) in &mut self.shards {
            let is_past = shard
                .withdrawn_alone_until
                .is_some_and(|until| now >= until);
            if is_past && !candidates.iter().any(|one| one.shards.contains(name)) {
                (shard.withdrawn_until, shard.withdrawn_alone_until) = (None, None);
            }
        }
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
        if let Some(shard) = self.shards.get(name)
            && !shard.is_usable(now)
        {
            return Preference::Unusable;
        }
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
        shard.works_since = None;
        shard.free_until = None;
        match change {
            TenureChange::Began => {
                shard.held_since = Some(now);
                shard.works_since = shard.is_usable(now).then_some(now);
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
                if shard.usability == Usability::Unusable {
                    shard.withdraw(now, STOOD_STILL, STOOD_STILL_ALONE);
                }
            }
            TenureChange::GivenUp => shard.withdraw(now, WITHDRAWN, WITHDRAWN),
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
