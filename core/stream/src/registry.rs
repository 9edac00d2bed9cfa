//! The register of who is connected: by connection, by user and by token. Who follows
//! which channel is the [`hub`](crate::hub)'s.
//!
//! Everything takes the same time however many are connected, but for keeping the
//! order of the ids, which takes the logarithm, so that a page of connections costs no
//! more than its length. The register's lock is taken before a session's.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    ops::Bound,
    sync::Arc,
};

use parking_lot::RwLock;
use slab::Slab;

use crate::{
    Identity, UserId,
    identity::UserIdentity,
    session::{ConnectionId, Session},
};

/// Who is connected.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    sessions: HashMap<ConnectionId, Entry>,
    order: BTreeSet<ConnectionId>,
    users: Index<UserId>,
    tokens: Index<String>,
}

#[derive(Debug)]
struct Entry {
    session: Session,
    known: Option<Known>,
}

/// Where a session stands in the indices.
#[derive(Debug)]
struct Known {
    identity: Arc<UserIdentity>,
    user: usize,
    token: Option<usize>,
}

/// The sessions of each key.
#[derive(Debug)]
struct Index<K>(HashMap<K, Slab<Session>>);

impl<K> Default for Index<K> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

impl<K: Hash + Eq> Index<K> {
    fn add(&mut self, key: K, session: Session) -> usize {
        self.0.entry(key).or_default().insert(session)
    }

    fn remove(&mut self, key: &K, place: usize) {
        if let Some(sessions) = self.0.get_mut(key) {
            sessions.try_remove(place);
            if sessions.is_empty() {
                self.0.remove(key);
            }
        }
    }

    fn get(&self, key: &K) -> Vec<Session> {
        let sessions = self.0.get(key).into_iter().flatten();
        sessions.map(|(_, session)| session.clone()).collect()
    }
}

/// How much a register holds. For tests of what is left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistrySizes {
    /// Connections.
    pub connections: usize,
    /// Users that are connected.
    pub users: usize,
    /// Tokens with an id that are in use.
    pub tokens: usize,
}

impl Registry {
    /// Adds a session, of nobody yet.
    pub(crate) fn add(&self, session: &Session) {
        let mut inner = self.0.write();
        inner.order.insert(*session.id());
        let entry = Entry {
            session: session.clone(),
            known: None,
        };
        inner.sessions.insert(*session.id(), entry);
    }

    /// Files a session under the user and the token that it has now. One that was
    /// removed stays so.
    pub(crate) fn identify(&self, session: &Session) {
        let mut inner = self.0.write();
        let Inner {
            sessions,
            users,
            tokens,
            ..
        } = &mut *inner;
        let Some(entry) = sessions.get_mut(session.id()) else {
            return;
        };
        if let Some(known) = entry.known.take() {
            known.leave(users, tokens);
        }
        // Read under the register's lock, so that of two tokens the newer one stays.
        if let Identity::User(identity) = session.identity() {
            let token = identity.token_id.clone();
            entry.known = Some(Known {
                user: users.add(identity.user.clone(), session.clone()),
                token: token.map(|token| tokens.add(token, session.clone())),
                identity,
            });
        }
    }

    /// Removes a session from everywhere.
    pub(crate) fn remove(&self, session: &Session) {
        let mut inner = self.0.write();
        let Inner {
            sessions,
            order,
            users,
            tokens,
        } = &mut *inner;
        order.remove(session.id());
        if let Some(Entry { known, .. }) = sessions.remove(session.id())
            && let Some(known) = known
        {
            known.leave(users, tokens);
        }
    }

    /// The session of a connection.
    pub(crate) fn get(&self, id: &str) -> Option<Session> {
        let inner = self.0.read();
        inner.sessions.get(id).map(|entry| entry.session.clone())
    }

    /// The sessions of a user.
    pub(crate) fn of_user(&self, user: &UserId) -> Vec<Session> {
        self.0.read().users.get(user)
    }

    /// The sessions of the token with this id.
    pub(crate) fn of_token(&self, id: &String) -> Vec<Session> {
        self.0.read().tokens.get(id)
    }

    /// All sessions, in no order.
    pub(crate) fn all(&self) -> Vec<Session> {
        let inner = self.0.read();
        let sessions = inner.sessions.values();
        sessions.map(|entry| entry.session.clone()).collect()
    }

    /// The first `limit` sessions after an id, in the order of their ids.
    pub(crate) fn page(&self, after: &str, limit: usize) -> Vec<Session> {
        let inner = self.0.read();
        let ids = inner
            .order
            .range::<str, _>((Bound::Excluded(after), Bound::Unbounded));
        ids.take(limit)
            .filter_map(|id| inner.sessions.get(id))
            .map(|entry| entry.session.clone())
            .collect()
    }

    /// How much there is.
    pub(crate) fn sizes(&self) -> RegistrySizes {
        let inner = self.0.read();
        RegistrySizes {
            connections: inner.sessions.len().max(inner.order.len()),
            users: inner.users.0.len(),
            tokens: inner.tokens.0.len(),
        }
    }
}

impl Known {
    fn leave(self, users: &mut Index<UserId>, tokens: &mut Index<String>) {
        users.remove(&self.identity.user, self.user);
        if let (Some(token), Some(place)) = (&self.identity.token_id, self.token) {
            tokens.remove(token, place);
        }
    }
}
