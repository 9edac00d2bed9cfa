//! Tables of the store, and their keys.

use tidewire_store::Table;

use super::id::Id;
use crate::Subject;

/// Id → rule, as [`tidewire_proto::v1::AlertRule`].
pub(crate) const RULES: Table = Table("alert.rules");
/// Id → state of the rule. None while nothing judged it.
pub(crate) const STATES: Table = Table("alert.states");
/// User, id → nothing: the rules of a user.
pub(crate) const OWNERS: Table = Table("alert.owners");
/// User, inverted id → fire, as [`tidewire_proto::v1::AlertEvent`]. A scan returns the newest first.
pub(crate) const FIRES: Table = Table("alert.fires");
/// Id of a fire → user.
pub(crate) const FIRE_TIMES: Table = Table("alert.fire_times");
/// Time, id → what still has to be notified.
pub(crate) const OUTGOING: Table = Table("alert.outgoing");
/// Subject → last value.
pub(crate) const VALUES: Table = Table("alert.values");
/// Period, user and idempotency key → rule.
pub(crate) const KEYS: Table = Table("alert.keys");

/// All tables, in any order.
pub const STORE_TABLES: [Table; 8] = [
    RULES, STATES, OWNERS, FIRES, FIRE_TIMES, OUTGOING, VALUES, KEYS,
];

/// The tables with what belongs to users, each with its content in words.
pub const USER_TABLES: [(&str, Table); 1] = [("alert rules", RULES)];

/// First bytes of the keys of a user. Ids of users have no zero byte.
pub(crate) fn of_user(user: &str) -> Vec<u8> {
    let mut key = user.as_bytes().to_vec();
    key.push(0);
    key
}

pub(crate) fn owner(user: &str, id: Id) -> Vec<u8> {
    let mut key = of_user(user);
    key.extend(id.0.to_be_bytes());
    key
}

/// The id at the end of a key of [`OWNERS`].
pub(crate) fn owned(key: &[u8]) -> Option<Id> {
    key.last_chunk().map(|bytes| Id(u64::from_be_bytes(*bytes)))
}

pub(crate) fn fire(user: &str, id: Id) -> Vec<u8> {
    owner(user, Id(!id.0))
}

/// The id of a fire in a key of [`FIRES`].
pub(crate) fn fire_id(key: &[u8]) -> Option<Id> {
    owned(key).map(|id| Id(!id.0))
}

pub(crate) fn outgoing(due_ms: i64, id: Id) -> Vec<u8> {
    let mut key = due_ms.max(0).to_be_bytes().to_vec();
    key.extend(id.0.to_be_bytes());
    key
}

/// When a row of [`OUTGOING`] is due.
pub(crate) fn due_ms(key: &[u8]) -> Option<i64> {
    key.first_chunk().map(|bytes| i64::from_be_bytes(*bytes))
}

pub(crate) fn subject(subject: &Subject) -> Vec<u8> {
    let mut key;
    match subject {
        Subject::Symbol(symbol) => {
            key = vec![b's'];
            key.extend(symbol.as_bytes());
        }
        Subject::Gas(chain) => {
            key = vec![b'g'];
            key.extend(chain.to_be_bytes());
        }
        Subject::Portfolio { user, portfolio } => {
            key = vec![b'p'];
            key.extend(of_user(user));
            key.extend(portfolio.as_bytes());
        }
        Subject::Transaction { chain, hash } => {
            key = vec![b't'];
            key.extend(chain.to_be_bytes());
            key.extend(hash.as_bytes());
        }
    }
    key
}

/// The subject of a key.
pub(crate) fn parse_subject(key: &[u8]) -> Option<Subject> {
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(Box::<str>::from);
    let (kind, rest) = key.split_first()?;
    match kind {
        b's' => Some(Subject::Symbol(text(rest)?)),
        b'g' => Some(Subject::Gas(u64::from_be_bytes(rest.try_into().ok()?))),
        b'p' => {
            let end = rest.iter().position(|byte| *byte == 0)?;
            Some(Subject::Portfolio {
                user: text(&rest[..end])?,
                portfolio: text(&rest[end + 1..])?,
            })
        }
        b't' => {
            let (chain, hash) = rest.split_first_chunk()?;
            Some(Subject::Transaction {
                chain: u64::from_be_bytes(*chain),
                hash: text(hash)?,
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_subjects_parse_to_them() {
        let subjects = [
            Subject::Symbol("BTC-USD".into()),
            Subject::Gas(1),
            Subject::Portfolio {
                user: "ada".into(),
                portfolio: "main".into(),
            },
            Subject::Transaction {
                chain: 8453,
                hash: "0xaa".into(),
            },
        ];
        for one in subjects {
            assert_eq!(parse_subject(&subject(&one)).as_ref(), Some(&one));
        }
        assert_eq!(parse_subject(b""), None);
        assert_eq!(parse_subject(b"x1"), None);
    }

    #[test]
    fn newer_fires_sort_first() {
        assert!(fire("ada", Id(2)) < fire("ada", Id(1)));
        assert_eq!(fire_id(&fire("ada", Id(7))), Some(Id(7)));
    }
}
