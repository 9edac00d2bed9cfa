//! Loading: the stored values, rules and states, when the engine opens.
//!
//! A page is read while the two before are decoded and the one before these is inserted. Rules and
//! states are in the order of their ids, so that both tables are read once, side by side.

use std::{collections::VecDeque, sync::Arc};

use prost::Message as _;
use tidewire_proto::v1::{AlertRule, Priority};
use tidewire_store::{Key, SharedStore, StoreError, Table, Value};
use tokio::sync::mpsc;

use super::{
    Shared,
    id::{Id, IdSource},
    judge::{Arrival, Owned},
    record::{StateRecord, ValueRecord},
    tables,
};
use crate::{AlertError, Rule, Subject};

/// Rows of one page.
const PAGE: usize = 8_192;

/// Pages that are read ahead.
const AHEAD: usize = 2;

/// Pages that are decoded at the same time.
const DECODED: usize = 2;

type Rows = Vec<(Key, Value)>;

/// A source of ids after all that are stored.
pub(crate) async fn ids(store: &SharedStore) -> Result<IdSource, StoreError> {
    let mut last = Id::default();
    for table in [tables::RULES, tables::FIRE_TIMES] {
        let newest = store.get_floor(table, vec![Id(u64::MAX).key()]).await?;
        let newest = newest.into_iter().flatten().next();
        last = last.max(newest.and_then(|(key, _)| Id::of_key(&key)).unwrap_or(last));
    }
    Ok(IdSource::after(last))
}

/// Reads a table in pages.
fn pages(store: SharedStore, table: Table) -> mpsc::Receiver<Result<Rows, StoreError>> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        let mut after = None;
        loop {
            let page = store.scan(table, Key::new(), after.take(), PAGE).await;
            let is_last = page.as_ref().map_or(true, |rows| rows.len() < PAGE);
            after = page
                .as_ref()
                .ok()
                .and_then(|rows| rows.last())
                .map(|(key, _)| key.clone());
            if sender.send(page).await.is_err() || is_last {
                return;
            }
        }
    });
    receiver
}

/// The states, in the order of their rules.
struct States {
    pages: mpsc::Receiver<Result<Rows, StoreError>>,
    rows: VecDeque<(Key, Value)>,
    is_over: bool,
}

impl States {
    /// The states of rules up to the last of a page.
    async fn up_to(&mut self, last: &Key) -> Result<Rows, StoreError> {
        let mut found = Vec::new();
        loop {
            while let Some((key, _)) = self.rows.front() {
                if key > last {
                    return Ok(found);
                }
                found.extend(self.rows.pop_front());
            }
            if self.is_over {
                return Ok(found);
            }
            match self.pages.recv().await {
                Some(page) => self.rows.extend(page?),
                None => self.is_over = true,
            }
        }
    }
}

impl Shared {
    /// Loads everything.
    pub(crate) async fn load(self: &Arc<Self>) -> Result<(), AlertError> {
        let mut values = pages(self.store.clone(), tables::VALUES);
        while let Some(page) = values.recv().await {
            self.restore_values(page?);
        }
        let mut states = States {
            pages: pages(self.store.clone(), tables::STATES),
            rows: VecDeque::new(),
            is_over: false,
        };
        let mut rules = pages(self.store.clone(), tables::RULES);
        let mut inserting: Option<tokio::task::JoinHandle<()>> = None;
        let mut decoding = VecDeque::new();
        loop {
            while decoding.len() < DECODED
                && let Some(page) = rules.recv().await
            {
                let page = page?;
                let Some((last, _)) = page.last() else { break };
                let states = states.up_to(last).await?;
                let decoded = tokio::task::spawn_blocking(move || decode(&page, &states));
                decoding.push_back(decoded);
            }
            let Some(decoded) = decoding.pop_front() else {
                break;
            };
            let decoded = decoded.await.map_err(|_| AlertError::Stopped)?;
            if let Some(before) = inserting.take() {
                before.await.map_err(|_| AlertError::Stopped)?;
            }
            let shared = self.clone();
            inserting = Some(tokio::task::spawn_blocking(move || {
                shared.insert_all(decoded)
            }));
        }
        if let Some(last) = inserting {
            last.await.map_err(|_| AlertError::Stopped)?;
        }
        self.judge.lock().evaluator.finish_load();
        self.mark_vanished();
        Ok(())
    }

    fn restore_values(&self, page: Rows) {
        let now = self.clocks.now();
        let mut judge = self.judge.lock();
        for (key, value) in page {
            let subject = tables::parse_subject(&key);
            let value = ValueRecord::decode(value.as_slice()).ok();
            let value = value.and_then(|value| value.value(now));
            match (subject, value) {
                (Some(subject), Some(value)) => {
                    judge.evaluator.restore_value(&subject, value, now);
                }
                _ => tracing::error!("a stored last value is damaged, and is left out"),
            }
        }
    }

    fn insert_all(&self, loaded: Vec<StoredRule>) {
        let now = self.clocks.now();
        let mut judge = self.judge.lock();
        let mut symbols = self.symbols_of_rules.lock();
        for one in loaded {
            one.rule.condition.each_leaf(&mut |leaf| {
                if let Subject::Symbol(symbol) = &leaf.subject
                    && !symbols.contains(symbol)
                {
                    symbols.insert(symbol.clone());
                }
            });
            let owner = Owned {
                id: one.id,
                user: one.user.as_str(),
                is_urgent: one.is_urgent,
                has_history: one.has_history,
            };
            let arrival = (Arrival::Loaded, &self.inputs);
            let inserted = judge.insert(owner, &one.rule, one.state, arrival, now);
            if let Err(error) = inserted {
                tracing::error!(rule = %one.id, %error, "a stored alert is left out");
                continue;
            }
            self.follow((one.id, one.user.as_str()), &judge, &one.rule, now);
        }
    }

    /// Tells the evaluator of symbols that this server has no price of any more.
    fn mark_vanished(&self) {
        let now = self.clocks.now();
        let mut judge = self.judge.lock();
        for symbol in std::mem::take(&mut *self.symbols_of_rules.lock()) {
            if self.catalog.symbol(&symbol).is_none() {
                judge.apply_now(&Subject::Symbol(symbol), crate::Input::Vanished, now);
            }
        }
    }
}

/// A rule that was read.
pub(crate) struct StoredRule {
    id: Id,
    user: String,
    is_urgent: bool,
    has_history: bool,
    rule: Rule,
    state: crate::RuleState,
}

fn decode(rules: &Rows, states: &Rows) -> Vec<StoredRule> {
    let mut states = states.iter().peekable();
    let mut loaded = Vec::with_capacity(rules.len());
    for (key, value) in rules {
        while states.next_if(|(state, _)| state < key).is_some() {}
        let state = states.next_if(|(state, _)| state == key);
        match decode_one(key, value, state.map(|(_, value)| value)) {
            Some(one) => loaded.push(one),
            None => tracing::error!("a stored alert is damaged, and is left out"),
        }
    }
    loaded
}

fn decode_one(key: &Key, rule: &Value, state: Option<&Value>) -> Option<StoredRule> {
    let id = Id::of_key(key)?;
    let rule = AlertRule::decode(rule.as_slice()).ok()?;
    let state = match state {
        Some(state) => StateRecord::decode(state.as_slice()).ok()?,
        None => StateRecord::default(),
    };
    let user = rule.user.clone()?;
    let checked = Rule::restore(&rule, &user, rule.version.unwrap_or(1)).ok()?;
    Some(StoredRule {
        id,
        user,
        is_urgent: rule.priority() == Priority::Urgent,
        has_history: state.has_history(),
        rule: checked,
        state: state.rule_state()?,
    })
}
