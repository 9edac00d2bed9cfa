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
    let mut shown = rule.clone();
    if audience == Audience::Owner {
        shown.user = None;
    }
    shown.set_state(phase.map_or(AlertState::Unspecified, |phase| match phase {
        // The server stores a stopped rule as disabled.
        Phase::Disabled if rule.stopped_reason.is_some() => AlertState::Stopped,
        phase => alert_state(phase),
    }));
    if state.fires > 0 {
        shown.fires = Some(state.fires);
        shown.last_fired_at = Some(state.last_fired_ms);
    }
    shown
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
    let has_value = !is_about_transactions(&rule);
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
        symbol: only_symbol(&rule),
        threshold: fire.threshold.map(decimal),
        manual: false,
        rule: Some(rule),
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

fn is_about_transactions(rule: &AlertRule) -> bool {
    let kinds = tests(rule);
    kinds
        .iter()
        .all(|kind| matches!(kind, Kind::TransactionState(_)))
}

/// The symbol of a rule that is about one symbol alone.
fn only_symbol(rule: &AlertRule) -> Option<String> {
    let mut symbols = tests(rule).into_iter().map(symbol_of);
    let first = symbols.next().flatten()?;
    symbols
        .all(|symbol| symbol == Some(first))
        .then(|| first.to_owned())
}

/// Writes the names of symbols and the hashes in their canonical form, so that the stored rule needs
/// no catalog.
pub(crate) fn canonicalise(
    condition: Option<&mut v1::AlertCondition>,
    symbol: &dyn Fn(&str) -> Option<String>,
) {
    let Some(kind) = condition.and_then(|condition| condition.kind.as_mut()) else {
        return;
    };
    let name = match kind {
        Kind::PriceAbove(one) | Kind::PriceBelow(one) => &mut one.symbol,
        Kind::PriceCrosses(one) => &mut one.symbol,
        Kind::PriceChannel(one) => &mut one.symbol,
        Kind::PercentChange(one) => &mut one.symbol,
        Kind::MovingAverageCross(one) => &mut one.symbol,
        Kind::VolumeSpike(one) => &mut one.symbol,
        Kind::PriceStale(one) => &mut one.symbol,
        Kind::TransactionState(one) => return one.tx_hash.make_ascii_lowercase(),
        Kind::All(list) | Kind::Any(list) => {
            for one in &mut list.conditions {
                canonicalise(Some(one), symbol);
            }
            return;
        }
        _ => return,
    };
    if let Some(canonical) = symbol(name) {
        *name = canonical;
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
    let is_state = is_about_transactions(&rule);
    let decision = match explained.decision {
        Decision::Unknown => AlertDecision::Unknown,
        Decision::False => AlertDecision::NotMet,
        Decision::True => AlertDecision::Fired,
        Decision::Deferred | Decision::NotJudged => AlertDecision::Suppressed,
    };
    let shown = |value: &SubjectValue| tick(value, is_state);
    ExplainAlertResponse {
        value: explained.value.filter(|_| !is_state).map(decimal),
        holds: matches!(explained.decision, Decision::True | Decision::Deferred),
        reason: explained.reason.clone(),
        rule_version: Some(explained.version),
        previous_tick: explained.previous.as_ref().map(shown),
        tick: explained.current.as_ref().map(shown),
        decision: Some(decision.into()),
        rule: Some(rule),
    }
}
