//! Token revocation: refuses tokens before they expire.
//!
//! A revocation covers one token id, or all tokens issued to a user so far. It expires when
//! every token that it covers has expired. Where that time is not known it never expires,
//! because the token may live for any time. A full table refuses a new revocation, because
//! evicting one would make a token valid again.

use std::{collections::HashMap, time::Duration};

use parking_lot::{Mutex, RwLock};
use tidewire_proto::v1::ErrorCode;

use crate::{SharedClock, StreamError, UserId, identity::UserIdentity};

/// Expiry of a revocation whose tokens have no known expiry.
const NEVER_MS: i64 = i64::MAX;

/// Revocations in force at once. The bound limits the memory: about 150 bytes each.
const MAX_ENTRIES: usize = 1_000_000;

/// The tokens that are revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revocation {
    /// The token with this id.
    Token(String),
    /// All tokens issued to this user up to a time, in milliseconds since the Unix epoch.
    /// Tokens without `iat` are included.
    User(UserId, i64),
}

impl Revocation {
    /// Whether it covers the token of `identity`. Sessions that are already open are
    /// checked with it.
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

/// A token's `iat` has whole seconds, so a token of the same second is revoked too.
fn is_issued_by(identity: &UserIdentity, until_ms: i64) -> bool {
    identity
        .issued_at_ms
        .is_none_or(|issued_at_ms| issued_at_ms <= until_ms)
}

/// Called with each revocation. Returns the number of connections that it closed.
type RevocationListener = Box<dyn Fn(&Revocation) -> usize + Send + Sync>;

/// The revocations in force.
pub struct Revocations {
    clock: SharedClock,
    /// How far the issuer's clock may be ahead, in milliseconds.
    leeway_ms: i64,
    entries: Mutex<RevocationTable>,
    listeners: RwLock<Vec<RevocationListener>>,
}

#[derive(Default)]
struct RevocationTable {
    /// The expiry of each revocation, by token id.
    tokens: HashMap<String, i64>,
    /// The time of each revocation and its expiry, by user.
    users: HashMap<UserId, (i64, i64)>,
    /// Those of other servers that are not stored yet. All are in force, which bounds them.
    merged: Vec<Revocation>,
}

impl RevocationTable {
    /// Adds a revocation, or extends the one of the same token or user. Returns whether it is more
    /// than was known.
    fn put(&mut self, revocation: &Revocation, expires_at_ms: i64) -> bool {
        match revocation {
            Revocation::Token(id) => {
                let expiry = self.tokens.entry(id.clone()).or_insert(i64::MIN);
                let is_more = expires_at_ms > *expiry;
                *expiry = expires_at_ms.max(*expiry);
                is_more
            }
            Revocation::User(user, until) => {
                let first = (i64::MIN, i64::MIN);
                let (until_ms, expiry) = self.users.entry(user.clone()).or_insert(first);
                let is_more = *until > *until_ms || expires_at_ms > *expiry;
                *until_ms = (*until).max(*until_ms);
                *expiry = expires_at_ms.max(*expiry);
                is_more
            }
        }
    }
}

impl std::fmt::Debug for Revocations {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Revocations")
            .field("len", &self.len())
            .finish_non_exhaustive()
    }
}

impl Revocations {
    /// An empty table.
    #[must_use]
    pub fn new(clock: SharedClock) -> Self {
        Self {
            clock,
            leeway_ms: 0,
            entries: Mutex::default(),
            listeners: RwLock::default(),
        }
    }

    /// Tolerates an issuer whose clock is ahead by up to `leeway`: the revocation of a user covers
    /// the tokens that bear such a time.
    #[must_use]
    pub fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway_ms = i64::try_from(leeway.as_millis()).unwrap_or(i64::MAX);
        self
    }

    /// Calls `listener` with each revocation, before
    /// [`revoke_token`](Self::revoke_token) or [`revoke_user`](Self::revoke_user)
    /// returns. It must not block. It returns the number of connections that it closed.
    pub fn on_revoke(&self, listener: impl Fn(&Revocation) -> usize + Send + Sync + 'static) {
        self.listeners.write().push(Box::new(listener));
    }

    /// Revokes one token. `token_expires_at_ms` is its expiry, if known. Returns the
    /// number of closed connections.
    ///
    /// # Errors
    /// The table is full.
    pub fn revoke_token(
        &self,
        id: &str,
        token_expires_at_ms: Option<i64>,
    ) -> Result<usize, StreamError> {
        let expires_at_ms = token_expires_at_ms.unwrap_or(NEVER_MS);
        self.make_room()?;
        self.entries
            .lock()
            .tokens
            .entry(id.to_owned())
            .and_modify(|expiry| *expiry = expires_at_ms.max(*expiry))
            .or_insert(expires_at_ms);
        Ok(self.notify(&Revocation::Token(id.to_owned())))
    }

    /// Revokes all tokens issued to a user up to now, by a clock that may be ahead by the leeway.
    /// `tokens_expire_at_ms` is the expiry of the last of them, if known. Returns the number of
    /// closed connections.
    ///
    /// # Errors
    /// The table is full.
    pub fn revoke_user(
        &self,
        user: &UserId,
        tokens_expire_at_ms: Option<i64>,
    ) -> Result<usize, StreamError> {
        let until_ms = self.clock.now_ms().saturating_add(self.leeway_ms);
        let expires_at_ms = tokens_expire_at_ms.unwrap_or(NEVER_MS);
        self.make_room()?;
        self.entries
            .lock()
            .users
            .entry(user.clone())
            .and_modify(|(until, expiry)| {
                *until = until_ms.max(*until);
                *expiry = expires_at_ms.max(*expiry);
            })
            .or_insert((until_ms, expires_at_ms));
        Ok(self.notify(&Revocation::User(user.clone(), until_ms)))
    }

    /// Restores a revocation from the store, with its expiry in milliseconds since the
    /// Unix epoch. Listeners are not called, because no client is connected yet.
    pub fn restore(&self, revocation: &Revocation, expires_at_ms: i64) {
        self.entries.lock().put(revocation, expires_at_ms);
    }

    /// Takes over a revocation of another server, with its expiry in milliseconds since the Unix
    /// epoch. If it was not in force here, listeners are called, and it is among
    /// [`take_merged`](Self::take_merged).
    ///
    /// # Errors
    /// The table is full.
    pub fn merge(&self, revocation: &Revocation, expires_at_ms: i64) -> Result<(), StreamError> {
        let now_ms = self.clock.retention_ms();
        if expires_at_ms <= now_ms {
            return Ok(());
        }
        self.make_room()?;
        {
            let mut entries = self.entries.lock();
            if !entries.put(revocation, expires_at_ms) {
                return Ok(());
            }
            entries.merged.push(revocation.clone());
        }
        self.notify(revocation);
        Ok(())
    }

    /// The revocations that other servers made and that were not taken before, to be stored here.
    #[must_use]
    pub fn take_merged(&self) -> Vec<Revocation> {
        std::mem::take(&mut self.entries.lock().merged)
    }

    /// All revocations in force, with their expiry in milliseconds since the Unix epoch.
    #[must_use]
    pub fn all(&self) -> Vec<(Revocation, i64)> {
        // Other servers keep what they get, so a clock that is in doubt withholds nothing.
        let now_ms = self.clock.retention_ms();
        let entries = self.entries.lock();
        let tokens = entries.tokens.iter();
        let tokens = tokens.map(|(id, expiry)| (Revocation::Token(id.clone()), *expiry));
        let users = entries.users.iter();
        let users = users
            .map(|(user, (until_ms, expiry))| (Revocation::User(user.clone(), *until_ms), *expiry));
        let all = tokens.chain(users);
        all.filter(|(_, expiry)| *expiry > now_ms).collect()
    }

    /// The revocation in force of the same token or user, and its expiry in milliseconds
    /// since the Unix epoch.
    #[must_use]
    pub fn find(&self, revocation: &Revocation) -> Option<(Revocation, i64)> {
        let entries = self.entries.lock();
        match revocation {
            Revocation::Token(id) => {
                let expires_at_ms = *entries.tokens.get(id)?;
                Some((revocation.clone(), expires_at_ms))
            }
            Revocation::User(user, _) => {
                let (until_ms, expires_at_ms) = *entries.users.get(user)?;
                Some((Revocation::User(user.clone(), until_ms), expires_at_ms))
            }
        }
    }

    /// Checks that the token of `identity` is not revoked.
    ///
    /// Listeners can miss a session that opens during the revocation. Check it once more
    /// after it is registered.
    ///
    /// # Errors
    /// The token is revoked.
    pub fn check(&self, identity: &UserIdentity) -> Result<(), StreamError> {
        let now_ms = self.clock.now_ms();
        let entries = self.entries.lock();
        let by_token = identity
            .token_id
            .as_ref()
            .and_then(|id| entries.tokens.get(id))
            .is_some_and(|expires_at_ms| *expires_at_ms > now_ms);
        let by_user = entries
            .users
            .get(&identity.user)
            .is_some_and(|(until_ms, expires_at_ms)| {
                *expires_at_ms > now_ms && is_issued_by(identity, *until_ms)
            });
        if by_token || by_user {
            return Err(StreamError::new(
                ErrorCode::Unauthenticated,
                "the token was revoked",
            ));
        }
        Ok(())
    }

    /// The number of revocations, including those that expired since the last cleanup.
    #[must_use]
    pub fn len(&self) -> usize {
        let entries = self.entries.lock();
        entries.tokens.len() + entries.users.len()
    }

    /// Whether there are no revocations.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn make_room(&self) -> Result<(), StreamError> {
        let now_ms = self.clock.retention_ms();
        let mut entries = self.entries.lock();
        if entries.tokens.len() + entries.users.len() < MAX_ENTRIES {
            return Ok(());
        }
        entries
            .tokens
            .retain(|_, expires_at_ms| *expires_at_ms > now_ms);
        entries
            .users
            .retain(|_, (_, expires_at_ms)| *expires_at_ms > now_ms);
        if entries.tokens.len() + entries.users.len() < MAX_ENTRIES {
            return Ok(());
        }
        Err(StreamError::new(
            ErrorCode::ResourceExhausted,
            format!(
                "{MAX_ENTRIES} revocations are in force, which is the most that the server holds"
            ),
        ))
    }

    fn notify(&self, revocation: &Revocation) -> usize {
        let listeners = self.listeners.read();
        listeners.iter().map(|listener| listener(revocation)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{GuardedClock, ManualClock};

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
    fn a_revocation_without_a_known_expiry_lasts() {
        let clock = ManualClock::at(1_000);
        let revocations = Revocations::new(clock.clone());
        revocations.revoke_token("t", None).unwrap();
        // A later revocation does not shorten an earlier one.
        revocations.revoke_token("t", Some(5_000)).unwrap();
        let ada = UserId::new("ada");
        revocations.revoke_user(&ada, None).unwrap();
        revocations.revoke_user(&ada, Some(5_000)).unwrap();
        clock.set(100 * 365 * 24 * 3_600 * 1_000);
        let token = identity("bob", Some("t"), None);
        assert!(revocations.check(&token).is_err());
        assert!(revocations.check(&identity("ada", None, Some(1))).is_err());
    }

    #[test]
    fn a_user_is_revoked_up_to_now() {
        let clock = ManualClock::at(7_500);
        let revocations = Revocations::new(clock);
        let calls = Arc::new(Mutex::new(Vec::new()));
        let recorder = calls.clone();
        revocations.on_revoke(move |revocation| {
            recorder.lock().push(revocation.clone());
            2
        });
        assert_eq!(revocations.revoke_user(&UserId::new("ada"), None), Ok(2));
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
        let calls = calls.lock();
        assert_eq!(*calls, [Revocation::User(UserId::new("ada"), 7_500)]);
        assert!(calls[0].covers(&identity("ada", None, Some(1))));
        assert!(!calls[0].covers(&identity("ada", None, Some(8_000))));
        assert!(!calls[0].covers(&identity("bob", None, None)));
    }

    #[test]
    fn a_user_is_revoked_up_to_the_issuers_clock() {
        let clock = ManualClock::at(7_500);
        let revocations = Revocations::new(clock).with_leeway(Duration::from_secs(60));
        revocations.revoke_user(&UserId::new("ada"), None).unwrap();
        for (issued_at_ms, is_revoked) in [(7_000, true), (67_000, true), (68_000, false)] {
            let token = identity("ada", None, Some(issued_at_ms));
            assert_eq!(revocations.check(&token).is_err(), is_revoked);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_clock_far_ahead_forgets_no_revocation() {
        let now_ms = 1_750_000_000_000;
        let wall = ManualClock::at(now_ms);
        let revocations = Revocations::new(Arc::new(GuardedClock::new(wall.clone())));
        for id in 1..MAX_ENTRIES {
            revocations.restore(&Revocation::Token(id.to_string()), now_ms + 60_000);
        }
        wall.set(now_ms + 100 * 24 * 3_600 * 1_000);
        let merged = Revocation::Token("merged".to_owned());
        revocations.merge(&merged, now_ms + 60_000).unwrap();
        assert_eq!(revocations.all().len(), MAX_ENTRIES);
        // There is no room, as none of them counts as expired.
        assert!(revocations.revoke_token("one more", None).is_err());
        wall.set(now_ms);
        for id in ["1", "merged"] {
            let token = identity("ada", Some(id), None);
            assert!(revocations.check(&token).is_err());
        }
    }

    #[test]
    fn a_full_table_refuses_until_entries_expire() {
        let clock = ManualClock::at(0);
        let revocations = Revocations::new(clock.clone());
        for id in 0..MAX_ENTRIES {
            revocations
                .revoke_token(&id.to_string(), Some(10 + id as i64 % 2))
                .unwrap();
        }
        let ada = UserId::new("ada");
        let full = revocations.revoke_user(&ada, None).unwrap_err();
        assert_eq!(full.code(), ErrorCode::ResourceExhausted);
        // Expired revocations make room.
        clock.set(10);
        revocations.revoke_user(&ada, None).unwrap();
        assert_eq!(revocations.len(), MAX_ENTRIES / 2 + 1);
    }
}
