//! Registry: the open sessions, by connection, by user and by token.
//!
//! Subscribers by channel are in the [`hub`](crate::hub). Every request takes constant time,
//! but for the order of the ids, which takes logarithmic time to maintain: so a page of
//! connections costs no more than its length. The registry's lock is acquired before a
//! session's.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    ops::Bound,
    sync::Arc,
};

use parking_lot::RwLock;
use slab::Slab;

use super::{ConnectionId, Session};
use crate::{Identity, UserId, identity::UserIdentity};

/// The open sessions.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Lists>);

#[derive(Debug, Default)]
struct Lists {
    sessions: HashMap<ConnectionId, RegistryEntry>,
    order: BTreeSet<ConnectionId>,
    users: Index<UserId>,
    tokens: Index<String>,
}

#[derive(Debug)]
struct RegistryEntry {
    session: Session,
    keys: Option<IndexKeys>,
}

/// Keys of a session in the indices.
#[derive(Debug)]
struct IndexKeys {
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

    fn remove(&mut self, key: &K, index: usize) {
        if let Some(sessions) = self.0.get_mut(key) {
            sessions.try_remove(index);
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

/// Sizes of a registry. For tests that sessions leave nothing behind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RegistrySizes {
    /// Connections.
    pub connections: usize,
    /// Users with a connection.
    pub users: usize,
    /// Ids of tokens with a connection.
    pub tokens: usize,
}

impl Registry {
    /// Adds a session, without its identity.
    pub(crate) fn add(&self, session: &Session) {
        let mut inner = self.0.write();
        inner.order.insert(*session.id());
        let entry = RegistryEntry {
            session: session.clone(),
            keys: None,
        };
        inner.sessions.insert(*session.id(), entry);
    }

    /// Lists a session under the user and the token that it has now. A session that was
    /// removed stays removed.
    pub(crate) fn identify(&self, session: &Session) {
        let mut inner = self.0.write();
        let Lists {
            sessions,
            users,
            tokens,
            ..
        } = &mut *inner;
        let Some(entry) = sessions.get_mut(session.id()) else {
            return;
        };
        if let Some(keys) = entry.keys.take() {
            keys.remove_from(users, tokens);
        }
        // Read under the registry's lock, so that of two tokens the newer one stays.
        if let Identity::User(identity) = session.identity() {
            let token = identity.token_id.clone();
            entry.keys = Some(IndexKeys {
                user: users.add(identity.user.clone(), session.clone()),
                token: token.map(|token| tokens.add(token, session.clone())),
                identity,
            });
        }
    }

    /// Removes a session from all lists.
    pub(crate) fn remove(&self, session: &Session) {
        let mut inner = self.0.write();
        let Lists {
            sessions,
            order,
            users,
            tokens,
        } = &mut *inner;
        order.remove(session.id());
        if let Some(RegistryEntry { keys, .. }) = sessions.remove(session.id())
            && let Some(keys) = keys
        {
            keys.remove_from(users, tokens);
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

    /// Whether a user has a session.
    pub(crate) fn has_user(&self, user: &UserId) -> bool {
        self.0.read().users.0.contains_key(user)
    }

    /// The users with a session, each once, in no order.
    pub(crate) fn users(&self) -> Vec<UserId> {
        self.0.read().users.0.keys().cloned().collect()
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

    /// Sizes of the lists.
    pub(crate) fn sizes(&self) -> RegistrySizes {
        let inner = self.0.read();
        RegistrySizes {
            connections: inner.sessions.len().max(inner.order.len()),
            users: inner.users.0.len(),
            tokens: inner.tokens.0.len(),
        }
    }
}

impl IndexKeys {
    fn remove_from(self, users: &mut Index<UserId>, tokens: &mut Index<String>) {
        users.remove(&self.identity.user, self.user);
        if let (Some(token), Some(index)) = (&self.identity.token_id, self.token) {
            tokens.remove(token, index);
        }
    }
}
