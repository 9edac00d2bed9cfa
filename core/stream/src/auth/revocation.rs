//! Tokens that were made worthless before their time.
//!
//! A token is revoked by its id, or with all others that were issued to its user
//! so far. An entry goes when no token that it could catch is valid any more, at
//! the latest after thirty days; when there is no room for another, the
//! revocation is refused rather than an older one forgotten.

use std::collections::HashMap;

use parking_lot::{Mutex, RwLock};
use tidewire_proto::v1::ErrorCode;

use crate::{SharedClock, StreamError, UserId, identity::UserIdentity};

/// How long a revocation is kept when the token's end is not known, in
/// milliseconds: thirty days.
const MAX_AGE_MS: i64 = 30 * 24 * 60 * 60 * 1_000;

/// How many revocations are kept.
const MAX_ENTRIES: usize = 100_000;

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// The token with this id.
    Token(String),
    /// All tokens that were issued to this user until now, in milliseconds since
    /// the Unix epoch. Tokens that do not say when they were issued are among them.
    User(UserId, i64),
}

impl Revocation {
    /// Whether this identity's token is revoked by it. For those that are
    /// connected already.
    #[must_use]
    pub fn covers(&self, identity: &UserIdentity) -> bool {
        match self {
            Self::Token(id) => identity.token_id.as_ref() == Some(id),
            Self::User(user, until_ms) => {
                identity.user == *user && is_issued_by(identity, *until_ms)
            }
        }
    }
}

/// A token's `iat` counts whole seconds: one of the very second is revoked too.
fn is_issued_by(identity: &UserIdentity, until_ms: i64) -> bool {
    identity
        .issued_at_ms
        .is_none_or(|issued_at_ms| issued_at_ms <= until_ms)
}

/// Told of each revocation; says how many connections it closed.
type Listener = Box<dyn Fn(&Revocation) -> usize + Send + Sync>;

/// The revocations in force.
pub struct Revocations {
    clock: SharedClock,
    entries: Mutex<Entries>,
    listeners: RwLock<Vec<Listener>>,
}

#[derive(Default)]
struct Entries {
    /// Until when each is kept.
    tokens: HashMap<String, i64>,
    /// Which tokens of each are revoked, and until when that is kept.
    users: HashMap<UserId, (i64, i64)>,
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Revocations {
    /// None yet.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            entries: Mutex::default(),
            listeners: RwLock::default(),
        }
    }

    /// Has `listener` told of each revocation from now on, before
    /// [`revoke_token`](Self::revoke_token) or [`revoke_user`](Self::revoke_user)
    /// returns. It must not block, and says how many connections it closed.
    pub fn on_revoke(&self, listener: impl Fn(&Revocation) -> usize + Send + Sync + 'static) {
        self.listeners.write().push(Box::new(listener));
    }

    /// Revokes one token, kept until it expires if that is known. Says how many
    /// connections that closed.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn revoke_token(&self, id: &str, expires_at_ms: Option<i64>) -> Result<usize, StreamError> {
        let now_ms = self.clock.now_ms();
        let latest = now_ms.saturating_add(MAX_AGE_MS);
        let kept_until = expires_at_ms.unwrap_or(latest);
        self.make_room(now_ms)?;
        self.entries
            .lock()
            .tokens
            .entry(id.to_owned())
            .and_modify(|kept| *kept = kept_until.max(*kept))
            .or_insert(kept_until);
        Ok(self.tell(&Revocation::Token(id.to_owned())))
    }

    /// Revokes all tokens that were issued to a user until now. Says how many
    /// connections that closed.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn revoke_user(&self, user: &UserId) -> Result<usize, StreamError> {
        let now_ms = self.clock.now_ms();
        self.make_room(now_ms)?;
        let kept_until = now_ms.saturating_add(MAX_AGE_MS);
        self.entries
            .lock()
            .users
            .insert(user.clone(), (now_ms, kept_until));
        Ok(self.tell(&Revocation::User(user.clone(), now_ms)))
    }

    /// Puts a revocation of an earlier run in force, until `kept_until` in milliseconds
    /// since the Unix epoch. Nobody is connected yet who would have to be told.
    pub fn restore(&self, revocation: Revocation, kept_until: i64) {
        let mut entries = self.entries.lock();
        match revocation {
            Revocation::Token(id) => {
                entries.tokens.insert(id, kept_until);
            }
            Revocation::User(user, until_ms) => {
                entries.users.insert(user, (until_ms, kept_until));
            }
        }
    }

    /// The revocation in force of the same token or user, and until when it is kept, in
    /// milliseconds since the Unix epoch.
    #[must_use]
    pub fn find(&self, revocation: &Revocation) -> Option<(Revocation, i64)> {
        let entries = self.entries.lock();
        match revocation {
            Revocation::Token(id) => {
                let kept_until = *entries.tokens.get(id)?;
                Some((revocation.clone(), kept_until))
            }
            Revocation::User(user, _) => {
                let (until_ms, kept_until) = *entries.users.get(user)?;
                Some((Revocation::User(user.clone(), until_ms), kept_until))
            }
        }
    }

    /// Refuses an identity whose token was revoked.
    ///
    /// A session that was opened while its token was revoked may be missed by the
    /// listeners: check once more when it is in the register.
    ///
    /// # Errors
    /// It was.
    pub fn check(&self, identity: &UserIdentity) -> Result<(), StreamError> {
        let now_ms = self.clock.now_ms();
        let entries = self.entries.lock();
        let by_token = identity
            .token_id
            .as_ref()
            .and_then(|id| entries.tokens.get(id))
            .is_some_and(|kept_until| *kept_until > now_ms);
        let by_user = entries
            .users
            .get(&identity.user)
            .is_some_and(|(until_ms, kept_until)| {
                *kept_until > now_ms && is_issued_by(identity, *until_ms)
            });
        if by_token || by_user {
            return Err(StreamError::new(
                ErrorCode::Unauthenticated,
                "the token was revoked",
            ));
        }
        Ok(())
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        let entries = self.entries.lock();
        entries.tokens.len() + entries.users.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn make_room(&self, now_ms: i64) -> Result<(), StreamError> {
        let mut entries = self.entries.lock();
        if entries.tokens.len() + entries.users.len() < MAX_ENTRIES {
            return Ok(());
        }
        entries.tokens.retain(|_, kept_until| *kept_until > now_ms);
        entries
            .users
            .retain(|_, (_, kept_until)| *kept_until > now_ms);
        if entries.tokens.len() + entries.users.len() < MAX_ENTRIES {
            return Ok(());
        }
        Err(StreamError::new(
            ErrorCode::ResourceExhausted,
            format!("{MAX_ENTRIES} revocations are in force, and there may not be more"),
        ))
    }

    fn tell(&self, revocation: &Revocation) -> usize {
        let listeners = self.listeners.read();
        listeners.iter().map(|listener| listener(revocation)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ManualClock;

    fn identity(user: &str, token: Option<&str>, issued_at_ms: Option<i64>) -> UserIdentity {
        UserIdentity {
            token_id: token.map(str::to_owned),
            issued_at_ms,
            ..UserIdentity::new(UserId::new(user), i64::MAX)
        }
    }

    #[test]
    fn a_token_is_revoked_until_it_expires() {
        let clock = ManualClock::at(1_000);
        let revocations = Revocations::new(clock.clone());
        revocations.revoke_token("t", Some(5_000)).unwrap();
        assert!(
            revocations
                .check(&identity("ada", Some("t"), None))
                .is_err()
        );
        assert!(revocations.check(&identity("ada", Some("u"), None)).is_ok());
        assert!(revocations.check(&identity("ada", None, None)).is_ok());
        clock.set(5_000);
        assert!(revocations.check(&identity("ada", Some("t"), None)).is_ok());
    }

    #[test]
    fn a_user_is_revoked_up_to_now() {
        let clock = ManualClock::at(7_500);
        let revocations = Revocations::new(clock);
        let told = Arc::new(Mutex::new(Vec::new()));
        let heard = told.clone();
        revocations.on_revoke(move |revocation| {
            heard.lock().push(revocation.clone());
            2
        });
        assert_eq!(revocations.revoke_user(&UserId::new("ada")), Ok(2));
        assert!(
            revocations
                .check(&identity("ada", None, Some(7_000)))
                .is_err()
        );
        assert!(revocations.check(&identity("ada", None, None)).is_err());
        assert!(
            revocations
                .check(&identity("ada", None, Some(8_000)))
                .is_ok()
        );
        assert!(revocations.check(&identity("bob", None, None)).is_ok());
        let told = told.lock();
        assert_eq!(*told, [Revocation::User(UserId::new("ada"), 7_500)]);
        assert!(told[0].covers(&identity("ada", None, Some(1))));
        assert!(!told[0].covers(&identity("ada", None, Some(8_000))));
        assert!(!told[0].covers(&identity("bob", None, None)));
    }

    #[test]
    fn there_is_room_for_so_many() {
        let clock = ManualClock::at(0);
        let revocations = Revocations::new(clock.clone());
        for id in 0..MAX_ENTRIES {
            revocations
                .revoke_token(&id.to_string(), Some(10 + id as i64 % 2))
                .unwrap();
        }
        let full = revocations.revoke_user(&UserId::new("ada")).unwrap_err();
        assert_eq!(full.code(), ErrorCode::ResourceExhausted);
        // What nobody can use any more makes room.
        clock.set(10);
        revocations.revoke_user(&UserId::new("ada")).unwrap();
        assert_eq!(revocations.len(), MAX_ENTRIES / 2 + 1);
    }
}
