//! Keys: the names in Redis of a store, and the bounds of ranges of keys.
//!
//! All names have the same hash tag, so that one script reaches every table. Example with the prefix
//! `tidewire`, of a table `things`:
//!
//! | name                             | content                                              |
//! |----------------------------------|------------------------------------------------------|
//! | `tidewire:{store}:lease`         | hash: term, its node and end, number of commits      |
//! | `tidewire:{store}:values:things` | hash: the value of each key                          |
//! | `tidewire:{store}:order:things`  | sorted set: the keys, in the order of their bytes    |
//!
//! The store of one engine has the name of the engine in place of `store`, such as
//! `tidewire:{chain-1}:lease`.
//!
//! The lease of an engine, such as `tidewire:{prices}:lease`, and what the balance has, have tags of their
//! own:
//!
//! | name                             | content                                              |
//! |----------------------------------|------------------------------------------------------|
//! | `tidewire:{balance}:candidates`  | sorted set: candidates, by the end of their lease    |
//! | `tidewire:{balance}:shards`      | hash: the shards that each candidate may own         |

use crate::{Key, Table};

/// Names with a prefix.
#[derive(Debug, Clone)]
pub(super) struct KeyNames(String);

impl KeyNames {
    pub(super) fn new(prefix: &str) -> Self {
        Self::of_engine(prefix, "store")
    }

    /// The names of the store of one engine. Its lease is that of the engine.
    pub(super) fn of_engine(prefix: &str, engine: &str) -> Self {
        Self(format!("{prefix}:{{{engine}}}:"))
    }

    pub(super) fn lease(&self) -> String {
        format!("{}lease", self.0)
    }

    pub(super) fn values(&self, table: Table) -> String {
        format!("{}values:{}", self.0, table.0)
    }

    pub(super) fn order(&self, table: Table) -> String {
        format!("{}order:{}", self.0, table.0)
    }
}

/// The candidates of all shards by the end of their lease, and the shards of each.
pub(super) fn candidates(prefix: &str) -> [String; 2] {
    ["candidates", "shards"].map(|kind| format!("{prefix}:{{balance}}:{kind}"))
}

/// The lease of an engine, which has a hash tag of its own.
pub(super) fn engine_lease(prefix: &str, engine: &str) -> String {
    format!("{prefix}:{{{engine}}}:lease")
}

/// The bound of a range that a key belongs to.
pub(super) fn included(key: &[u8]) -> Vec<u8> {
    [b"[", key].concat()
}

/// The bound of a range that a key does not belong to.
pub(super) fn excluded(key: &[u8]) -> Vec<u8> {
    [b"(", key].concat()
}

/// The upper bound of the keys that begin with a prefix.
pub(super) fn end_of(prefix: &[u8]) -> Vec<u8> {
    let mut end: Key = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return excluded(&end);
        }
    }
    // No key is greater than all with this prefix.
    b"+".to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_before_the_next_one() {
        assert_eq!(end_of(b"ab"), b"(ac");
        assert_eq!(end_of(b"a\xff"), b"(b");
        assert_eq!(end_of(b"\xff\xff"), b"+");
        assert_eq!(end_of(b""), b"+");
    }

    #[test]
    fn names_are_as_in_the_table() {
        let names = KeyNames::new("tidewire");
        assert_eq!(names.lease(), "tidewire:{store}:lease");
        assert_eq!(names.lease(), tidewire_redis::store_lease("tidewire"));
        assert_eq!(
            KeyNames::of_engine("tidewire", "chain-1").lease(),
            engine_lease("tidewire", "chain-1")
        );
        assert_eq!(
            names.values(Table("things")),
            "tidewire:{store}:values:things"
        );
        assert_eq!(
            names.order(Table("things")),
            "tidewire:{store}:order:things"
        );
    }
}
