//! Store move: what users have, from the folder of one server into the store that nodes share in Redis.
//!
//! All rows of notifications, alerts and delivery are copied as they are: the engines read and write the same
//! rows in both stores. The move owns the shared store while it runs, so that no node opens engines on
//! it. A *mark* in the shared store says that a move is not finished, and of which folder it is: nodes
//! do not use such a store, and the same move can be run again. The folder keeps its rows.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, bail};
use tidewire_store::{
    Batch, Candidacy, EmbeddedStore, Ownership, RedisStore, RedisStoreOptions, Store, StoreError,
    StoreLease, Table,
};
use tokio::time::{Instant, timeout_at};

use crate::{
    broker, command_hint,
    config::{Config, StoreKind},
};

/// The mark, in the shared store and in the folder.
const TABLE: Table = Table("move");

/// Which folder it is: a random name.
const SOURCE: &[u8] = b"source";

/// In the folder: its rows are in a shared store.
const MOVED: &[u8] = b"moved";

/// The file without which a folder has no store.
const STORE_FILE: &str = "store.redb";

/// Longest wait for the shared store: longer than the lease of a node that was killed.
const LONGEST_WAIT: Duration = Duration::from_secs(8);

/// Rows that are read at once, and bytes after which they are written.
const ROWS: usize = 256;
const BYTES: usize = 1 << 20;

/// Rows of a table that a warning counts at most.
const COUNTED: usize = 10_000;

fn all_tables() -> impl Iterator<Item = Table> {
    let of_notifications = tidewire_notification::STORE_TABLES.into_iter();
    let of_alerts = tidewire_alert::STORE_TABLES.into_iter();
    let of_delivery = tidewire_delivery::durable::STORE_TABLES.into_iter();
    of_notifications.chain(of_alerts).chain(of_delivery)
}

fn user_tables() -> impl Iterator<Item = (&'static str, Table)> {
    let of_notifications = tidewire_notification::USER_TABLES.into_iter();
    let of_alerts = tidewire_alert::USER_TABLES.into_iter();
    let of_delivery = tidewire_delivery::durable::USER_TABLES.into_iter();
    of_notifications.chain(of_alerts).chain(of_delivery)
}

/// A number of things, whose name is in the plural.
fn counted(count: usize, words: &str) -> String {
    match (count, words) {
        (1, "preferences") => "1 set of preferences".to_owned(),
        (1, _) => {
            let is_long = words.ends_with("xes") || words.ends_with("sses");
            let one = words.strip_suffix(if is_long { "es" } else { "s" });
            format!("1 {}", one.unwrap_or(words))
        }
        _ => format!("{count} {words}"),
    }
}

/// Contents of a store that belong to users, in words, such as `3 inboxes, 1 alert rule`. Empty if it has nothing.
async fn contents(store: &dyn Store) -> Result<String, StoreError> {
    let mut texts = Vec::new();
    for (words, table) in user_tables() {
        let (mut count, mut after) = (0, None);
        while count < COUNTED {
            let rows = store.scan(table, Vec::new(), after, ROWS).await?;
            count += rows.len();
            after = rows.into_iter().next_back().map(|(key, _)| key);
            if after.is_none() {
                break;
            }
        }
        match count {
            0 => {}
            _ if count >= COUNTED => texts.push(format!("{COUNTED} or more {words}")),
            _ => texts.push(counted(count, words)),
        }
    }
    Ok(texts.join(", "))
}

/// Warns of what is in the folder of a node that keeps such things in the shared store.
pub(crate) async fn warn_of_unread(config: &Config, own: &dyn Store) {
    let unread = async {
        match own.get(TABLE, MOVED.to_vec()).await? {
            Some(_) => Ok(String::new()),
            None => contents(own).await,
        }
    };
    let unread = match unread.await {
        Ok(unread) if unread.is_empty() => return,
        Ok(unread) => unread,
        // The store reports its own faults.
        Err(_) => return,
    };
    let command = command_hint::command(config, "move-store");
    tracing::warn!(
        folder = %config.store.path.display(),
        unread,
        "the folder of this node has what the shared store does not: with store.kind = \"redis\" nobody reads it. Stop all nodes and move it with {command}"
    );
}

/// Notes that this server keeps what users have in its folder. Rows that were moved out of it before may not be all
/// any more.
pub(crate) async fn note_own_use(own: &dyn Store) {
    let noted = async {
        if own.get(TABLE, MOVED.to_vec()).await?.is_some() {
            let mut batch = Batch::new();
            batch.delete(TABLE, MOVED);
            own.commit(batch).await?;
        }
        Ok::<_, StoreError>(())
    };
    if let Err(error) = noted.await {
        tracing::warn!(%error, "the folder still says that it was moved into a shared store");
    }
}

/// Checks that no move into this store has been interrupted.
///
/// # Errors
/// One has, or the store cannot be read.
pub(crate) async fn check(store: &dyn Store) -> Result<(), StoreError> {
    match store.get(TABLE, SOURCE.to_vec()).await? {
        None => Ok(()),
        Some(_) => Err(StoreError::Failed(
            "a move into the shared store was interrupted: stop all nodes, and run `tidewire move-store` again with the configuration of its folder".to_owned(),
        )),
    }
}

/// Moves what the folder of the configuration has. Returns it in words.
///
/// # Errors
/// Something cannot be used, or there is something in the shared store already.
pub(crate) async fn run(config: &Config) -> anyhow::Result<String> {
    if config.store.kind != StoreKind::Redis {
        bail!(
            "store.kind is \"embedded\", expected the configuration with store.kind = \"redis\", whose store.path is the folder to move"
        );
    }
    let folder = &config.store.path;
    if !folder.join(STORE_FILE).exists() {
        bail!(
            "{} has no store, expected the folder of a server",
            folder.display()
        );
    }
    let own = EmbeddedStore::open(folder)?;
    let lease = StoreLease::start(RedisStoreOptions {
        redis: broker::redis_options(&config.broker).map_err(anyhow::Error::msg)?,
        node: format!("{:08x}", rand::random::<u32>()),
        replicas: config.store.replicas,
        candidacy: Candidacy::Candidate,
    });
    let moved = async {
        let shared = owned(&lease).await?;
        move_all(folder, &own, &shared).await
    };
    let moved = moved.await;
    lease.end().await;
    own.close().await.context("the folder cannot be closed")?;
    moved
}

/// Waits until this process owns the shared store.
async fn owned(lease: &StoreLease) -> anyhow::Result<RedisStore> {
    let deadline = Instant::now() + LONGEST_WAIT;
    let mut ownership = lease.ownership();
    loop {
        let reason = match &*ownership.borrow_and_update() {
            Ownership::Own(store) => return Ok(store.clone()),
            Ownership::Other { node, .. } => {
                format!("node {node} owns the shared store: stop all nodes first")
            }
            Ownership::Unknown(error) => format!("the shared store cannot be used: {error}"),
        };
        if timeout_at(deadline, ownership.changed()).await.is_err() {
            bail!(reason);
        }
    }
}

async fn move_all(
    folder: &Path,
    own: &EmbeddedStore,
    shared: &RedisStore,
) -> anyhow::Result<String> {
    let source = source(own).await?;
    match shared.get(TABLE, SOURCE.to_vec()).await? {
        // It was interrupted.
        Some(mark) if mark == source => {}
        Some(_) => bail!(
            "a move of another folder into the shared store was interrupted: run it again with that folder"
        ),
        None => {
            let there = contents(shared).await?;
            if !there.is_empty() {
                bail!("the shared store has {there} already, expected an empty one");
            }
            let mut mark = Batch::new();
            mark.put(TABLE, SOURCE, source);
            shared.commit(mark).await?;
        }
    }
    for table in all_tables() {
        copy(table, own, shared).await.with_context(|| {
            format!("the table {} is not moved: run the command again", table.0)
        })?;
    }
    let moved = contents(own).await?;
    // In this order: what is interrupted in between is moved once more.
    let mut done = Batch::new();
    done.put(TABLE, MOVED, b"1".as_slice());
    own.commit(done).await?;
    let mut unmark = Batch::new();
    unmark.delete(TABLE, SOURCE);
    shared.commit(unmark).await?;
    Ok(match moved.is_empty() {
        true => format!("{} has nothing of users", folder.display()),
        false => format!("moved from {}: {moved}", folder.display()),
    })
}

/// The name of the folder, which it gets at the first attempt.
async fn source(own: &EmbeddedStore) -> Result<Vec<u8>, StoreError> {
    if let Some(known) = own.get(TABLE, SOURCE.to_vec()).await? {
        return Ok(known);
    }
    let name = format!("{:032x}", rand::random::<u128>()).into_bytes();
    let mut batch = Batch::new();
    batch.put(TABLE, SOURCE, name.clone());
    own.commit(batch).await?;
    Ok(name)
}

/// Removes what a node wrote by itself, or an interrupted move. In parts: Redis does nothing else while it
/// carries one out.
async fn clear(table: Table, shared: &RedisStore) -> Result<(), StoreError> {
    loop {
        let rows = shared.scan(table, Vec::new(), None, ROWS).await?;
        if rows.is_empty() {
            return Ok(());
        }
        let mut batch = Batch::new();
        for (key, _) in rows {
            batch.delete(table, key);
        }
        shared.commit(batch).await?;
    }
}

/// Makes a table of the shared store equal to that of the folder.
async fn copy(table: Table, own: &EmbeddedStore, shared: &RedisStore) -> Result<(), StoreError> {
    clear(table, shared).await?;
    let mut after = None;
    loop {
        let rows = own.scan(table, Vec::new(), after, ROWS).await?;
        let Some((last, _)) = rows.last() else {
            return Ok(());
        };
        after = Some(last.clone());
        let (mut batch, mut bytes) = (Batch::new(), 0);
        for (key, value) in rows {
            bytes += key.len() + value.len();
            batch.put(table, key, value);
            if bytes >= BYTES {
                shared.commit(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        if bytes > 0 {
            shared.commit(batch).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_thing_is_named_in_the_singular() {
        let ones = ["inboxes", "preferences", "alert rules", "mail addresses"];
        assert_eq!(
            ones.map(|words| counted(1, words)),
            [
                "1 inbox",
                "1 set of preferences",
                "1 alert rule",
                "1 mail address"
            ]
        );
        assert_eq!(counted(2, "inboxes"), "2 inboxes");
        // All tables have a plural that has such a singular.
        for (words, _) in user_tables() {
            assert_ne!(counted(1, words), format!("1 {words}"));
        }
    }
}
