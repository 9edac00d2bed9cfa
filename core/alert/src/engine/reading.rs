//! Reading: lists of rules and fires, explanations and backtests.

use prost::Message as _;
use rust_decimal::Decimal;
use tidewire_proto::v1::{
    self, AlertEvent, AlertRule, BacktestRequest, BacktestResponse, ExplainAlertResponse,
    ListAlertsRequest, ListAlertsResponse, ListFiresRequest, ListFiresResponse, PriceValue,
};
use tidewire_stream::UserId;

use super::{
    AlertEngine,
    id::Id,
    planning::draft,
    record::StateRecord,
    rule_id, tables,
    view::{self, Audience},
};
use crate::{AlertError, Backtest, Input, Now, Rule, Sources, Subject, Tick, rule::EARLIEST_MS};

/// Items of a page, if the request does not say.
const PAGE: u32 = 50;

/// Items of a page at most.
const MOST_PAGE: u32 = 200;

/// Rows of the log that a page of one rule reads at most, so that a request stays short.
const MOST_READ: usize = 2_000;

/// Bytes of the name of a source at most: fires and their notifications carry it.
const MOST_SOURCE_BYTES: usize = 128;

/// Prices of a backtest at most.
const MOST_PRICES: usize = 10_000;

/// Fires that a backtest returns at most.
const MOST_FIRES: usize = 1_000;

/// A price of a back end, checked.
pub(super) struct CheckedPrice {
    pub(super) subject: Subject,
    pub(super) input: Input,
    pub(super) sources: Sources,
    pub(super) at_ms: i64,
}

impl AlertEngine {
    /// Lists a user's rules, oldest first. `names_owner` is for back ends.
    ///
    /// # Errors
    /// A field is refused, or the store cannot be read.
    pub async fn list(
        &self,
        user: &str,
        request: &ListAlertsRequest,
        names_owner: bool,
    ) -> Result<ListAlertsResponse, AlertError> {
        let audience = match names_owner {
            true => Audience::BackEnd,
            false => Audience::Owner,
        };
        let shared = &self.0;
        let limit = page_len(request.limit)?;
        let after = match request.after.as_deref() {
            Some(text) => Some(tables::owner(user, parse("after", text)?)),
            None => None,
        };
        let prefix = tables::of_user(user);
        let rows = shared.store.scan(tables::OWNERS, prefix, after, limit + 1);
        let rows = shared.in_time(rows).await?;
        let mut ids: Vec<Id> = rows
            .iter()
            .filter_map(|(key, _)| tables::owned(key))
            .collect();
        let has_more = ids.len() > limit;
        ids.truncate(limit);
        let items = self.rules(&ids, audience).await?;
        let next = ids.last().filter(|_| has_more).map(ToString::to_string);
        Ok(ListAlertsResponse { items, next })
    }

    /// The rules with these ids. Those that were deleted meanwhile are left out.
    async fn rules(&self, ids: &[Id], audience: Audience) -> Result<Vec<AlertRule>, AlertError> {
        let shared = &self.0;
        let keys = ids
            .iter()
            .flat_map(|id| [tables::RULES, tables::STATES].map(|table| (table, id.key())));
        let rows = shared.read_settled(keys.collect(), ids).await?;
        let now = shared.clocks.now();
        let judge = shared.judge.lock();
        let mut rules = Vec::with_capacity(ids.len());
        for (id, pair) in ids.iter().zip(rows.chunks(2)) {
            let [Some(rule), state] = pair else { continue };
            let rule = AlertRule::decode(rule.as_slice());
            let rule = rule.map_err(|_| AlertError::Damaged("alert"))?;
            let state = state_of(state.as_deref())?;
            rules.push(view::rule(&rule, &state, judge.phase(*id, now), audience));
        }
        Ok(rules)
    }

    /// Lists what fired, newest first.
    ///
    /// # Errors
    /// A field is refused, or the store cannot be read.
    pub async fn fires(
        &self,
        user: &str,
        request: &ListFiresRequest,
    ) -> Result<ListFiresResponse, AlertError> {
        let limit = page_len(request.limit)?;
        let mut after = match request.before.as_deref() {
            Some(text) => Some(tables::fire(user, parse("before", text)?)),
            None => None,
        };
        if let Some(id) = request.alert_id.as_deref() {
            parse("alertId", id)?;
        }
        let mut items: Vec<AlertEvent> = Vec::new();
        let mut read = 0;
        loop {
            let page = limit.min(MOST_READ - read) + 1;
            let prefix = tables::of_user(user);
            let rows = self.0.store.scan(tables::FIRES, prefix, after.take(), page);
            let rows = self.0.in_time(rows).await?;
            let is_last = rows.len() < page;
            for (key, value) in rows {
                if items.len() == limit || read >= MOST_READ {
                    let next = after.as_deref().and_then(tables::fire_id);
                    return Ok(ListFiresResponse {
                        items,
                        next: next.map(|id| id.to_string()),
                    });
                }
                let event = AlertEvent::decode(value.as_slice());
                let event = event.map_err(|_| AlertError::Damaged("fire of an alert"))?;
                let is_wanted = request
                    .alert_id
                    .as_deref()
                    .is_none_or(|id| event.alert_id == id);
                if is_wanted {
                    items.push(event);
                }
                read += 1;
                after = Some(key);
            }
            if is_last {
                return Ok(ListFiresResponse { items, next: None });
            }
        }
    }

    /// Explains what the newest value did to a rule.
    ///
    /// # Errors
    /// The user has no such rule, or the store cannot be read.
    pub async fn explain(&self, user: &str, id: &str) -> Result<ExplainAlertResponse, AlertError> {
        let shared = &self.0;
        let missing = || AlertError::NotFound(id.to_owned());
        let parsed = rule_id(id)?;
        let keys = [tables::RULES, tables::STATES].map(|table| (table, parsed.key()));
        let rows = shared.read_settled(keys.to_vec(), &[parsed]).await?;
        let [Some(rule), state] = &rows[..] else {
            return Err(missing());
        };
        let rule = AlertRule::decode(rule.as_slice());
        let rule = rule.map_err(|_| AlertError::Damaged("alert"))?;
        if rule.user.as_deref() != Some(user) {
            return Err(missing());
        }
        let state = state_of(state.as_deref())?;
        let checked = Rule::restore(&rule, user, rule.version.unwrap_or(1))?;
        let now = shared.clocks.now();
        let judge = shared.judge.lock();
        let slot = judge.slot_of(parsed).ok_or_else(missing)?;
        let explained = judge.evaluator.explain(slot, &checked, now);
        let explained = explained.ok_or_else(missing)?;
        let phase = Some(explained.phase);
        let shown = view::rule(&rule, &state, phase, Audience::Owner);
        Ok(view::explanation(&explained, shown))
    }

    /// The users whose rules test this subject at present, each once.
    #[must_use]
    pub fn users_of(&self, subject: &Subject) -> Vec<UserId> {
        let judge = self.0.judge.lock();
        let slots = judge.evaluator.slots_about(subject).into_iter();
        let mut owners: Vec<_> = slots.filter_map(|slot| judge.slot(slot)).collect();
        owners.sort_unstable_by_key(|slot| slot.user);
        owners.dedup_by_key(|slot| slot.user);
        let names = owners.into_iter().filter_map(|slot| judge.owner(slot));
        names.map(|name| UserId::new(&name)).collect()
    }

    /// Judges past prices by a rule that need not be registered. Time passes as they say. Ends early
    /// once `is_wanted` is false.
    ///
    /// # Errors
    /// A field is refused, or nobody wants the result any more.
    pub fn backtest(
        &self,
        owner: &str,
        request: BacktestRequest,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<BacktestResponse, AlertError> {
        let shared = &self.0;
        let count = request.prices.len();
        if count == 0 || count > MOST_PRICES {
            let problem = format!("{count} prices, expected 1 to {MOST_PRICES}");
            return Err(AlertError::invalid("prices", problem));
        }
        let rule = request
            .rule
            .ok_or_else(|| AlertError::invalid("rule", "missing, expected a rule"))?;
        let mut rule = draft(rule);
        let started = Now {
            wall_ms: request.prices.first().map_or(0, |first| first.timestamp),
            monotonic_ms: 0,
        };
        let template = rule.template.clone();
        let checked = Rule::from_proto(
            &rule,
            owner,
            template.as_deref(),
            &shared.config.limits,
            &*shared.catalog,
            started,
        );
        let checked = checked.map_err(|error| AlertError::from(error).within("rule"))?;
        check_testable(&checked).map_err(|error| error.within("rule"))?;
        view::canonicalise(rule.condition.as_mut(), &|name| shared.catalog.symbol(name));
        rule.enabled = Some(checked.is_enabled);
        let mut backtest = Backtest::new(&checked)?;
        let mut response = BacktestResponse::default();
        let (mut total, mut is_about_rule) = (0, false);
        for (place, price) in request.prices.iter().enumerate() {
            let field = format!("prices[{place}]");
            let price = self.price_of(price, &field, price.source.as_deref())?;
            check_time(price.at_ms, &format!("{field}.timestamp"))?;
            is_about_rule |= checked.subjects().contains(&&price.subject);
            if !is_wanted() {
                return Err(AlertError::Stopped);
            }
            let fires = backtest.apply(&price.subject, price.input, price.at_ms);
            let fires = fires.map_err(|error| {
                AlertError::invalid(format!("{field}.timestamp"), error.problem)
            })?;
            total += fires.len() as u64;
            for one in fires {
                if response.fired.len() < MOST_FIRES {
                    let mut event = view::event(Id::default(), &one, rule.clone());
                    event.id = None;
                    event.rule_version = None;
                    response.fired.push(event);
                }
            }
        }
        if !is_about_rule {
            let problem = "none is of a symbol that the rule tests, expected some";
            return Err(AlertError::invalid("prices", problem));
        }
        response.stopped_at = backtest.stopped_at_ms();
        response.total = Some(total);
        Ok(response)
    }

    /// Checks a price of a back end.
    pub(super) fn price_of(
        &self,
        price: &PriceValue,
        field: &str,
        source: Option<&str>,
    ) -> Result<CheckedPrice, AlertError> {
        let of = |name: &str| format!("{field}.{name}");
        let catalog = &self.0.catalog;
        let symbol = catalog.symbol(&price.symbol).ok_or_else(|| {
            let shown: String = price.symbol.chars().take(32).collect();
            let hint = crate::catalog::symbol_hint(&shown, &**catalog);
            AlertError::invalid(of("symbol"), format!("unknown symbol {shown:?}, {hint}"))
        })?;
        let value = positive(price.price.as_ref(), &of("price"))?;
        let volume = match price.volume {
            None => None,
            Some(volume) => Some(volume_of(volume, &of("volume"))?),
        };
        if let Some(source) = source
            && !(1..=MOST_SOURCE_BYTES).contains(&source.len())
        {
            let problem = format!("{} bytes, expected 1 to {MOST_SOURCE_BYTES}", source.len());
            return Err(AlertError::invalid(of("source"), problem));
        }
        let sources: Sources = source.map(|source| [source.into()].into());
        let input = Input::Price {
            tick: Tick {
                value,
                formed_us: price.timestamp.saturating_mul(1_000),
                sources: sources.clone(),
            },
            volume,
        };
        Ok(CheckedPrice {
            subject: Subject::Symbol(symbol.into()),
            input,
            sources,
            at_ms: price.timestamp,
        })
    }
}

/// Refuses rules that no price can fire.
fn check_testable(rule: &Rule) -> Result<(), AlertError> {
    if !rule.is_enabled {
        let problem = "false, expected a rule that is enabled";
        return Err(AlertError::invalid("enabled", problem));
    }
    let is_priced = |subject: &&Subject| matches!(subject, Subject::Symbol(_));
    if !rule.subjects().iter().any(is_priced) {
        let problem = "tests no price, expected a condition about a symbol";
        return Err(AlertError::invalid("condition", problem));
    }
    Ok(())
}

/// Refuses a time that is missing, or that is in seconds. A made-up history may begin at any other.
fn check_time(at_ms: i64, field: &str) -> Result<(), AlertError> {
    const SECONDS: std::ops::Range<i64> = 1_000_000_000..EARLIEST_MS;
    let problem = match at_ms {
        0 => "missing, expected milliseconds".to_owned(),
        at_ms if SECONDS.contains(&at_ms) => {
            format!("{at_ms} looks like seconds, expected milliseconds since the Unix epoch")
        }
        _ => return Ok(()),
    };
    Err(AlertError::invalid(field, problem))
}

fn state_of(value: Option<&[u8]>) -> Result<StateRecord, AlertError> {
    match value {
        Some(value) => {
            StateRecord::decode(value).map_err(|_| AlertError::Damaged("state of an alert"))
        }
        None => Ok(StateRecord::default()),
    }
}

fn page_len(limit: Option<u32>) -> Result<usize, AlertError> {
    match limit.unwrap_or(PAGE) {
        limit @ 1..=MOST_PAGE => Ok(limit as usize),
        limit => {
            let problem = format!("{limit}, expected 1 to {MOST_PAGE}");
            Err(AlertError::invalid("limit", problem))
        }
    }
}

fn parse(field: &str, text: &str) -> Result<Id, AlertError> {
    Id::parse(text).ok_or_else(|| {
        let shown: String = text.chars().take(32).collect();
        let problem = format!("{shown:?} is not an id, expected one as the server sent it");
        AlertError::invalid(field, problem)
    })
}

/// An exact number.
pub(super) fn exact(value: Option<&v1::Decimal>, field: &str) -> Result<Decimal, AlertError> {
    let missing = || AlertError::invalid(field, "missing, expected a number");
    let canonical = v1::Decimal::parse(&value.ok_or_else(missing)?.value);
    let canonical = canonical.map_err(|error| AlertError::invalid(field, error.to_string()))?;
    Decimal::from_str_exact(&canonical.value).map_err(|_| {
        let problem = "cannot be kept exactly, expected at most 28 digits";
        AlertError::invalid(field, problem)
    })
}

fn positive(value: Option<&v1::Decimal>, field: &str) -> Result<Decimal, AlertError> {
    let value = exact(value, field)?;
    match value > Decimal::ZERO {
        true => Ok(value),
        false => Err(AlertError::invalid(
            field,
            format!("{value}, expected a number above 0"),
        )),
    }
}

fn volume_of(volume: f64, field: &str) -> Result<Decimal, AlertError> {
    let parsed = Decimal::from_str_exact(&format!("{volume}")).ok();
    parsed
        .filter(|volume| *volume >= Decimal::ZERO)
        .ok_or_else(|| {
            let problem = format!("{volume}, expected 0 or more, with at most 28 digits");
            AlertError::invalid(field, problem)
        })
}
