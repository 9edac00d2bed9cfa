//! Preference: which of the nodes that may hold a lease should hold it.
//!
//! The [`keeper`](super::keeper) asks before each question to Redis. A preference never decides who the
//! owner is, and may differ between nodes for a moment: the lease alone decides.

/// How much a node should hold a lease, as it sees it at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preference {
    /// No node comes first: it takes a free lease at once, and keeps one that it has.
    Equal,
    /// It should be the owner: it takes a free lease at once, and asks another owner for it.
    Wanted,
    /// Others come first: it takes a lease that nobody else took for a moment, and keeps one that it has.
    Allowed,
    /// The same, and it hands the lease over to a node that asks for it.
    HandOver,
    /// It cannot use what the lease is about, or does not know whether it can: it takes a lease only that
    /// nobody took for some seconds, and hands one that it has over to a node that asks for it.
    Unusable,
}

/// A change of the part of a node in a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TenureChange {
    /// It is the owner.
    Began,
    /// It is not the owner any more.
    Ended,
    /// The same, since another node asked.
    HandedOver,
    /// The same, since this node cannot use what it owned.
    GivenUp,
}

/// Decides whether a node should hold a lease.
pub trait Prefer: Send + Sync + 'static {
    /// The preference at present. It is asked some times a second.
    fn preference(&self) -> Preference;

    /// Takes note of a change.
    fn note(&self, _change: TenureChange) {}

    /// Takes note that the lease is free, or will be soon if its owner stays silent.
    fn expect_free(&self) {}
}

impl<F: Fn() -> Preference + Send + Sync + 'static> Prefer for F {
    fn preference(&self) -> Preference {
        self()
    }
}
