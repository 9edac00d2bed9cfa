//! Buffer: the memory of publications that wait for Redis, and the part of it that each server has.
//!
//! In a cluster, all masters have equal parts, and so have the channels without a server together. What
//! waits for a master that is lost thus leaves the parts of the others free. One publication fits in any
//! case where nothing waits.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::route::{Place, Route};

/// The refusal of a publication that has no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{used} bytes wait for {} already, as many as broker.buffer_bytes allows{}", if *.is_part { "a server of Redis" } else { "Redis" }, if *.is_part { " for one of several" } else { "" })]
pub(super) struct BufferFull {
    /// Bytes that wait.
    pub(super) used: usize,
    /// Whether they are those of one server among several.
    pub(super) is_part: bool,
}

/// Bytes of all publications that wait, and their bound.
#[derive(Debug)]
pub(super) struct Buffer {
    total: Arc<Total>,
    accounts: Mutex<HashMap<Place, Arc<Account>>>,
}

#[derive(Debug)]
struct Total {
    used: AtomicUsize,
    limit: usize,
    emptied: Notify,
}

/// Bytes of the publications that wait for one place.
#[derive(Debug)]
pub(super) struct Account {
    used: AtomicUsize,
    total: Arc<Total>,
}

impl Buffer {
    pub(super) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            total: Arc::new(Total {
                used: AtomicUsize::new(0),
                limit,
                emptied: Notify::new(),
            }),
            accounts: Mutex::default(),
        })
    }

    /// The account of a place.
    pub(super) fn account(&self, place: &Place) -> Arc<Account> {
        let mut accounts = self.accounts.lock();
        if let Some(account) = accounts.get(place) {
            return account.clone();
        }
        // Those of servers that are gone.
        accounts.retain(|_, account| Arc::strong_count(account) > 1);
        let account = Arc::new(Account {
            used: AtomicUsize::new(0),
            total: self.total.clone(),
        });
        accounts.insert(place.clone(), account.clone());
        account
    }

    /// Bytes that may wait for one place.
    pub(super) fn part(&self, route: &Route) -> usize {
        match route.is_cluster() {
            true => self.total.limit / (route.map().masters().len() + 1),
            false => self.total.limit,
        }
    }

    /// Waits until nothing waits for Redis any more.
    pub(super) async fn emptied(&self) {
        loop {
            let emptied = self.total.emptied.notified();
            if self.used() == 0 {
                return;
            }
            emptied.await;
        }
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.total.used.load(Ordering::Acquire)
    }
}

impl Account {
    /// Takes room for a publication. False if there is none.
    pub(super) fn reserve(&self, bytes: usize, part: usize) -> bool {
        let all = self.total.used.fetch_add(bytes, Ordering::AcqRel) + bytes;
        let before = self.used.fetch_add(bytes, Ordering::AcqRel);
        // Where nothing waits, there is room for any publication.
        let fits = before == 0 || (before + bytes <= part && all <= self.total.limit);
        if !fits {
            self.release(bytes);
        }
        fits
    }

    pub(super) fn release(&self, bytes: usize) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        if self.total.used.fetch_sub(bytes, Ordering::AcqRel) == bytes {
            self.total.emptied.notify_waiters();
        }
    }

    /// Moves bytes to the account of another place, which may have less room.
    pub(super) fn transfer(&self, other: &Self, bytes: usize) {
        other.used.fetch_add(bytes, Ordering::AcqRel);
        self.used.fetch_sub(bytes, Ordering::AcqRel);
    }

    /// The refusal of a publication.
    pub(super) fn full(&self, is_part: bool) -> BufferFull {
        BufferFull {
            used: self.used(),
            is_part,
        }
    }

    /// Bytes in use.
    pub(super) fn used(&self) -> usize {
        self.used.load(Ordering::Acquire)
    }
}
