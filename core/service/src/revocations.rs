//! Revocation store: makes token revocations survive a restart.
//!
//! A revocation is written before its RPC returns. At the next start it is restored before
//! the server listens. A record that cannot be read ends the start: without it, a revoked
//! token would be valid again. A revocation that could not be written is in force, and is
//! written as soon as the store can be.

use std::{collections::BTreeMap, sync::Arc};

use parking_lot::Mutex;
use tidewire_store::{Batch, SharedStore, StoreError, Table};
use tidewire_stream::{StreamCore, UserId, auth::Revocation};

const TABLE: Table = Table("revocations");

/// The first byte of a key is the kind of revocation, the rest is the id.
const TOKEN: u8 = b't';
const USER: u8 = b'u';

/// The end of a record. Records of earlier versions lack it: they ended thirty days after the
/// revocation, whatever the expiry of the token, and are restored without an end.
const VERSION: u64 = 2;

/// Records read at once. It bounds the memory of a restore.
const PAGE: usize = 1_024;

/// Saves and restores revocations, if the server has a store.
#[derive(Clone)]
pub struct RevocationStore {
    stream: Arc<StreamCore>,
    store: Option<SharedStore>,
    /// The revocations that could not be written, by key. All are in force, which bounds them.
    unsaved: Arc<Mutex<BTreeMap<Vec<u8>, Revocation>>>,
}

impl std::fmt::Debug for RevocationStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevocationStore")
            .field("is_durable", &self.store.is_some())
            .finish_non_exhaustive()
    }
}

impl RevocationStore {
    /// The revocations of `stream`. Without a store they end with the process.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>, store: Option<SharedStore>) -> Self {
        Self {
            stream,
            store,
            unsaved: Arc::default(),
        }
    }

    /// Restores the saved revocations, and deletes those that have expired.
    ///
    /// # Errors
    /// The store or one of its records cannot be read.
    pub async fn load(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        // A revocation that is removed is void, so a clock that is in doubt does not count.
        let now_ms = self.stream.clock().retention_ms();
        let revocations = self.stream.authenticator().revocations();
        let mut expired = Batch::new();
        let mut after = None;
        loop {
            let page = store.scan(TABLE, Vec::new(), after.take(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                match decode(&key, &value) {
                    Some((revocation, expires_at_ms)) if expires_at_ms > now_ms => {
                        revocations.restore(&revocation, expires_at_ms);
                    }
                    Some(_) => expired.delete(TABLE, key),
                    None => {
                        let key = String::from_utf8_lossy(&key);
                        return Err(StoreError::Failed(format!(
                            "the revocation {key:?} is damaged"
                        )));
                    }
                }
            }
        }
        if !expired.is_empty()
            && let Err(error) = store.commit(expired).await
        {
            // Harmless: the next start finds them expired too.
            tracing::warn!(%error, "expired revocations cannot be removed from the store");
        }
        Ok(())
    }

    /// Saves a revocation that is in force.
    pub(crate) async fn save(&self, revocation: &Revocation) -> Result<(), StoreError> {
        let store = self.store.as_ref().ok_or(StoreError::Absent)?;
        let mut batch = Batch::new();
        self.put(&mut batch, revocation);
        let saved = store.commit(batch).await;
        if saved.is_err() {
            let unsaved = (key_of(revocation), revocation.clone());
            self.unsaved.lock().extend([unsaved]);
        }
        saved
    }

    /// Saves the revocations of other servers, and those that could not be saved before. Call it
    /// from time to time.
    pub async fn save_unsaved(&self) {
        let merged = self.stream.authenticator().revocations().take_merged();
        let Some(store) = &self.store else { return };
        for page in merged.chunks(PAGE) {
            let mut batch = Batch::new();
            page.iter().for_each(|one| self.put(&mut batch, one));
            if store.commit(batch).await.is_err() {
                let unsaved = page.iter().map(|one| (key_of(one), one.clone()));
                self.unsaved.lock().extend(unsaved);
            }
        }
        loop {
            // Taken out, so that one that fails meanwhile under the same key is not lost.
            let page: Vec<_> = {
                let mut unsaved = self.unsaved.lock();
                std::iter::from_fn(|| unsaved.pop_first())
                    .take(PAGE)
                    .collect()
            };
            if page.is_empty() {
                return;
            }
            let mut batch = Batch::new();
            for (_, revocation) in &page {
                self.put(&mut batch, revocation);
            }
            // The store says itself why it cannot be written.
            if store.commit(batch).await.is_err() {
                let mut unsaved = self.unsaved.lock();
                for (key, revocation) in page {
                    unsaved.entry(key).or_insert(revocation);
                }
                return;
            }
            tracing::info!(
                count = page.len(),
                "revocations that could not be stored are stored now"
            );
        }
    }

    /// Adds the record of a revocation, unless that has expired meanwhile.
    fn put(&self, batch: &mut Batch, revocation: &Revocation) {
        let found = self.stream.authenticator().revocations().find(revocation);
        if let Some((revocation, expires_at_ms)) = found {
            let (key, value) = encode(&revocation, expires_at_ms);
            batch.put(TABLE, key, value);
        }
    }
}

fn key_of(revocation: &Revocation) -> Vec<u8> {
    let (kind, id) = match revocation {
        Revocation::Token(id) => (TOKEN, id.as_str()),
        Revocation::User(user, _) => (USER, user.as_str()),
    };
    [&[kind], id.as_bytes()].concat()
}

fn encode(revocation: &Revocation, expires_at_ms: i64) -> (Vec<u8>, Vec<u8>) {
    let until_ms = match revocation {
        Revocation::Token(_) => 0,
        Revocation::User(_, until_ms) => *until_ms,
    };
    (
        key_of(revocation),
        [
            expires_at_ms.to_be_bytes(),
            until_ms.to_be_bytes(),
            VERSION.to_be_bytes(),
        ]
        .concat(),
    )
}

fn decode(key: &[u8], value: &[u8]) -> Option<(Revocation, i64)> {
    let (kind, id) = key.split_first()?;
    let id = std::str::from_utf8(id).ok()?;
    let (expires_at_ms, rest) = value.split_first_chunk()?;
    let (until_ms, version) = rest.split_first_chunk()?;
    let until_ms = i64::from_be_bytes(*until_ms);
    let expires_at_ms = match version {
        [] => i64::MAX,
        version if version == VERSION.to_be_bytes() => i64::from_be_bytes(*expires_at_ms),
        _ => return None,
    };
    let revocation = match *kind {
        TOKEN => Revocation::Token(id.to_owned()),
        USER => Revocation::User(UserId::new(id), until_ms),
        _ => return None,
    };
    Some((revocation, expires_at_ms))
}

#[cfg(test)]
mod tests {
    use tidewire_store::MemoryStore;
    use tidewire_stream::{
        AnonymousPolicy, Authenticator, GuardedClock, ManualClock, Namespaces, SharedClock,
        StreamOptions, identity::UserIdentity,
    };

    use super::*;

    const NOW_MS: i64 = 1_750_000_000_000;

    fn server(store: &SharedStore, clock: SharedClock) -> RevocationStore {
        let policy = AnonymousPolicy::Read;
        let authenticator = Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
        let namespaces = Namespaces::built_in();
        let options = StreamOptions::default();
        let stream = StreamCore::in_memory(namespaces, authenticator, clock, options);
        RevocationStore::new(stream, Some(store.clone()))
    }

    /// Whether the server refuses the token `t`.
    fn refuses(server: &RevocationStore) -> bool {
        let identity = UserIdentity {
            token_id: Some("t".to_owned()),
            ..UserIdentity::new(UserId::new("ada"), i64::MAX)
        };
        let revocations = server.stream.authenticator().revocations();
        revocations.check(&identity).is_err()
    }

    #[tokio::test(start_paused = true)]
    async fn a_start_with_a_clock_far_ahead_keeps_revocations() {
        let store: SharedStore = Arc::new(MemoryStore::new());
        let wall = ManualClock::at(NOW_MS);
        let before = GuardedClock::new(wall.clone());
        let first = server(&store, wall.clone());
        let revocations = first.stream.authenticator().revocations();
        let expiry = Some(NOW_MS + 60_000);
        revocations.revoke_token("t", expiry).unwrap();
        first
            .save(&Revocation::Token("t".to_owned()))
            .await
            .unwrap();

        wall.set(NOW_MS + 100 * 24 * 3_600 * 1_000);
        for _ in 0..2 {
            let clock = Arc::new(GuardedClock::new(wall.clone()));
            clock.resume(before.mark());
            let next = server(&store, clock);
            next.load().await.unwrap();
            wall.set(NOW_MS);
            assert!(refuses(&next));
        }
        // It ends once its time is over by a clock that is right.
        wall.set(NOW_MS + 60_000);
        let last = server(&store, wall);
        last.load().await.unwrap();
        assert!(!refuses(&last));
        let left = store.scan(TABLE, Vec::new(), None, 10).await.unwrap();
        assert_eq!(left, []);
    }

    #[test]
    fn records_decode_to_what_was_encoded() {
        for revocation in [
            Revocation::Token("t:1".to_owned()),
            Revocation::User(UserId::new("ada"), 7_500),
        ] {
            let (key, value) = encode(&revocation, 9_000);
            assert_eq!(decode(&key, &value), Some((revocation.clone(), 9_000)));
            let old = &value[..16];
            assert_eq!(decode(&key, old), Some((revocation, i64::MAX)));
            assert_eq!(decode(&key, &value[1..]), None);
        }
        assert_eq!(decode(b"", b""), None);
        assert_eq!(decode(b"x1", &[0; 16]), None);
    }
}
