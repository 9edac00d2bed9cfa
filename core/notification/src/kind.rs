//! Types of notifications: the eight built-in ones and those of the configuration; and classes,
//! a type with a priority.
//!
//! The store knows a type by its number, so that counts by class stay small. A built-in type has
//! its number on the wire. A type of the configuration gets the next number when it is first
//! configured, and keeps it when it is removed from the configuration: notifications of that
//! type stay listed under its name, and no new ones are accepted.

use std::collections::HashMap;

use tidewire_proto::v1::{NotificationType, Priority};

use crate::NotificationError;

/// Number of the first type of the configuration.
const FIRST_CUSTOM: u16 = 64;

/// Types of the configuration at most.
pub(crate) const MAX_CUSTOM_TYPES: usize = 256;

/// Longest name of a type, in bytes.
const MAX_NAME_BYTES: usize = 64;

/// Similarity (Jaro-Winkler, from 0 to 1) above which an error suggests a known name.
const NEAR: f64 = 0.8;

/// Number of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kind(pub(crate) u16);

impl Kind {
    pub(crate) const SECURITY_WARNING: Self = Self(NotificationType::SecurityWarning as u16);
}

/// A type and a priority. Users hide and show notifications by class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Class(pub(crate) u16);

impl Class {
    pub(crate) fn new(kind: Kind, priority: Priority) -> Self {
        // A priority is from 1 to 4.
        let priority = (priority as u16).clamp(1, 4) - 1;
        Self(kind.0 << 2 | priority)
    }

    pub(crate) fn kind(self) -> Kind {
        Kind(self.0 >> 2)
    }

    /// The priority.
    #[must_use]
    pub fn priority(self) -> Priority {
        match self.0 & 3 {
            0 => Priority::Low,
            1 => Priority::Medium,
            2 => Priority::High,
            _ => Priority::Urgent,
        }
    }

    /// Whether preferences never hide the class: urgent ones and security warnings.
    #[must_use]
    pub fn is_exempt(self) -> bool {
        self.priority() == Priority::Urgent || self.kind() == Kind::SECURITY_WARNING
    }
}

/// All types that the store knows, with their names.
#[derive(Debug, Default)]
pub(crate) struct KindRegistry {
    /// Names of the types of the configuration, by number.
    names: HashMap<u16, String>,
    /// Types that may be sent.
    configured: HashMap<String, Kind>,
}

impl KindRegistry {
    /// The types with these numbers in the store, of which `configured` may be sent. Returns
    /// also the numbers of new types, for the store.
    pub(crate) fn new(
        mut names: HashMap<u16, String>,
        configured: &[String],
    ) -> Result<(Self, Vec<(u16, String)>), NotificationError> {
        let mut next = names.keys().max().map_or(FIRST_CUSTOM, |number| number + 1);
        let mut added = Vec::new();
        let mut by_name = HashMap::new();
        for (place, name) in configured.iter().enumerate() {
            let field = format!("types[{place}]");
            check_name(&field, name)?;
            let found = names.iter().find(|(_, known)| *known == name);
            let number = match found {
                Some((number, _)) => *number,
                None => {
                    names.insert(next, name.clone());
                    added.push((next, name.clone()));
                    next += 1;
                    next - 1
                }
            };
            if by_name.insert(name.clone(), Kind(number)).is_some() {
                return Err(named_twice(field, name));
            }
        }
        // A class has 14 bits for the type.
        if next >= 1 << 14 {
            return Err(NotificationError::invalid(
                "types",
                "the store has no numbers left for new types",
            ));
        }
        Ok((
            Self {
                names,
                configured: by_name,
            },
            added,
        ))
    }

    /// All that is wrong with the names of types.
    pub(crate) fn name_problems(configured: &[String]) -> Vec<NotificationError> {
        let mut problems = Vec::new();
        for (place, name) in configured.iter().enumerate() {
            let field = format!("types[{place}]");
            problems.extend(check_name(&field, name).err());
            if configured[..place].contains(name) {
                problems.push(named_twice(field, name));
            }
        }
        problems
    }

    /// The type that a request names, by its number on the wire or by its name.
    pub(crate) fn find(
        &self,
        field: &str,
        number: i32,
        name: &str,
    ) -> Result<Kind, NotificationError> {
        let built_in = NotificationType::try_from(number).ok();
        match built_in {
            Some(NotificationType::Unspecified) if !name.is_empty() => self
                .configured
                .get(name)
                .copied()
                .or_else(|| built_in_kind(name))
                .ok_or_else(|| self.unknown(field, &format!("{name:?}"), name)),
            Some(NotificationType::Unspecified) => Err(self.unknown(field, "none is given", "")),
            Some(built_in) => Ok(Kind(built_in as u16)),
            None => Err(self.unknown(field, &number.to_string(), "")),
        }
    }

    /// The types of a list, as [`find`](Self::find).
    pub(crate) fn find_all(
        &self,
        field: &str,
        numbers: &[i32],
        names: &[String],
    ) -> Result<Vec<Kind>, NotificationError> {
        let numbers = numbers.iter().map(|number| (*number, ""));
        let names = names.iter().map(|name| (0, name.as_str()));
        let all = numbers.chain(names).enumerate();
        all.map(|(place, (number, name))| self.find(&format!("{field}[{place}]"), number, name))
            .collect()
    }

    /// The number on the wire and the name of a type of the configuration, one of them set.
    pub(crate) fn wire(&self, kind: Kind) -> (i32, String) {
        match self.names.get(&kind.0) {
            Some(name) => (0, name.clone()),
            None => (i32::from(kind.0), String::new()),
        }
    }

    /// The error for a type that is shown as `given`. The nearest known name to `name` comes
    /// first.
    fn unknown(&self, field: &str, given: &str, name: &str) -> NotificationError {
        let built_in = (1..=8).filter_map(|number| NotificationType::try_from(number).ok());
        let built_in = built_in.map(|kind| {
            let name = kind.as_str_name();
            name.strip_prefix("NOTIFICATION_TYPE_")
                .unwrap_or(name)
                .to_ascii_lowercase()
        });
        let mut configured: Vec<_> = self.configured.keys().cloned().collect();
        configured.sort_unstable();
        let names: Vec<_> = built_in.chain(configured).collect();
        let near = names
            .iter()
            .map(|known| (strsim::jaro_winkler(name, known), known))
            .filter(|(score, _)| *score > NEAR)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let hint = near.map_or_else(String::new, |(_, near)| format!("did you mean {near}? "));
        NotificationError::invalid(
            field,
            format!(
                "{given}, {hint}expected one of {}, or one that `[notifications] types` adds",
                names.join(", ")
            ),
        )
    }
}

/// The built-in type of a name, as the JSON transports write it.
fn built_in_kind(name: &str) -> Option<Kind> {
    let is_lower = !name.bytes().any(|byte| byte.is_ascii_uppercase());
    let full = format!("NOTIFICATION_TYPE_{}", name.to_ascii_uppercase());
    let kind = NotificationType::from_str_name(&full).filter(|_| is_lower)?;
    (kind != NotificationType::Unspecified).then_some(Kind(kind as u16))
}

fn named_twice(field: String, name: &str) -> NotificationError {
    NotificationError::invalid(field, format!("{name:?} is named twice"))
}

fn check_name(field: &str, name: &str) -> Result<(), NotificationError> {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let is_name = name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.len() <= MAX_NAME_BYTES
        && name.bytes().all(is_allowed);
    let full = format!("NOTIFICATION_TYPE_{}", name.to_ascii_uppercase());
    let problem = match (is_name, NotificationType::from_str_name(&full)) {
        (true, None) => return Ok(()),
        (true, Some(_)) => format!("{name:?} is built in, expected another name"),
        (false, _) => format!(
            "{name:?}, expected a lower-case letter and then lower-case letters, digits or `_`, at most {MAX_NAME_BYTES}"
        ),
    };
    Err(NotificationError::invalid(field, problem))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_keeps_its_number_across_configurations() {
        let (first, added) = KindRegistry::new(HashMap::new(), &["a".into(), "b".into()]).unwrap();
        assert_eq!(added, [(64, "a".to_owned()), (65, "b".to_owned())]);
        let b = first.find("type", 0, "b").unwrap();
        let stored = added.into_iter().collect();
        let (second, added) = KindRegistry::new(stored, &["c".into(), "b".into()]).unwrap();
        assert_eq!(added, [(66, "c".to_owned())]);
        assert_eq!(second.find("type", 0, "b").unwrap(), b);
        // A type that is not configured any more keeps its name.
        assert_eq!(second.wire(Kind(64)), (0, "a".to_owned()));
        let error = second
            .find("notification.type", 0, "a")
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("`notification.type`: \"a\", expected one of price_alert, "),
            "{error}"
        );
        assert!(
            error.ends_with("marketplace_update, b, c, or one that `[notifications] types` adds"),
            "{error}"
        );
    }

    #[test]
    fn names_of_types_are_checked() {
        let refusal = |names: &[&str]| {
            let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
            KindRegistry::new(HashMap::new(), &names)
                .unwrap_err()
                .to_string()
        };
        assert!(refusal(&["a", "A"]).starts_with("`types[1]`: \"A\", expected a lower-case"));
        assert!(refusal(&[""]).starts_with("`types[0]`"));
        assert!(refusal(&["price_alert"]).contains("is built in"));
        assert!(refusal(&["a", "a"]).contains("named twice"));
    }

    #[test]
    fn a_class_has_its_parts() {
        for number in [1, 8, 64, 319] {
            for priority in [
                Priority::Low,
                Priority::Medium,
                Priority::High,
                Priority::Urgent,
            ] {
                let class = Class::new(Kind(number), priority);
                assert_eq!((class.kind(), class.priority()), (Kind(number), priority));
            }
        }
    }
}
