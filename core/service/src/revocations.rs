//! Revocations that outlive the process: each is in the store before its RPC answers,
//! and in force again before the next start listens.

use std::sync::Arc;

use tidewire_store::{Batch, SharedStore, StoreError, Table};
use tidewire_stream::{StreamCore, UserId, auth::Revocation};

const TABLE: Table = Table("revocations");

/// The first byte of a key says what is revoked, the rest is its id.
const TOKEN: u8 = b't';
const USER: u8 = b'u';

/// So many are read at once.
const PAGE: usize = 1_024;

/// Keeps revocations, where there is a store.
#[derive(Clone)]
pub struct RevocationStore {
    stream: Arc<StreamCore>,
    store: Option<SharedStore>,
}

impl std::fmt::Debug for RevocationStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RevocationStore")
            .field("is_durable", &self.store.is_some())
            .finish_non_exhaustive()
    }
}

impl RevocationStore {
    /// Keeps those of this core. Without a store they end with the process.
    #[must_use]
    pub fn new(stream: Arc<StreamCore>, store: Option<SharedStore>) -> Self {
        Self { stream, store }
    }

    /// Puts those that were kept in force again, and drops what nobody can use any more.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn load(&self) -> Result<(), StoreError> {
        let Some(store) = &self.store else {
            return Ok(());
        };
        let now_ms = self.stream.clock().now_ms();
        let revocations = self.stream.authenticator().revocations();
        let mut old = Batch::new();
        let mut after = None;
        loop {
            let page = store.scan(TABLE, Vec::new(), after.take(), PAGE).await?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.clone());
            for (key, value) in page {
                match decode(&key, &value) {
                    Some((revocation, kept_until)) if kept_until > now_ms => {
                        revocations.restore(revocation, kept_until);
                    }
                    Some(_) => old.delete(TABLE, key),
                    None => tracing::error!(?key, "a revocation in the store cannot be read"),
                }
            }
        }
        if !old.is_empty() {
            store.commit(old).await?;
        }
        Ok(())
    }

    /// Keeps a revocation that is in force.
    pub(crate) async fn keep(&self, revocation: &Revocation) -> Result<(), StoreError> {
        let kept = self.stream.authenticator().revocations().find(revocation);
        let (Some(store), Some((revocation, kept_until))) = (&self.store, kept) else {
            return Ok(());
        };
        let (key, value) = encode(&revocation, kept_until);
        let mut batch = Batch::new();
        batch.put(TABLE, key, value);
        store.commit(batch).await
    }
}

fn encode(revocation: &Revocation, kept_until: i64) -> (Vec<u8>, Vec<u8>) {
    let (kind, id, until_ms) = match revocation {
        Revocation::Token(id) => (TOKEN, id.as_str(), 0),
        Revocation::User(user, until_ms) => (USER, user.as_str(), *until_ms),
    };
    let key = [&[kind], id.as_bytes()].concat();
    (
        key,
        [kept_until.to_be_bytes(), until_ms.to_be_bytes()].concat(),
    )
}

fn decode(key: &[u8], value: &[u8]) -> Option<(Revocation, i64)> {
    let (kind, id) = key.split_first()?;
    let id = std::str::from_utf8(id).ok()?;
    let (kept_until, until_ms) = value.split_first_chunk()?;
    let until_ms = i64::from_be_bytes(until_ms.try_into().ok()?);
    let revocation = match *kind {
        TOKEN => Revocation::Token(id.to_owned()),
        USER => Revocation::User(UserId::new(id), until_ms),
        _ => return None,
    };
    Some((revocation, i64::from_be_bytes(*kept_until)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_as_they_were_written() {
        for revocation in [
            Revocation::Token("t:1".to_owned()),
            Revocation::User(UserId::new("ada"), 7_500),
        ] {
            let (key, value) = encode(&revocation, 9_000);
            assert_eq!(decode(&key, &value), Some((revocation, 9_000)));
            assert_eq!(decode(&key, &value[1..]), None);
        }
        assert_eq!(decode(b"", b""), None);
        assert_eq!(decode(b"x1", &[0; 16]), None);
    }
}
