//! Ledger: the jobs of one channel in memory, by their owners, and who has further ones in the
//! store.
//!
//! # Shares
//! An owner is a user, or a webhook. Each has at most as many jobs as half of the places that are
//! free, so that each of several greedy owners stops early: of 1,000 places, one owner gets 333.
//! Up to [`RESERVED`] jobs an owner always gets: when the channel is full, the one with the most
//! gives a place back.
//!
//! # Order
//! A job for which there was no place waits in the store. From then on its owner is *behind*: new
//! jobs wait in the store too, or they would overtake it. A refill offers the stored jobs in their
//! order, and ends this for each owner of whom it left none.
//!
//! # Stale rows
//! A refill reads a page of the store and then offers it. A job may leave memory in between: its
//! row on the page is stale, and to offer it would send a message twice. So the ledger keeps the
//! ids of jobs that are leaving until the store has recorded it, and of those that left since
//! the page was read.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use tidewire_stream::UserId;

use crate::JobId;

/// Jobs that an owner gets a place for while another one has more.
const RESERVED: usize = 8;

/// Owners that are known to be behind. Beyond them, the whole channel counts as behind.
const MAX_BEHIND: usize = 4_096;

/// Owner of a job: its share of memory and of attempts counts with the owner's other jobs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Owner {
    /// A user, with all registrations, or with the mails.
    User(UserId),
    /// A webhook, by its name.
    Webhook(Arc<str>),
}

/// Where an offered job comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// It was stored just now.
    New,
    /// A refill reads the store.
    Store,
}

/// A job that asks for a place.
#[derive(Debug, Clone)]
pub(crate) struct Request<'a> {
    pub(crate) owner: &'a Owner,
    pub(crate) source: Source,
    pub(crate) is_urgent: bool,
    /// Whether it may be sent before older ones of its owner.
    pub(crate) may_overtake: bool,
    /// Whether an attempt is due now.
    pub(crate) is_due: bool,
    /// Whether its queue is at least half full.
    pub(crate) is_queue_pressed: bool,
    /// Places of the channel at most, if its only queue has fewer.
    pub(crate) queue_places: usize,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Older jobs of its owner wait in the store.
    Behind,
    /// It is not due, and there is little room.
    NotDue,
    /// Its owner has its share. Others may find a place.
    Share,
    /// Its endpoint's queue is full.
    Queue,
    /// The channel is full, its owner has no job, and nobody has more than one: no other owner
    /// finds a place either.
    Channel,
}

/// The jobs of one channel.
#[derive(Debug)]
pub(crate) struct Ledger {
    places: usize,
    used: usize,
    owners: HashMap<Owner, usize>,
    behind: Behind,
    /// Those refused since the refill began.
    since_refill: Behind,
    /// Jobs whose end the store has not recorded yet.
    leaving: HashSet<JobId>,
    /// Jobs that left memory since a refill began to read its page, while one does.
    left: Option<HashSet<JobId>>,
}

/// Owners with jobs in the store.
#[derive(Debug, Default)]
struct Behind {
    owners: HashSet<Owner>,
    all: bool,
}

impl Behind {
    fn add(&mut self, owner: &Owner) {
        match self.owners.len() < MAX_BEHIND {
            true => {
                self.owners.insert(owner.clone());
            }
            false => self.all |= !self.owners.contains(owner),
        }
    }

    fn has(&self, owner: &Owner) -> bool {
        self.all || self.owners.contains(owner)
    }
}

impl Ledger {
    pub(crate) fn new(places: usize) -> Self {
        Self {
            places: places.max(1),
            used: 0,
            owners: HashMap::new(),
            behind: Behind::default(),
            since_refill: Behind::default(),
            leaving: HashSet::new(),
            left: None,
        }
    }

    /// A job is about to leave memory.
    pub(crate) fn leaves(&mut self, id: &JobId) {
        self.leaving.insert(id.clone());
    }

    /// A job stays in memory.
    pub(crate) fn stays(&mut self, id: &JobId) {
        self.leaving.remove(id);
    }

    /// A job has left memory, and the store has recorded its end if it has one.
    pub(crate) fn has_left(&mut self, id: &JobId) {
        self.leaving.remove(id);
        if let Some(left) = &mut self.left {
            left.insert(id.clone());
        }
    }

    /// Whether a job's row may be stale.
    pub(crate) fn is_stale(&self, id: &JobId) -> bool {
        let has_left = self.left.as_ref().is_some_and(|left| left.contains(id));
        has_left || self.leaving.contains(id)
    }

    /// A refill is about to read a page.
    pub(crate) fn begin_page(&mut self) {
        self.left = Some(HashSet::new());
    }

    /// A refill has offered its last page.
    pub(crate) fn end_pages(&mut self) {
        self.left = None;
    }

    /// Jobs in memory.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Takes a place.
    pub(crate) fn take(&mut self, request: &Request<'_>) -> Result<(), Refusal> {
        let places = self.places.min(request.queue_places);
        let jobs = self.jobs_of(request.owner);
        let is_new = request.source == Source::New && !request.may_overtake;
        let refusal = if is_new && self.behind.has(request.owner) {
            Some(Refusal::Behind)
        } else if !request.is_due
            && !request.is_urgent
            && (self.is_pressed() || request.is_queue_pressed)
        {
            Some(Refusal::NotDue)
        } else if self.used >= places && jobs < RESERVED {
            Some(Refusal::Channel)
        } else if jobs >= share(places.saturating_sub(self.used)) {
            Some(Refusal::Share)
        } else {
            None
        };
        if let Some(refusal) = refusal {
            return Err(refusal);
        }
        self.used += 1;
        *self.owners.entry(request.owner.clone()).or_default() += 1;
        Ok(())
    }

    /// The owner who gives a place back, so that an owner with few jobs gets it: the one with the
    /// most. None if nobody has too many.
    pub(crate) fn to_displace(&self, owner: &Owner) -> Option<Owner> {
        let jobs = self.jobs_of(owner);
        let most = self.owners.iter().max_by_key(|(_, count)| **count);
        let most = most.filter(|(_, count)| jobs < RESERVED && **count > jobs + 1);
        most.map(|(owner, _)| owner.clone())
    }

    /// Gives a place back.
    pub(crate) fn give_back(&mut self, owner: &Owner) {
        self.used = self.used.saturating_sub(1);
        if let Some(jobs) = self.owners.get_mut(owner) {
            *jobs = jobs.saturating_sub(1);
            if *jobs == 0 {
                self.owners.remove(owner);
            }
        }
    }

    /// A job of an owner was left in the store: later ones must not overtake it.
    pub(crate) fn fall_behind(&mut self, owner: &Owner) {
        self.behind.add(owner);
        self.since_refill.add(owner);
    }

    /// All jobs of the store may be older than new ones, until a refill has read it.
    pub(crate) fn all_fall_behind(&mut self) {
        self.behind.all = true;
    }

    /// A refill begins.
    pub(crate) fn begin_refill(&mut self) {
        self.since_refill = Behind::default();
    }

    /// A refill has offered all stored jobs of the channel: those who were refused since it began
    /// are still behind.
    pub(crate) fn end_refill(&mut self) {
        self.behind = std::mem::take(&mut self.since_refill);
    }

    /// Whether half of the places are taken: jobs that are not due leave.
    pub(crate) fn is_pressed(&self) -> bool {
        self.used * 2 >= self.places
    }

    /// Whether a refill would find a place for an owner who is behind. Half of the share must be
    /// free, and half of the queue, so that a refill has many jobs to offer.
    pub(crate) fn has_room(&self, owner: &Owner, queue_places: usize) -> bool {
        let room = share(self.places.saturating_sub(self.used)).min(queue_places);
        let is_behind = self.behind.owners.contains(owner) || self.behind.all && !self.is_pressed();
        self.used < self.places && is_behind && self.jobs_of(owner) * 2 <= room
    }

    /// Whether an owner has so many jobs that another one may get a place of them.
    pub(crate) fn may_displace(&self) -> bool {
        self.owners.values().any(|jobs| *jobs > 1)
    }

    /// Whether an owner has a job in memory.
    pub(crate) fn has_jobs(&self, owner: &Owner) -> bool {
        self.jobs_of(owner) > 0
    }

    fn jobs_of(&self, owner: &Owner) -> usize {
        self.owners.get(owner).copied().unwrap_or(0)
    }
}

/// Jobs of one owner at most, while so many places are free.
fn share(free: usize) -> usize {
    (free / 2).max(RESERVED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str) -> Owner {
        Owner::User(UserId::new(name))
    }

    fn request(owner: &Owner) -> Request<'_> {
        Request {
            owner,
            source: Source::New,
            is_urgent: false,
            may_overtake: false,
            is_due: true,
            is_queue_pressed: false,
            queue_places: usize::MAX,
        }
    }

    /// Takes places until one is refused.
    fn fill(ledger: &mut Ledger, owner: &Owner) -> usize {
        let mut taken = 0;
        while ledger.take(&request(owner)).is_ok() {
            taken += 1;
        }
        taken
    }

    #[test]
    fn greedy_owners_leave_places_to_others() {
        let mut ledger = Ledger::new(1_000);
        let (eve, ada) = (user("eve"), user("ada"));
        assert_eq!(fill(&mut ledger, &eve), 333);
        assert_eq!(fill(&mut ledger, &user("mallory")), 222);
        assert_eq!(ledger.take(&request(&eve)), Err(Refusal::Share));
        assert_eq!(fill(&mut ledger, &ada), 148);
        for _ in 0..333 {
            ledger.give_back(&eve);
        }
        assert!(!ledger.owners.contains_key(&eve));
    }

    #[test]
    fn when_all_places_are_taken_the_one_with_the_most_gives_one_back() {
        let mut ledger = Ledger::new(100);
        let (eve, ada) = (user("eve"), user("ada"));
        assert_eq!(fill(&mut ledger, &eve), 33);
        for number in 0..100 {
            fill(&mut ledger, &user(&number.to_string()));
        }
        assert_eq!(ledger.used(), 100);
        for jobs in 0..RESERVED {
            assert_eq!(ledger.take(&request(&ada)), Err(Refusal::Channel));
            assert_eq!(ledger.to_displace(&ada), Some(eve.clone()), "{jobs}");
            ledger.give_back(&eve);
            assert_eq!(ledger.take(&request(&ada)), Ok(()));
        }
        assert_eq!(ledger.take(&request(&ada)), Err(Refusal::Share));
        assert_eq!(ledger.to_displace(&ada), None, "it has what is reserved");
        // Nobody has more than one.
        let mut ledger = Ledger::new(2);
        for name in ["a", "b"] {
            assert_eq!(ledger.take(&request(&user(name))), Ok(()));
        }
        assert_eq!(ledger.take(&request(&ada)), Err(Refusal::Channel));
        assert_eq!(ledger.to_displace(&ada), None);
    }

    #[test]
    fn an_owner_is_behind_until_a_refill_left_nothing() {
        let mut ledger = Ledger::new(100);
        let (eve, ada) = (user("eve"), user("ada"));
        ledger.fall_behind(&eve);
        assert_eq!(ledger.take(&request(&eve)), Err(Refusal::Behind));
        assert_eq!(ledger.take(&request(&ada)), Ok(()));
        let urgent = Request {
            may_overtake: true,
            ..request(&eve)
        };
        assert_eq!(ledger.take(&urgent), Ok(()));
        let stored = Request {
            source: Source::Store,
            ..request(&eve)
        };
        ledger.begin_refill();
        assert_eq!(ledger.take(&stored), Ok(()));
        // One more is stored while the refill reads.
        ledger.fall_behind(&eve);
        ledger.end_refill();
        assert_eq!(ledger.take(&request(&eve)), Err(Refusal::Behind));
        assert!(ledger.has_room(&eve, 10) && !ledger.has_room(&ada, 10));
        assert!(!ledger.has_room(&eve, 3), "half of the queue is taken");
        ledger.begin_refill();
        ledger.end_refill();
        assert_eq!(ledger.take(&request(&eve)), Ok(()));
    }

    #[test]
    fn a_row_is_stale_from_the_end_of_its_job_until_the_page_is_over() {
        let mut ledger = Ledger::new(10);
        let [a, b] = ["a", "b"].map(JobId::new);
        ledger.leaves(&a);
        ledger.begin_page();
        assert!(ledger.is_stale(&a) && !ledger.is_stale(&b));
        ledger.has_left(&a);
        ledger.leaves(&b);
        assert!(ledger.is_stale(&a) && ledger.is_stale(&b));
        ledger.stays(&b);
        assert!(!ledger.is_stale(&b));
        ledger.begin_page();
        assert!(!ledger.is_stale(&a));
        ledger.has_left(&a);
        ledger.end_pages();
        assert!(!ledger.is_stale(&a));
    }

    #[test]
    fn too_many_behind_are_everybody() {
        let mut ledger = Ledger::new(10);
        for number in 0..=MAX_BEHIND {
            ledger.fall_behind(&user(&number.to_string()));
        }
        assert_eq!(ledger.take(&request(&user("ada"))), Err(Refusal::Behind));
        assert_eq!(ledger.behind.owners.len(), MAX_BEHIND);
    }

    #[test]
    fn a_job_that_is_not_due_has_no_place_when_half_is_taken() {
        let mut ledger = Ledger::new(4);
        let (eve, ada) = (user("eve"), user("ada"));
        let later = |owner| Request {
            is_due: false,
            ..request(owner)
        };
        assert_eq!(ledger.take(&later(&eve)), Ok(()));
        assert_eq!(ledger.take(&request(&ada)), Ok(()));
        assert_eq!(ledger.take(&later(&user("bob"))), Err(Refusal::NotDue));
        assert_eq!(ledger.take(&request(&user("bob"))), Ok(()));
    }
}
