//! Permits: the attempts that one channel makes at the same time, shared fairly.
//!
//! A permit goes first to an urgent message that has not failed yet, then to the owner with the
//! fewest attempts under way, then to the one that waits longest. Two bounds keep permits free for
//! others:
//! - An owner has at most its share, so one user's slow devices use up a part only.
//! - Endpoints whose newest attempt failed have at most half of all. A push service that hangs
//!   does so for a whole `timeout` each time.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::oneshot;

use crate::ledger::Owner;

/// The permits of one channel. Its clones are cheap.
#[derive(Clone)]
pub(crate) struct Permits(Arc<Mutex<State>>);

/// A permit for one attempt. It is given back on drop.
pub(crate) struct Permit {
    permits: Permits,
    claim: Claim,
}

/// Facts by which an attempt is ordered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Claim {
    /// The owner of the message.
    pub(crate) owner: Owner,
    /// Whether it is urgent, and has not failed yet.
    pub(crate) goes_first: bool,
    /// Whether the endpoint's newest attempt failed.
    pub(crate) is_failing: bool,
}

struct State {
    limit: usize,
    /// Permits of one owner at most.
    share: usize,
    used: usize,
    used_by_failing: usize,
    /// Permits of each owner who has one.
    owners: HashMap<Owner, usize>,
    /// By number: the first has waited longest.
    urgent: BTreeMap<u64, Waiter>,
    others: BTreeMap<u64, Waiter>,
    next: u64,
}

struct Waiter {
    claim: Claim,
    permit: oneshot::Sender<Permit>,
}

impl Permits {
    /// `limit` permits, of which one owner has at most `share`.
    pub(crate) fn new(limit: usize, share: usize) -> Self {
        Self(Arc::new(Mutex::new(State {
            limit,
            share: share.max(1),
            used: 0,
            used_by_failing: 0,
            owners: HashMap::new(),
            urgent: BTreeMap::new(),
            others: BTreeMap::new(),
            next: 0,
        })))
    }

    /// Waits for a permit.
    pub(crate) async fn acquire(&self, claim: Claim) -> Permit {
        let (permit, waiting) = oneshot::channel();
        {
            let mut state = self.0.lock();
            let number = state.next;
            state.next += 1;
            let line = match claim.goes_first {
                true => &mut state.urgent,
                false => &mut state.others,
            };
            let waiter = Waiter {
                claim: claim.clone(),
                permit,
            };
            line.insert(number, waiter);
        }
        self.grant();
        match waiting.await {
            Ok(permit) => permit,
            // A waiter leaves the line with its permit only, so this is never reached. An attempt
            // without a permit is better than none.
            Err(_) => {
                self.0.lock().take(&claim);
                self.permit(claim)
            }
        }
    }

    fn permit(&self, claim: Claim) -> Permit {
        Permit {
            permits: self.clone(),
            claim,
        }
    }

    /// Gives the free permits to those who wait.
    fn grant(&self) {
        loop {
            let granted = self.0.lock().next_waiter();
            let Some(Waiter { claim, permit }) = granted else {
                return;
            };
            // If nobody waits for it any more, it is dropped, and so given back.
            let _ = permit.send(self.permit(claim));
        }
    }
}

impl State {
    /// Takes the next waiter out of the line, with a permit.
    fn next_waiter(&mut self) -> Option<Waiter> {
        if self.used >= self.limit {
            return None;
        }
        let waiter = match self.best(&self.urgent) {
            Some(number) => self.urgent.remove(&number),
            None => {
                let number = self.best(&self.others)?;
                self.others.remove(&number)
            }
        }?;
        self.take(&waiter.claim);
        Some(waiter)
    }

    /// The waiter whose owner has the fewest permits, the first of several.
    fn best(&self, line: &BTreeMap<u64, Waiter>) -> Option<u64> {
        let failing_limit = (self.limit / 2).max(1);
        let mut best: Option<(usize, u64)> = None;
        for (number, Waiter { claim, .. }) in line {
            let used = self.owners.get(&claim.owner).copied().unwrap_or(0);
            let is_allowed =
                used < self.share && !(claim.is_failing && self.used_by_failing >= failing_limit);
            if is_allowed && best.is_none_or(|(fewest, _)| used < fewest) {
                best = Some((used, *number));
            }
            // None has fewer than none.
            if best.is_some_and(|(fewest, _)| fewest == 0) {
                break;
            }
        }
        best.map(|(_, number)| number)
    }

    fn take(&mut self, claim: &Claim) {
        self.used += 1;
        self.used_by_failing += usize::from(claim.is_failing);
        *self.owners.entry(claim.owner.clone()).or_default() += 1;
    }

    fn give_back(&mut self, claim: &Claim) {
        self.used = self.used.saturating_sub(1);
        let failing = usize::from(claim.is_failing);
        self.used_by_failing = self.used_by_failing.saturating_sub(failing);
        if let Some(used) = self.owners.get_mut(&claim.owner) {
            *used = used.saturating_sub(1);
            if *used == 0 {
                self.owners.remove(&claim.owner);
            }
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.permits.0.lock().give_back(&self.claim);
        self.permits.grant();
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use tidewire_stream::UserId;

    use super::*;

    fn claim(user: &str) -> Claim {
        Claim {
            owner: Owner::User(UserId::new(user)),
            goes_first: false,
            is_failing: false,
        }
    }

    /// A permit, if there is one at once.
    fn now(permits: &Permits, claim: Claim) -> Option<Permit> {
        permits.acquire(claim).now_or_never()
    }

    fn granted(waiting: &mut (impl Future<Output = Permit> + Unpin)) -> Option<Permit> {
        waiting.now_or_never()
    }

    #[test]
    fn an_owner_has_its_share_and_leaves_the_rest() {
        let permits = Permits::new(4, 2);
        let eves = [now(&permits, claim("eve")), now(&permits, claim("eve"))];
        assert!(eves.iter().all(Option::is_some));
        assert!(now(&permits, claim("eve")).is_none());
        let ada = now(&permits, claim("ada")).unwrap();
        drop(eves);
        drop(ada);
        let state = permits.0.lock();
        assert_eq!((state.used, state.owners.len()), (0, 0));
    }

    #[test]
    fn failing_endpoints_have_half() {
        let permits = Permits::new(4, 4);
        let failing = |user: &str| Claim {
            is_failing: true,
            ..claim(user)
        };
        let held = ["a", "b"].map(|user| now(&permits, failing(user)).unwrap());
        assert!(now(&permits, failing("c")).is_none());
        assert!(now(&permits, claim("d")).is_some());
        drop(held);
        // At least one, however few there are.
        assert!(now(&Permits::new(1, 1), failing("a")).is_some());
    }

    #[tokio::test]
    async fn urgent_goes_first_then_who_has_fewest() {
        let permits = Permits::new(2, 2);
        let (eve, bob) = (
            now(&permits, claim("eve")).unwrap(),
            now(&permits, claim("bob")).unwrap(),
        );
        let urgent = Claim {
            goes_first: true,
            ..claim("cleo")
        };
        let waiting = [claim("eve"), claim("ada"), urgent];
        let mut waiting = waiting.map(|claim| Box::pin(permits.acquire(claim)));
        for one in &mut waiting {
            assert!(granted(one).is_none());
        }
        let [eves, adas, cleos] = &mut waiting;
        drop(bob);
        let cleo = granted(cleos).expect("urgent goes first");
        assert!(granted(adas).is_none());
        drop(cleo);
        // Eve has one already.
        let ada = granted(adas).expect("ada has none");
        assert!(granted(eves).is_none());
        drop((ada, eve));
        assert!(granted(eves).is_some());
    }

    #[test]
    fn a_waiter_that_left_costs_no_permit() {
        let permits = Permits::new(1, 1);
        let held = now(&permits, claim("a")).unwrap();
        assert!(now(&permits, claim("b")).is_none());
        drop(held);
        assert!(now(&permits, claim("c")).is_some());
    }
}
