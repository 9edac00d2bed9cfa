//! Notices: the notifications of fires, retractions, stops and summaries.
//!
//! A notice is made of its stored row alone, so that repeating it after a crash gives the same
//! request, which the hub's idempotency key then makes one notification.

use tidewire_proto::v1::{
    AlertEvent, AlertRule, CrossDirection, Notification, NotificationType, NotifyRequest,
    PortfolioCondition, Priority, TransactionState, alert_condition::Kind,
};

use super::{
    record::{OutgoingKind, OutgoingRecord},
    view,
};
use crate::{Decimal, Template, TemplateFields, subject::state_name};

/// Longest title, in bytes.
const TITLE_BYTES: usize = 200;

/// The request to notify of an outgoing row. None if the row has no event.
pub(crate) fn request(record: &OutgoingRecord) -> Option<NotifyRequest> {
    let event = &record.event()?;
    let rule = event.rule.as_ref()?;
    let id = event.id.as_deref()?;
    let kind = OutgoingKind::try_from(record.kind).ok()?;
    let (title, body) = match kind {
        OutgoingKind::Fire => (title(rule, event), body(rule, record, event)),
        OutgoingKind::Retraction => (
            format!("Taken back: {}", title(rule, event)),
            "A reorganisation of the chain removed the transaction from its block. The alert before this one no longer holds.".to_owned(),
        ),
        OutgoingKind::Stop => (
            format!("Alert stopped: {}", name(rule, event)),
            format!(
                "The alert was stopped, since {}.{}",
                rule.stopped_reason(),
                dropped(record.count)
            ),
        ),
        OutgoingKind::Vanish => (
            format!("No prices any more: {}", name(rule, event)),
            "This server has no source for the symbol of this alert any more. The alert waits, and does not fire.".to_owned(),
        ),
        OutgoingKind::Summary => (
            match record.count {
                1 => "One more alert fired".to_owned(),
                count => format!("{count} more alerts fired"),
            },
            "More alerts fired within a minute than have a notification each. The log of alerts lists all.".to_owned(),
        ),
    };
    let (key, collapse) = match kind {
        OutgoingKind::Retraction => (format!("alert:{id}:retracted"), Some(format!("alert:{id}"))),
        OutgoingKind::Fire => (format!("alert:{id}"), Some(format!("alert:{id}"))),
        OutgoingKind::Stop | OutgoingKind::Vanish | OutgoingKind::Summary => {
            (format!("alert:{id}:notice"), None)
        }
    };
    let mut notification = Notification {
        title: one_line(&title),
        body,
        data: data(record, event).into(),
        collapse_key: collapse,
        ..Notification::default()
    };
    notification.set_type(match kind {
        OutgoingKind::Stop | OutgoingKind::Vanish => NotificationType::SystemAnnouncement,
        // The fires of a summary are all of one type and one priority.
        OutgoingKind::Fire | OutgoingKind::Retraction | OutgoingKind::Summary => {
            type_of(rule, event)
        }
    });
    notification.set_priority(priority_of(rule));
    Some(NotifyRequest {
        user: Some(record.user.clone()),
        notification: Some(notification),
        idempotency_key: Some(key),
        ..NotifyRequest::default()
    })
}

fn dropped(count: u64) -> String {
    match count {
        0 => String::new(),
        1 => " One fire was dropped.".to_owned(),
        count => format!(" {count} fires were dropped."),
    }
}

/// The priority of a rule's notifications.
pub(super) fn priority_of(rule: &AlertRule) -> Priority {
    match rule.priority() {
        Priority::Unspecified => Priority::Medium,
        priority => priority,
    }
}

/// The type of an event's notification. The exact state of a transaction is in its data.
pub(super) fn type_of(rule: &AlertRule, event: &AlertEvent) -> NotificationType {
    let Some(Kind::TransactionState(one)) = view::test_of(rule, event) else {
        return NotificationType::PriceAlert;
    };
    match one.state() {
        TransactionState::Failed
        | TransactionState::Replaced
        | TransactionState::Cancelled
        | TransactionState::Dropped => NotificationType::TransactionFailed,
        _ => NotificationType::TransactionConfirmed,
    }
}

/// A text without line breaks and control characters, cut to the length of a title.
fn one_line(text: &str) -> String {
    let mut line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    line.truncate(line.floor_char_boundary(TITLE_BYTES));
    match line.trim() {
        "" => "Alert".to_owned(),
        line => line.to_owned(),
    }
}

/// The rule's own name, or a name made of its condition.
fn name(rule: &AlertRule, event: &AlertEvent) -> String {
    match rule.name.as_deref().map(str::trim) {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => describe(rule, event),
    }
}

fn title(rule: &AlertRule, event: &AlertEvent) -> String {
    name(rule, event)
}

fn number(value: Option<&tidewire_proto::v1::Decimal>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.value.clone())
}

/// The condition in words: of several, the one that the event is of.
fn describe(rule: &AlertRule, event: &AlertEvent) -> String {
    let several = match rule.condition.as_ref().and_then(|one| one.kind.as_ref()) {
        Some(Kind::All(_)) => " and other conditions",
        _ => "",
    };
    match view::test_of(rule, event) {
        Some(one) => format!("{}{several}", describe_test(one)),
        None => "Several conditions".to_owned(),
    }
}

fn describe_test(one: &Kind) -> String {
    match one {
        Kind::PriceAbove(one) => format!("{} above {}", one.symbol, number(one.threshold.as_ref())),
        Kind::PriceBelow(one) => format!("{} below {}", one.symbol, number(one.threshold.as_ref())),
        Kind::PriceCrosses(one) => format!(
            "{} crosses {}{}",
            one.symbol,
            number(one.threshold.as_ref()),
            match one.direction() {
                CrossDirection::Up => " upwards",
                CrossDirection::Down => " downwards",
                _ => "",
            }
        ),
        Kind::PriceChannel(one) => format!(
            "{} {} {} to {}",
            one.symbol,
            match one.on() {
                tidewire_proto::v1::ChannelEdge::Exit => "leaves",
                _ => "enters",
            },
            number(one.low.as_ref()),
            number(one.high.as_ref())
        ),
        Kind::PercentChange(one) => format!(
            "{} changes by {} % within {}",
            one.symbol,
            one.percent,
            duration(one.window_ms)
        ),
        Kind::MovingAverageCross(one) => format!(
            "{}: the average over {} crosses that over {}",
            one.symbol,
            duration(one.fast_ms),
            duration(one.slow_ms)
        ),
        Kind::VolumeSpike(one) => {
            format!("{}: volume is {} times as usual", one.symbol, one.multiple)
        }
        Kind::PriceStale(one) => {
            format!(
                "{} has no new price for {}",
                one.symbol,
                duration(one.after_ms)
            )
        }
        Kind::PortfolioAbove(one) => {
            format!("{} above {}", one.portfolio, number(one.threshold.as_ref()))
        }
        Kind::PortfolioBelow(one) => {
            format!("{} below {}", one.portfolio, number(one.threshold.as_ref()))
        }
        Kind::PortfolioChange(one) => format!(
            "{} changed by {} within {}",
            one.portfolio,
            amount(one),
            duration(one.window_ms())
        ),
        Kind::PortfolioDrawdown(one) => {
            format!(
                "{} fell by {} from its highest value",
                one.portfolio,
                amount(one)
            )
        }
        Kind::GasAbove(one) => format!("Gas of chain {} above {} gwei", one.chain, one.gwei),
        Kind::GasBelow(one) => format!("Gas of chain {} below {} gwei", one.chain, one.gwei),
        Kind::TransactionState(one) => format!("Transaction {}", state_name(one.state())),
        Kind::All(_) | Kind::Any(_) => "Several conditions".to_owned(),
    }
}

/// The amount of a portfolio's change or fall.
fn amount(one: &PortfolioCondition) -> String {
    match one.percent {
        Some(percent) => format!("{percent} %"),
        None => number(one.threshold.as_ref()),
    }
}

/// A window in the largest unit that divides it.
fn duration(milliseconds: u64) -> String {
    const UNITS: [(u64, &str); 4] = [
        (86_400_000, "d"),
        (3_600_000, "h"),
        (60_000, "min"),
        (1_000, "s"),
    ];
    let fits = |(unit, _): &&(u64, &str)| milliseconds > 0 && milliseconds.is_multiple_of(*unit);
    match UNITS.iter().find(fits) {
        Some((unit, name)) => format!("{} {name}", milliseconds / unit),
        None => format!("{milliseconds} ms"),
    }
}

/// The value that the test compared, in words. None for a plain price.
fn measure(test: &Kind, value: Decimal) -> Option<String> {
    // People read two digits; the data have all.
    let short = value.round_dp(2).normalize();
    Some(match test {
        Kind::PercentChange(one) => {
            format!(
                "It changed by {short} % within {}.",
                duration(one.window_ms)
            )
        }
        Kind::MovingAverageCross(_) => {
            format!(
                "Its fast average minus its slow one is {}.",
                value.normalize()
            )
        }
        Kind::VolumeSpike(_) => format!("Its volume is {short} times the usual one."),
        Kind::PriceStale(one) => {
            let seconds = (value / Decimal::ONE_THOUSAND).round_dp(0).normalize();
            format!("{} had no new price for {seconds} s.", one.symbol)
        }
        Kind::PortfolioAbove(one) | Kind::PortfolioBelow(one) => {
            format!("{} is worth {}.", one.portfolio, value.normalize())
        }
        Kind::PortfolioChange(one) => match one.percent {
            Some(_) => format!("{} changed by {short} %.", one.portfolio),
            None => format!("{} changed by {}.", one.portfolio, value.normalize()),
        },
        Kind::PortfolioDrawdown(one) => match one.percent {
            Some(_) => format!("{} is {short} % below its highest value.", one.portfolio),
            None => format!(
                "{} is {} below its highest value.",
                one.portfolio,
                value.normalize()
            ),
        },
        Kind::GasAbove(one) | Kind::GasBelow(one) => {
            format!(
                "Gas of chain {} is at {} gwei.",
                one.chain,
                value.normalize()
            )
        }
        _ => return None,
    })
}

fn exact(text: Option<&str>) -> Option<Decimal> {
    text.and_then(|text| Decimal::from_str_exact(text).ok())
}

/// The rule's template with its values, or a text made of the condition.
fn body(rule: &AlertRule, record: &OutgoingRecord, event: &AlertEvent) -> String {
    let value = |value: &Option<tidewire_proto::v1::Decimal>| {
        exact(value.as_ref().map(|value| value.value.as_str()))
    };
    let time = event.timestamp.to_string();
    let state = event.state.map(|_| state_name(event.state()));
    let price = exact(record.price.as_deref()).filter(|_| event.symbol.is_some());
    if let Some(template) = &rule.template
        && let Ok(template) = Template::parse(template)
    {
        return template.render(&TemplateFields {
            name: rule.name.as_deref(),
            symbol: event.symbol.as_deref(),
            price,
            value: value(&event.value),
            previous: value(&event.previous),
            threshold: value(&event.threshold),
            time: Some(&time),
            chain: event.chain,
            portfolio: event.portfolio.as_deref(),
            transaction: event.tx_hash.as_deref(),
            state: state.as_deref(),
        });
    }
    if event.manual {
        return "The alert was fired by hand.".to_owned();
    }
    let test = view::test_of(rule, event);
    let measure = test
        .zip(value(&event.value))
        .and_then(|(test, value)| measure(test, value));
    match (&event.symbol, price, &event.tx_hash, measure) {
        (Some(symbol), Some(price), _, Some(measure)) => {
            format!("{symbol} is at {price}. {measure}")
        }
        (Some(symbol), Some(price), _, None) => format!("{symbol} is at {price}."),
        (_, _, Some(hash), _) => format!("{}: {hash}", describe(rule, event)),
        (_, _, _, Some(measure)) => measure,
        _ => format!("{}.", describe(rule, event)),
    }
}

/// A JSON object, written field by field so that decimals stay exact.
struct Object(String);

impl Object {
    fn new() -> Self {
        Self("{".to_owned())
    }

    /// Adds a field whose value is JSON already.
    fn raw(&mut self, name: &str, json: &str) {
        if self.0.len() > 1 {
            self.0.push(',');
        }
        self.0.push_str(&quoted(name));
        self.0.push(':');
        self.0.push_str(json);
    }

    fn text(&mut self, name: &str, text: &str) {
        self.raw(name, &quoted(text));
    }

    fn decimal(&mut self, name: &str, value: Option<&tidewire_proto::v1::Decimal>) {
        if let Some(value) = value {
            self.raw(name, &value.value);
        }
    }

    fn end(mut self) -> Vec<u8> {
        self.0.push('}');
        self.0.into_bytes()
    }
}

fn quoted(text: &str) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() && (c as u32) < 0x20 => {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn data(record: &OutgoingRecord, event: &AlertEvent) -> Vec<u8> {
    let mut object = Object::new();
    object.text("alertId", &event.alert_id);
    if let Some(id) = &event.id {
        object.text("fireId", id);
    }
    if let Some(version) = event.rule_version {
        object.raw("ruleVersion", &version.to_string());
    }
    if let Some(symbol) = &event.symbol {
        object.text("symbol", symbol);
        if let Some(price) = &record.price {
            object.raw("price", price);
        }
    }
    if let Some(portfolio) = &event.portfolio {
        object.text("portfolio", portfolio);
    }
    if let Some(chain) = event.chain {
        object.raw("chain", &chain.to_string());
    }
    if let Some(hash) = &event.tx_hash {
        object.text("txHash", hash);
    }
    if event.state.is_some() {
        object.text("state", &state_name(event.state()));
    }
    object.decimal("value", event.value.as_ref());
    object.decimal("previous", event.previous.as_ref());
    object.decimal("threshold", event.threshold.as_ref());
    object.raw("time", &event.timestamp.to_string());
    let sources: Vec<_> = event.sources.iter().map(|name| quoted(name)).collect();
    object.raw("sources", &format!("[{}]", sources.join(",")));
    if event.retracted {
        object.raw("retracted", "true");
    }
    if event.manual {
        object.raw("manual", "true");
    }
    if record.count > 0 {
        object.raw("count", &record.count.to_string());
    }
    object.end()
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use tidewire_proto::v1::{AlertCondition, PriceThreshold};

    use super::*;

    fn decimal(text: &str) -> Option<tidewire_proto::v1::Decimal> {
        Some(tidewire_proto::v1::Decimal { value: text.into() })
    }

    fn record(kind: OutgoingKind, template: Option<&str>) -> OutgoingRecord {
        let condition = AlertCondition {
            kind: Some(Kind::PriceAbove(PriceThreshold {
                symbol: "BTC-USD".into(),
                threshold: decimal("0.00000000172"),
                hysteresis: None,
            })),
        };
        let rule = AlertRule {
            id: "r".into(),
            condition: Some(condition),
            template: template.map(str::to_owned),
            ..AlertRule::default()
        };
        let event = AlertEvent {
            alert_id: "r".into(),
            id: Some("f".into()),
            rule: Some(rule),
            value: decimal("3.01"),
            threshold: decimal("0.00000000172"),
            symbol: Some("BTC-USD".into()),
            sources: vec!["a\"b".into()],
            timestamp: 7,
            ..AlertEvent::default()
        };
        OutgoingRecord {
            user: "ada".into(),
            kind: kind.into(),
            event: event.encode_to_vec(),
            price: Some("3.01".into()),
            ..OutgoingRecord::default()
        }
    }

    fn notification(record: &OutgoingRecord) -> Notification {
        request(record).unwrap().notification.unwrap()
    }

    #[test]
    fn a_fire_has_a_text_and_exact_data() {
        let plain = notification(&record(OutgoingKind::Fire, None));
        assert_eq!(plain.title, "BTC-USD above 0.00000000172");
        assert_eq!(plain.body, "BTC-USD is at 3.01.");
        assert_eq!(
            String::from_utf8(plain.data.to_vec()).unwrap(),
            r#"{"alertId":"r","fireId":"f","symbol":"BTC-USD","price":3.01,"value":3.01,"threshold":0.00000000172,"time":7,"sources":["a\"b"]}"#
        );
        let own = notification(&record(
            OutgoingKind::Fire,
            Some("{symbol}: {price} of {threshold}"),
        ));
        assert_eq!(own.body, "BTC-USD: 3.01 of 0.00000000172");
        assert_eq!(own.r#type(), NotificationType::PriceAlert);
        assert_eq!(own.priority(), Priority::Medium);
    }

    #[test]
    fn a_retraction_replaces_its_fire() {
        let fire = request(&record(OutgoingKind::Fire, None)).unwrap();
        let back = request(&record(OutgoingKind::Retraction, None)).unwrap();
        assert_ne!(fire.idempotency_key, back.idempotency_key);
        let key = |request: NotifyRequest| request.notification.unwrap().collapse_key;
        assert_eq!(key(fire), key(back));
    }

    #[test]
    fn a_title_is_one_line() {
        assert_eq!(one_line("a\nb\u{7}"), "a b");
        assert_eq!(one_line(" \n "), "Alert");
        assert!(one_line(&"é".repeat(500)).len() <= TITLE_BYTES);
    }
}
