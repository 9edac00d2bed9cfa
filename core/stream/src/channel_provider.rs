//! Channel providers: an engine's knowledge of the channels of its namespace.
//!
//! An engine implements [`ChannelProvider`] and registers it with
//! [`StreamCore::register_provider`](crate::StreamCore::register_provider) before clients connect.
//! Checking a name and starting work on it are two methods, so that only a subscription
//! starts work:
//!
//! | request | calls |
//! |---|---|
//! | publish, unsubscribe | `validate` |
//! | history, presence | `validate`, `look_owner_up`, `owns` |
//! | subscribe that is refused | `validate`, `look_owner_up`, `owns` |
//! | subscribe that is allowed | `validate`, `look_owner_up`, `owns`, `activate`, `activate_elsewhere`, then `epoch` |
//!
//! # Why `activate` comes before the position is read
//! An engine that follows a wallet gives each uninterrupted stretch of following an epoch.
//! Example: a client has position (`e1`, 7), and the engine stopped following after that.
//! The client subscribes since (`e1`, 7). `activate` starts epoch `e2`, and only then is the
//! position read: (`e2`, 0). The epochs differ, so the client receives `recovered: false`
//! and reads the state again. Read in the other order, the position would belong to no epoch of
//! the engine, and what happens between the two reads could be lost unnoticed.
//!
//! Reading a history activates nothing. For a channel that the engine does not follow it
//! returns an epoch that no later subscription continues.

use std::pin::Pin;

use crate::{Caller, Epoch, StreamError, UserId};

/// The work of another server on a channel, until it has begun or is refused.
pub type Activation<'a> = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send + 'a>>;

/// A question to another server about the owner of a channel, until it is answered.
pub type OwnerLookup<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The channels of one namespace, as their engine knows them. `rest` is the part of a
/// channel's canonical name after the colon.
pub trait ChannelProvider: Send + Sync + 'static {
    /// Checks that `rest` names a channel of this engine. Changes nothing.
    ///
    /// # Errors
    /// States what was wrong and what was expected.
    fn validate(&self, rest: &str) -> Result<(), StreamError>;

    /// Starts the work that the channel's publications need, or continues it. Called for each
    /// subscription, after its permission is known and before its position is read. Returns
    /// at once, and may be called again for the same channel. The work may count towards the
    /// share of `caller`.
    ///
    /// # Errors
    /// The work cannot be started; the subscription is refused with this error.
    fn activate(&self, rest: &str, caller: &Caller) -> Result<(), StreamError> {
        let _ = (rest, caller);
        Ok(())
    }

    /// Has the server that does this work for all start or continue it, and waits for its word. None if
    /// this server does it, in [`activate`](Self::activate).
    ///
    /// # Errors
    /// The work cannot be started; the subscription is refused with this error.
    fn activate_elsewhere<'a>(
        &'a self,
        rest: &'a str,
        caller: &'a Caller,
    ) -> Option<Activation<'a>> {
        let _ = (rest, caller);
        None
    }

    /// The epoch in which a channel starts.
    fn epoch(&self, rest: &str) -> ChannelEpoch {
        let _ = rest;
        ChannelEpoch::BrokerChosen
    }

    /// Whether a channel belongs to a user for a reason other than the user's token.
    fn owns(&self, user: &UserId, rest: &str) -> bool {
        let _ = (user, rest);
        false
    }

    /// Asks the server that knows whether a channel belongs to a user, so that
    /// [`owns`](Self::owns) knows it too. None if this server knows.
    fn look_owner_up<'a>(&'a self, user: &'a UserId, rest: &'a str) -> Option<OwnerLookup<'a>> {
        let _ = (user, rest);
        None
    }

    /// Forgets the result of such a question: it may have changed.
    fn forget_owner(&self, user: &UserId, rest: &str) {
        let _ = (user, rest);
    }
}

/// The epoch in which a channel starts, before anything is published on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEpoch {
    /// The broker chooses the epoch: the engine has none of its own.
    BrokerChosen,
    /// The engine follows the channel under this epoch.
    Active(Epoch),
    /// The engine does not follow the channel. No position of it can be resumed.
    Inactive,
}
