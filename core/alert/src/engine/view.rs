//! Views: rules and fires as clients see them.

use tidewire_proto::v1::{
    self, AlertDecision, AlertEvent, AlertRule, AlertState, AlertTick, ExplainAlertResponse,
    alert_condition::Kind,
};

use super::{id::Id, record::StateRecord};
use crate::{Decision, Explanation, Fire, Phase, SubjectValue};

/// The reader of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Its owner.
    Owner,
    /// A back end, to which the owner is named.
    BackEnd,
}

/// A stored rule as clients see it.
pub(crate) fn rule(
    rule: &AlertRule,
    state: &StateRecord,
    phase: Option<Phase>,
    audience: Audience,
) -> AlertRule {
    into_view(rule.clone(), state, phase, audience)
}

/// The same of a rule that is needed no more.
pub(crate) fn into_view(
    mut rule: AlertRule,
    state: &StateRecord,
    phase: Option<Phase>,
    audience: Audience,
) -> AlertRule {
    if audience == Audience::Owner {
        rule.user = None;
    }
    rule.set_state(phase.map_or(AlertState::Unspecified, |phase| match phase {
        // The server stores a stopped rule as disabled.
        Phase::Disabled if rule.stopped_reason.is_some() => AlertState::Stopped,
        phase => alert_state(phase),
    }));
    if state.fires > 0 {
        rule.fires = Some(state.fires);
        rule.last_fired_at = Some(state.last_fired_ms);
    }
    rule
}

fn alert_state(phase: Phase) -> AlertState {
    match phase {
        Phase::Pending => AlertState::Pending,
        Phase::Armed => AlertState::Armed,
        Phase::Firing => AlertState::Firing,
        Phase::Recovering => AlertState::Recovering,
        Phase::Cooldown => AlertState::Cooldown,
        Phase::Snoozed => AlertState::Snoozed,
        Phase::Expired => AlertState::Expired,
        Phase::Exhausted => AlertState::Exhausted,
        Phase::Disabled => AlertState::Disabled,
        Phase::Stopped => AlertState::Stopped,
    }
}

pub(crate) fn decimal(value: rust_decimal::Decimal) -> v1::Decimal {
    v1::Decimal {
        value: value.normalize().to_string(),
    }
}

/// The event of a fire.
pub(crate) fn event(id: Id, fire: &Fire, rule: AlertRule) -> AlertEvent {
    let tests = tests(&rule);
    let test = tests.get(usize::from(fire.test)).copied();
    let has_value = !matches!(test, Some(Kind::TransactionState(_)));
    let about = test.map(|test| about(test, fire.value)).unwrap_or_default();
    let sources = fire.sources.iter().flat_map(|names| names.iter());
    AlertEvent {
        alert_id: rule.id.clone(),
        value: has_value.then(|| decimal(fire.value)),
        previous: fire.previous.filter(|_| has_value).map(decimal),
        sources: sources.map(|name| name.to_string()).collect(),
        timestamp: fire.at.wall_ms,
        id: Some(id.to_string()),
        rule_version: Some(fire.version),
        retracted: false,
        threshold: fire.threshold.map(decimal),
        rule: Some(rule),
        ..about
    }
}

/// The event of a fire by hand, with the values of the explanation.
pub(crate) fn manual_event(
    id: Id,
    explained: Option<&Explanation>,
    threshold: Option<rust_decimal::Decimal>,
    rule: AlertRule,
    at_ms: i64,
) -> AlertEvent {
    let tests = tests(&rule);
    let test = tests.get(explained.map_or(0, |explained| explained.test));
    let current = explained.and_then(|explained| explained.current.as_ref());
    let value = explained.and_then(|explained| explained.value);
    let about = test.map_or_else(AlertEvent::default, |test| {
        about(
            test,
            current.map_or_else(Default::default, |current| current.value),
        )
    });
    let has_value = about.tx_hash.is_none();
    let sources = current.and_then(|current| current.sources.clone());
    AlertEvent {
        alert_id: rule.id.clone(),
        value: value.filter(|_| has_value).map(decimal),
        sources: sources
            .iter()
            .flat_map(|names| names.iter().map(|name| name.to_string()))
            .collect(),
        timestamp: at_ms,
        id: Some(id.to_string()),
        rule_version: rule.version,
        threshold: threshold.map(decimal),
        manual: true,
        rule: Some(rule),
        ..about
    }
}

/// An event that names what a test is about. `value` is the value of it.
fn about(test: &Kind, value: rust_decimal::Decimal) -> AlertEvent {
    let mut event = AlertEvent {
        symbol: symbol_of(test).map(str::to_owned),
        ..AlertEvent::default()
    };
    match test {
        Kind::PortfolioAbove(one)
        | Kind::PortfolioBelow(one)
        | Kind::PortfolioChange(one)
        | Kind::PortfolioDrawdown(one) => event.portfolio = Some(one.portfolio.clone()),
        Kind::GasAbove(one) | Kind::GasBelow(one) => event.chain = Some(one.chain),
        Kind::TransactionState(one) => {
            event.chain = Some(one.chain);
            event.tx_hash = Some(one.tx_hash.clone());
            event.state = i32::try_from(value).ok().filter(|state| *state != 0);
        }
        _ => {}
    }
    event
}

/// The test that an event is of.
pub(crate) fn test_of<'a>(rule: &'a AlertRule, event: &AlertEvent) -> Option<&'a Kind> {
    let tests = tests(rule);
    if let [one] = tests[..] {
        return Some(one);
    }
    let is_about = |kind: &&&Kind| {
        let one = about(kind, rust_decimal::Decimal::ZERO);
        (&one.symbol, &one.portfolio, one.chain, &one.tx_hash)
            == (&event.symbol, &event.portfolio, event.chain, &event.tx_hash)
    };
    let mut alike = tests.iter().filter(is_about);
    let has_threshold = |kind: &&&Kind| threshold_of(kind) == event.threshold.as_ref();
    let exact = alike.clone().find(has_threshold);
    exact.or_else(|| alike.next()).copied()
}

fn threshold_of(kind: &Kind) -> Option<&v1::Decimal> {
    match kind {
        Kind::PriceAbove(one) | Kind::PriceBelow(one) => one.threshold.as_ref(),
        Kind::PriceCrosses(one) => one.threshold.as_ref(),
        Kind::PortfolioAbove(one)
        | Kind::PortfolioBelow(one)
        | Kind::PortfolioChange(one)
        | Kind::PortfolioDrawdown(one) => one.threshold.as_ref(),
        _ => None,
    }
}

/// Walks the conditions that test a value.
fn walk<'a>(condition: Option<&'a v1::AlertCondition>, see: &mut dyn FnMut(&'a Kind)) {
    match condition.and_then(|condition| condition.kind.as_ref()) {
        Some(Kind::All(list) | Kind::Any(list)) => {
            list.conditions.iter().for_each(|one| walk(Some(one), see))
        }
        Some(kind) => see(kind),
        None => {}
    }
}

/// The conditions of a rule that test a value.
pub(crate) fn tests(rule: &AlertRule) -> Vec<&Kind> {
    let mut kinds = Vec::new();
    walk(rule.condition.as_ref(), &mut |kind| kinds.push(kind));
    kinds
}

pub(crate) fn symbol_of(kind: &Kind) -> Option<&str> {
    match kind {
        Kind::PriceAbove(one) | Kind::PriceBelow(one) => Some(&one.symbol),
        Kind::PriceCrosses(one) => Some(&one.symbol),
        Kind::PriceChannel(one) => Some(&one.symbol),
        Kind::PercentChange(one) => Some(&one.symbol),
        Kind::MovingAverageCross(one) => Some(&one.symbol),
        Kind::VolumeSpike(one) => Some(&one.symbol),
        Kind::PriceStale(one) => Some(&one.symbol),
        _ => None,
    }
}

/// Writes a condition in its canonical form: the names of symbols, so that the stored rule needs no
/// catalog, and each choice that may be left out, so that equal conditions are equal messages.
pub(crate) fn canonicalise(
    condition: Option<&mut v1::AlertCondition>,
    symbol: &dyn Fn(&str) -> Option<String>,
) {
    let Some(kind) = condition.and_then(|condition| condition.kind.as_mut()) else {
        return;
    };
    let name = match kind {
        Kind::PriceAbove(one) | Kind::PriceBelow(one) => {
            canonical_decimal(&mut one.threshold);
            canonical_distance(&mut one.hysteresis);
            &mut one.symbol
        }
        Kind::PriceCrosses(one) => {
            canonical_decimal(&mut one.threshold);
            canonical_distance(&mut one.hysteresis);
            canonical_direction(&mut one.direction);
            &mut one.symbol
        }
        Kind::PriceChannel(one) => {
            canonical_decimal(&mut one.low);
            canonical_decimal(&mut one.high);
            &mut one.symbol
        }
        Kind::PercentChange(one) => &mut one.symbol,
        Kind::MovingAverageCross(one) => {
            canonical_direction(&mut one.direction);
            &mut one.symbol
        }
        Kind::VolumeSpike(one) => &mut one.symbol,
        Kind::PriceStale(one) => &mut one.symbol,
        Kind::PortfolioAbove(one)
        | Kind::PortfolioBelow(one)
        | Kind::PortfolioChange(one)
        | Kind::PortfolioDrawdown(one) => return canonical_decimal(&mut one.threshold),
        Kind::TransactionState(one) => return one.tx_hash.make_ascii_lowercase(),
        Kind::All(list) | Kind::Any(list) => {
            for one in &mut list.conditions {
                canonicalise(Some(one), symbol);
            }
            return;
        }
        Kind::GasAbove(_) | Kind::GasBelow(_) => return,
    };
    if let Some(canonical) = symbol(name) {
        *name = canonical;
    }
}

/// Writes a repeat in its canonical form.
pub(crate) fn canonical_repeat(repeat: &mut v1::AlertRepeat) {
    use v1::alert_repeat::Repeat;
    if let None | Some(Repeat::Times(1)) = repeat.repeat {
        repeat.repeat = Some(Repeat::Once(v1::Unit {}));
    }
}

fn canonical_decimal(value: &mut Option<v1::Decimal>) {
    if let Some(value) = value
        && let Ok(canonical) = v1::Decimal::parse(&value.value)
    {
        *value = canonical;
    }
}

/// No distance is the same as one of 0.
fn canonical_distance(value: &mut Option<v1::Decimal>) {
    canonical_decimal(value);
    if value.as_ref().is_some_and(|value| value.value == "0") {
        *value = None;
    }
}

fn canonical_direction(direction: &mut i32) {
    if *direction == v1::CrossDirection::Unspecified as i32 {
        *direction = v1::CrossDirection::Either.into();
    }
}

fn tick(value: &SubjectValue, is_state: bool) -> AlertTick {
    let sources = value.sources.iter().flat_map(|names| names.iter());
    AlertTick {
        value: (!is_state).then(|| decimal(value.value)),
        timestamp: value.at.wall_ms,
        sources: sources.map(|name| name.to_string()).collect(),
    }
}

/// An explanation as clients see it.
pub(crate) fn explanation(explained: &Explanation, rule: AlertRule) -> ExplainAlertResponse {
    let test = tests(&rule).get(explained.test).copied();
    let is_state = matches!(test, Some(Kind::TransactionState(_)));
    let decision = match explained.decision {
        Decision::Unknown => AlertDecision::Unknown,
        Decision::NotMet => AlertDecision::NotMet,
        Decision::Fired => AlertDecision::Fired,
        Decision::Suppressed => AlertDecision::Suppressed,
    };
    let shown = |value: &SubjectValue| tick(value, is_state);
    ExplainAlertResponse {
        value: explained.value.filter(|_| !is_state).map(decimal),
        holds: explained.holds,
        reason: explained.reason.clone(),
        rule_version: Some(explained.version),
        previous_tick: explained.previous.as_ref().map(shown),
        tick: explained.current.as_ref().map(shown),
        decision: Some(decision.into()),
        rule: Some(rule),
    }
}
