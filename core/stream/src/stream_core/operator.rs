//! Operator's requests: lists of the connections to this server, and actions on them. Those to all
//! servers are in [`nodes`](super::nodes).

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::{Arc, Weak},
};

use tidewire_proto::v1::ErrorCode;

use super::StreamCore;
use crate::{
    ChannelName, CloseReason, Identity, StreamError, UserId,
    auth::Revocation,
    hub::SubscriberScan,
    session::{ConnectionId, Session, UnsubscribeReason},
};

/// Users of a channel that presence names; more are only counted.
pub(super) const MAX_NAMED: usize = 10_000;

/// Connections that an operator means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// The connection with this id.
    Connection(&'a str),
    /// All connections of this user.
    User(&'a str),
}

/// Filter of the connections that an operator lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionFilter<'a> {
    /// Only connections of this user.
    pub user: Option<&'a str>,
    /// Only connections that are subscribed to this channel.
    pub channel: Option<&'a str>,
    /// Only connections whose ids come after this one.
    pub after: &'a str,
}

/// Subscribers of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presence {
    /// The channel, in its canonical form.
    pub channel: ChannelName,
    /// How many connections are subscribed.
    pub connections: usize,
    /// Users of these connections, 10,000 at the most.
    pub users: BTreeSet<UserId>,
    /// Nodes whose connections are missing, since they did not answer.
    pub missing_nodes: usize,
}

impl StreamCore {
    /// Returns the first `limit` connections that pass the filter, in the order of their ids.
    ///
    /// # Errors
    /// The channel's name is wrong.
    pub async fn connections(
        &self,
        filter: ConnectionFilter<'_>,
        limit: usize,
    ) -> Result<Vec<Session>, StreamError> {
        let channel = filter
            .channel
            .map(|name| self.channel_named(name))
            .transpose()?;
        if let Some(user) = filter.user {
            let mut sessions = self.context.registry().of_user(&UserId::new(user));
            sessions.retain(|session| {
                let is_on = |channel| session.is_subscribed(channel);
                session.id().as_str() > filter.after && channel.as_ref().is_none_or(is_on)
            });
            sessions.sort_by(|a, b| a.id().cmp(b.id()));
            sessions.truncate(limit);
            return Ok(sessions);
        }
        let Some(channel) = channel else {
            return Ok(self.context.registry().page(filter.after, limit));
        };
        let mut first = BTreeMap::<ConnectionId, Session>::new();
        self.for_each_subscriber(&channel, |session| {
            let id = session.id();
            let may_be_among = first.len() < limit || first.keys().next_back() > Some(id);
            if id.as_str() > filter.after && may_be_among {
                first.insert(*id, session);
                if first.len() > limit {
                    first.pop_last();
                }
            }
        })
        .await;
        Ok(first.into_values().collect())
    }

    /// Whether a user has a connection to this server.
    #[must_use]
    pub fn is_connected(&self, user: &UserId) -> bool {
        self.context.registry().has_user(user)
    }

    /// Returns the users who need an event that concerns all users: those with a connection, and
    /// then those who were away for so short a time that their channels have a history. The
    /// positions of all others are no longer recovered, so none of them misses the event
    /// unknowingly.
    #[must_use]
    pub fn users_to_reach(&self) -> Vec<UserId> {
        let mut away = HashSet::new();
        for namespace in self.namespaces().personal() {
            let channels = self.broker().forget_quiet(&namespace.name);
            away.extend(channels.iter().map(|channel| UserId::new(channel.rest())));
        }
        // Who connects from now on reads a state that has the event.
        let mut users: Vec<_> = self.context.registry().users().into_iter().collect();
        users.iter().for_each(|user| {
            away.remove(user);
        });
        users.extend(away);
        users
    }

    /// Closes connections, and returns how many.
    ///
    /// # Errors
    /// There is no such connection.
    pub fn disconnect(&self, target: Target<'_>) -> Result<usize, StreamError> {
        let sessions = self.targets(target)?;
        Ok(disconnect_all(&sessions, CloseReason::Disconnected))
    }

    /// Begins to answer the questions of other servers, and waits until their revocations are in
    /// force here. Call it after those of this server were restored.
    pub async fn listen_to_operators(self: &Arc<Self>) {
        let handler: Weak<Self> = Arc::downgrade(self);
        if let Some(ready) = self.broker().listen_to_operators(handler)
            && let Err(error) = ready.await
        {
            tracing::warn!(%error, "the revocations of other servers come later");
        }
    }

    /// Tells all other servers of a revocation that is in force here.
    ///
    /// # Errors
    /// They cannot be told now. They are told once that works again.
    pub async fn spread_revocation(&self, revocation: &Revocation) -> Result<(), StreamError> {
        let found = self.authenticator().revocations().find(revocation);
        let Some((revocation, expires_at_ms)) = found else {
            return Ok(());
        };
        match self.broker().spread(&revocation, expires_at_ms) {
            Some(sent) => sent.await,
            None => Ok(()),
        }
    }

    /// Subscribes connections to a channel, even if their clients may not read it. Returns how
    /// many are subscribed then.
    ///
    /// # Errors
    /// There is no such connection or no such channel, or none of the connections can be
    /// subscribed: the error of the last.
    pub async fn subscribe_target(
        &self,
        target: Target<'_>,
        channel: &str,
    ) -> Result<usize, StreamError> {
        let (channel, namespace) = self.namespaces().resolve(channel)?;
        let mut count = 0;
        let mut failure = None;
        for session in self.targets(target)? {
            match session.server_subscribe(channel.clone(), namespace).await {
                Ok(()) => count += 1,
                Err(error) => failure = Some(error),
            }
        }
        match failure {
            Some(error) if count == 0 => Err(error),
            _ => Ok(count),
        }
    }

    /// Unsubscribes connections from a channel, and returns how many were subscribed.
    ///
    /// # Errors
    /// There is no such connection, or the channel's name is malformed.
    pub fn unsubscribe_target(
        &self,
        target: Target<'_>,
        channel: &str,
    ) -> Result<usize, StreamError> {
        let channel = self.channel_named(channel)?;
        let sessions = self.targets(target)?;
        let left = sessions
            .iter()
            .filter(|session| session.server_unsubscribe(&channel, UnsubscribeReason::Operator));
        Ok(left.count())
    }

    /// Unsubscribes a user's connections from a channel that they may not read any more, and
    /// returns how many were subscribed.
    ///
    /// # Errors
    /// The channel's name is wrong.
    pub fn recheck(&self, user: &UserId, channel: &str) -> Result<usize, StreamError> {
        let (channel, namespace) = self.namespaces().resolve(channel)?;
        self.namespaces().forget_owner(user, &channel);
        let sessions = self.context.registry().of_user(user);
        let left = sessions.iter().filter(|session| {
            let identity = session.identity();
            let may_read = self.namespaces().may_read(&identity, &channel, namespace);
            may_read.is_err()
                && session.server_unsubscribe(&channel, UnsubscribeReason::NotPermitted)
        });
        Ok(left.count())
    }

    /// Closes the connections that a revocation covers, and returns how many.
    pub(super) fn close_revoked(&self, revocation: &Revocation) -> usize {
        let mut sessions = match revocation {
            Revocation::Token(id) => self.context.registry().of_token(id),
            Revocation::User(user, _) => self.context.registry().of_user(user),
        };
        sessions.retain(|session| match session.identity() {
            Identity::User(identity) => revocation.covers(&identity),
            Identity::Unknown | Identity::Anonymous => false,
        });
        disconnect_all(&sessions, CloseReason::Revoked)
    }

    fn targets(&self, target: Target<'_>) -> Result<Vec<Session>, StreamError> {
        match target {
            Target::User(user) => Ok(self.context.registry().of_user(&UserId::new(user))),
            Target::Connection(id) => match self.session(id) {
                Some(session) => Ok(vec![session]),
                None => Err(StreamError::new(
                    ErrorCode::NotFound,
                    format!("there is no connection {id:?} here"),
                )),
            },
        }
    }

    /// Name of a channel in its canonical form, whether or not its engine still knows it.
    pub(super) fn channel_named(&self, name: &str) -> Result<ChannelName, StreamError> {
        match self.namespaces().resolve(name) {
            Ok((channel, _)) => Ok(channel),
            Err(_) => Ok(ChannelName::parse(name)?),
        }
    }

    /// Visits all subscribers of a channel. Yields between parts, so that others run.
    pub(super) async fn for_each_subscriber(
        &self,
        channel: &ChannelName,
        mut visit: impl FnMut(Session),
    ) {
        let mut scan = SubscriberScan::default();
        loop {
            let mut part = Vec::new();
            let has_more = self
                .hub()
                .scan_part(channel, &mut scan, |session| part.push(session.clone()));
            for session in part {
                visit(Session::from(session));
            }
            if !has_more {
                return;
            }
            tokio::task::yield_now().await;
        }
    }
}

fn disconnect_all(sessions: &[Session], reason: CloseReason) -> usize {
    let open = sessions.iter().filter(|session| session.disconnect(reason));
    open.count()
}
