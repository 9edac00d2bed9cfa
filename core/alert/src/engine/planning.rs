//! Planning: what a registration or a change makes of a rule, before it is stored.

use prost::Message as _;
use sha2::{Digest as _, Sha256};
use tidewire_proto::v1::AlertRule;
use tidewire_store::{Batch, Key};

use super::{
    commands::Rows, config::DAY_MS, id::Id, record::KeyRecord, staging::Chunk, tables, view,
    writer::Writer,
};
use crate::{AlertError, Catalog, Now, Rule};

/// Result of a registration.
pub(super) enum Registration {
    /// A rule, and the row of its key.
    New(Id, AlertRule, Rule, Option<Key>),
    /// The rule of an earlier request under the same key.
    Known(Id, AlertRule),
}

impl Writer {
    pub(super) fn plan_register(
        &self,
        user: &str,
        mut rule: AlertRule,
        key: Option<&str>,
        (rows, chunk): (&mut Rows, &mut Chunk),
        now: Now,
    ) -> Result<Registration, AlertError> {
        let hash = key.map(|key| (key, key_hash(user, key)));
        let request = request_hash(&rule);
        if let Some((key, hash)) = &hash
            && let Some(known) = rows.keys.get(hash)
        {
            if known.request != request {
                return Err(AlertError::KeyReuse((*key).to_owned()));
            }
            let id = Id(known.rule);
            return match rows.of_user(id, user) {
                Ok(rule) => Ok(Registration::Known(id, rule)),
                Err(_) => Err(AlertError::NotFound(id.to_string())),
            };
        }
        let added = rows.added.get(user).copied().unwrap_or(0);
        let limit = self.shared.config.rules_per_user;
        {
            let judge = self.shared.judge.lock();
            let count = judge.user(user).map_or(0, |user| user.rules as usize);
            if count + added >= limit {
                return Err(AlertError::TooManyRules(limit));
            }
        }
        let id = self.shared.ids.next(now.wall_ms);
        rule.id = id.to_string();
        rule.user = Some(user.to_owned());
        rule.version = Some(1);
        let catalog = self.shared.catalog.clone();
        let checked = self.check(user, &mut rule, &*catalog, now)?;
        let admitted = self.shared.judge.lock().admit(user, None, &checked, now);
        admitted?;
        chunk
            .batch
            .put(tables::RULES, id.key(), rule.encode_to_vec());
        let owner = tables::owner(user, id);
        chunk.batch.put(tables::OWNERS, owner, Vec::new());
        let mut key_of_rule = None;
        if let Some((_, hash)) = hash {
            let record = KeyRecord {
                rule: id.0,
                request,
            };
            let period = period(now.wall_ms);
            self.shared.key_periods.insert(period);
            let row = key_row(period, &hash);
            chunk
                .batch
                .put(tables::KEYS, row.clone(), record.encode_to_vec());
            key_of_rule = Some(row);
            rows.keys.insert(hash, record);
        }
        *rows.added.entry(user.to_owned()).or_default() += 1;
        rows.rules.insert(id, Some(rule.clone()));
        Ok(Registration::New(id, rule, checked, key_of_rule))
    }

    /// Checks a rule, and brings it into the form that is stored.
    fn check(
        &self,
        user: &str,
        rule: &mut AlertRule,
        catalog: &dyn Catalog,
        now: Now,
    ) -> Result<Rule, AlertError> {
        let config = &self.shared.config;
        rule.enabled = Some(rule.enabled.unwrap_or(true));
        let template = rule.template.clone();
        let checked = Rule::from_proto(
            rule,
            user,
            template.as_deref(),
            &config.limits,
            catalog,
            now,
        )?;
        if rule
            .priority
            .is_some_and(|priority| tidewire_proto::v1::Priority::try_from(priority).is_err())
        {
            let problem = "unknown, expected one of low, medium, high, urgent";
            return Err(AlertError::invalid("priority", problem));
        }
        view::canonicalise(rule.condition.as_mut(), &|name| catalog.symbol(name));
        view::canonical_repeat(rule.repeat.get_or_insert_default());
        Ok(checked.with_version(rule.version.unwrap_or(1)))
    }

    /// Returns the rule before and after. No checked rule means that nothing changes.
    pub(super) fn plan_update(
        &self,
        user: &str,
        update: &AlertRule,
        rows: &mut Rows,
        batch: &mut Batch,
        now: Now,
    ) -> Result<(Id, AlertRule, AlertRule, Option<Rule>), AlertError> {
        let missing = || AlertError::NotFound(update.id.clone());
        let id = Id::parse(&update.id).ok_or_else(missing)?;
        let before = rows.of_user(id, user)?;
        let mut rule = merged(&before, update);
        // An expiry that has passed since it was set is no fault of this change.
        let (expiry, snooze) = (rule.expires_at, rule.snoozed_until);
        if expiry == before.expires_at {
            rule.expires_at = None;
        }
        if snooze == before.snoozed_until {
            rule.snoozed_until = None;
        }
        // The names of a condition that stays are no fault of this change either: its symbol may have
        // vanished since.
        let stays = update.condition.is_none();
        let catalog = self.shared.catalog.clone();
        let lenient = AnyName(&*catalog);
        let catalog: &dyn Catalog = if stays { &lenient } else { &*catalog };
        self.check(user, &mut rule, catalog, now)?;
        (rule.expires_at, rule.snoozed_until) = (expiry, snooze);
        if rule == before {
            return Ok((id, before, rule, None));
        }
        let version = before.version.unwrap_or(1).saturating_add(1);
        rule.version = Some(version);
        let checked = Rule::restore(&rule, user, version)?;
        {
            let judge = self.shared.judge.lock();
            if let Some(slot) = judge.slot_of(id) {
                judge.admit(user, Some(slot), &checked, now)?;
            }
        }
        batch.put(tables::RULES, id.key(), rule.encode_to_vec());
        rows.rules.insert(id, Some(rule.clone()));
        Ok((id, before, rule, Some(checked)))
    }
}

/// A catalog that also knows every name it does not know.
struct AnyName<'a>(&'a dyn Catalog);

impl Catalog for AnyName<'_> {
    fn symbol(&self, name: &str) -> Option<String> {
        self.0.symbol(name).or_else(|| Some(name.to_owned()))
    }

    fn symbols(&self) -> Vec<String> {
        self.0.symbols()
    }

    fn has_chain(&self, _chain: u64) -> bool {
        true
    }

    fn has_currency(&self, _currency: &str) -> bool {
        true
    }
}

/// A rule with the given fields of a change. Empty texts and zeros remove what they name.
fn merged(before: &AlertRule, update: &AlertRule) -> AlertRule {
    let text = |given: &Option<String>, before: &Option<String>| match given {
        Some(text) if text.is_empty() => None,
        Some(text) => Some(text.clone()),
        None => before.clone(),
    };
    let mut rule = before.clone();
    rule.name = text(&update.name, &before.name);
    rule.template = text(&update.template, &before.template);
    if update.condition.is_some() {
        rule.condition = update.condition.clone();
    }
    if update.repeat.is_some() {
        rule.repeat = update.repeat;
    }
    rule.cooldown_ms = update
        .cooldown_ms
        .or(before.cooldown_ms)
        .filter(|ms| *ms != 0);
    rule.expires_at = update
        .expires_at
        .or(before.expires_at)
        .filter(|ms| *ms != 0);
    rule.snoozed_until = update
        .snoozed_until
        .or(before.snoozed_until)
        .filter(|ms| *ms != 0);
    rule.priority = update.priority.or(before.priority);
    rule.enabled = update.enabled.or(before.enabled);
    if update.enabled == Some(true) {
        rule.stopped_reason = None;
    }
    rule
}

/// The fields that a client chooses.
pub(crate) fn draft(rule: AlertRule) -> AlertRule {
    let empty = |text: Option<String>| text.filter(|text| !text.is_empty());
    AlertRule {
        name: empty(rule.name),
        condition: rule.condition,
        repeat: rule.repeat,
        cooldown_ms: rule.cooldown_ms.filter(|ms| *ms != 0),
        expires_at: rule.expires_at.filter(|ms| *ms != 0),
        snoozed_until: rule.snoozed_until.filter(|ms| *ms != 0),
        priority: rule.priority,
        enabled: rule.enabled,
        template: empty(rule.template),
        ..AlertRule::default()
    }
}

/// Hash of a user and a key.
pub(super) type KeyHash = Vec<u8>;

pub(super) fn key_hash(user: &str, key: &str) -> KeyHash {
    let mut hash = Sha256::new();
    hash.update((user.len() as u64).to_le_bytes());
    hash.update(user);
    hash.update(key);
    hash.finalize()[..16].to_vec()
}

fn request_hash(rule: &AlertRule) -> u64 {
    let hash = Sha256::digest(rule.encode_to_vec());
    u64::from_le_bytes(std::array::from_fn(|place| hash[place]))
}

/// The day of a time. A key is known for 24 to 48 hours, and is looked up under each day that the
/// table has, whatever the clock shows.
pub(crate) fn period(time_ms: i64) -> u32 {
    u32::try_from(time_ms.max(0) / DAY_MS).unwrap_or(u32::MAX)
}

pub(crate) fn key_row(period: u32, hash: &[u8]) -> Key {
    [period.to_be_bytes().as_slice(), hash].concat()
}
