//! Term: the time in which one node owns the store, under a number that grows.
//!
//! The number and its digits are the fencing token: the commit script refuses every other one. A
//! term that ended does not begin again. The node opens its engines anew, in another term, from
//! what the store has.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::sync::watch;

use super::clock::LeaseInstant;
use crate::StoreError;

/// A term of this node.
#[derive(Debug)]
pub(super) struct Term {
    /// `<number>-<digits>`.
    pub(super) name: String,
    state: Mutex<State>,
    ended: watch::Sender<Option<StoreError>>,
    is_given_up: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// Until when no other node can have taken over.
    valid_until: LeaseInstant,
    /// The number of the last commit that was acknowledged.
    acknowledged: u64,
    /// Why commits fail at present.
    commit_fault: Option<StoreError>,
    /// Why the lease is not extended at present.
    lease_fault: Option<StoreError>,
}

impl Term {
    pub(super) fn new(
        name: String,
        commits: u64,
        asked_at: LeaseInstant,
        lifetime: Duration,
    ) -> Self {
        Self {
            name,
            state: Mutex::new(State {
                valid_until: asked_at.after(lifetime),
                acknowledged: commits,
                commit_fault: None,
                lease_fault: None,
            }),
            ended: watch::Sender::new(None),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// Notes that Redis extended the lease when it was asked at this time.
    pub(super) fn extend(&self, asked_at: LeaseInstant, lifetime: Duration) {
        let mut state = self.state.lock();
        state.valid_until = asked_at.after(lifetime);
        state.lease_fault = None;
    }

    /// Whether no other node can have taken over.
    pub(super) fn is_valid(&self) -> bool {
        self.end().is_none() && LeaseInstant::now() < self.state.lock().valid_until
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.state.lock().acknowledged
    }

    /// Notes an acknowledged commit.
    pub(super) fn acknowledge(&self, commit: u64) {
        let mut state = self.state.lock();
        state.acknowledged = commit;
        state.commit_fault = None;
    }

    pub(super) fn fail_commits(&self, fault: Option<StoreError>) {
        self.state.lock().commit_fault = fault;
    }

    pub(super) fn fail_lease(&self, fault: StoreError) {
        self.state.lock().lease_fault = Some(fault);
    }

    /// Why nothing can be read or written at present.
    pub(super) fn fault(&self) -> Option<StoreError> {
        self.end().or_else(|| {
            let state = self.state.lock();
            let is_late = LeaseInstant::now() >= state.valid_until;
            let lease_fault = state.lease_fault.clone().filter(|_| is_late);
            state.commit_fault.clone().or(lease_fault).or_else(|| {
                let text = "the lease of this node has not been extended in time";
                is_late.then(|| StoreError::NoOwner(text.to_owned()))
            })
        })
    }

    /// Ends the term, and has the lease end with it.
    pub(super) fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Release);
        let text = "this node cannot use what it owned, and leaves it to others for a while";
        self.finish(StoreError::Failed(text.to_owned()));
    }

    pub(super) fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Acquire)
    }

    /// Ends the term. The first reason stays.
    pub(super) fn finish(&self, reason: StoreError) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            if is_first {
                *ended = Some(reason);
            }
            is_first
        });
    }

    /// Why the term ended. None while it goes on.
    pub(super) fn end(&self) -> Option<StoreError> {
        self.ended.borrow().clone()
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) -> StoreError {
        let mut ended = self.ended.subscribe();
        let reason = ended.wait_for(Option::is_some).await;
        // The sender is in `self`.
        reason.map_or(StoreError::Closed, |reason| {
            reason.clone().unwrap_or(StoreError::Closed)
        })
    }
}
