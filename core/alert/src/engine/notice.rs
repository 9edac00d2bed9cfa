//! Notices: the notifications of fires, retractions, stops and summaries.
//!
//! A notice is made of its stored row alone, so that repeating it after a crash gives the same
//! request, which the hub's idempotency key then makes one notification.

use tidewire_proto::v1::{
    AlertEvent, AlertRule, Notification, NotificationType, NotifyRequest, Priority,
    TransactionState, alert_condition::Kind,
};

use super::{
    record::{OutgoingKind, OutgoingRecord},
    view,
};
use crate::{Decimal, Template, TemplateFields};

/// Longest title, in bytes.
const TITLE_BYTES: usize = 200;

/// The request to notify of an outgoing row. None if the row has no event.
pub(crate) fn request(record: &OutgoingRecord) -> Option<NotifyRequest> {
    let event = record.event.as_ref()?;
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
                "The alert was stopped, since {}. {}",
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
        OutgoingKind::Fire | OutgoingKind::Retraction => type_of(rule),
        OutgoingKind::Summary => NotificationType::PriceAlert,
    });
    notification.set_priority(match rule.priority() {
        Priority::Unspecified => Priority::Medium,
        priority => priority,
    });
    Some(NotifyRequest {
        user: Some(record.user.clone()),
        notification: Some(notification),
        idempotency_key: Some(key),
        ..NotifyRequest::default()
    })
}

fn dropped(count: u64) -> String {
    match count {
        0 => "Enable it again once it is changed.".to_owned(),
        1 => "One fire was dropped. Enable it again once it is changed.".to_owned(),
        count => format!("{count} fires were dropped. Enable it again once it is changed."),
    }
}

/// The type of a rule's notifications.
fn type_of(rule: &AlertRule) -> NotificationType {
    let tests = view::tests(rule);
    let [Kind::TransactionState(one)] = tests[..] else {
        return NotificationType::PriceAlert;
    };
    match one.state() {
        TransactionState::Confirming
        | TransactionState::Confirmed
        | TransactionState::Finalized => NotificationType::TransactionConfirmed,
        TransactionState::Failed
        | TransactionState::Replaced
        | TransactionState::Cancelled
        | TransactionState::Dropped => NotificationType::TransactionFailed,
        _ => NotificationType::PriceAlert,
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

/// The condition in words.
fn describe(rule: &AlertRule, event: &AlertEvent) -> String {
    let tests = view::tests(rule);
    let [one] = tests[..] else {
        return match &event.symbol {
            Some(symbol) => format!("{symbol}: several conditions"),
            None => "Several conditions".to_owned(),
        };
    };
    match one {
        Kind::PriceAbove(one) => format!("{} above {}", one.symbol, number(one.threshold.as_ref())),
        Kind::PriceBelow(one) => format!("{} below {}", one.symbol, number(one.threshold.as_ref())),
        Kind::PriceCrosses(one) => {
            format!("{} crosses {}", one.symbol, number(one.threshold.as_ref()))
        }
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
        Kind::PercentChange(one) => format!("{} changes by {} %", one.symbol, one.percent),
        Kind::MovingAverageCross(one) => format!("{}: averages cross", one.symbol),
        Kind::VolumeSpike(one) => {
            format!("{}: volume is {} times as usual", one.symbol, one.multiple)
        }
        Kind::PriceStale(one) => format!("{} has no new price", one.symbol),
        Kind::PortfolioAbove(one) => {
            format!("{} above {}", one.portfolio, number(one.threshold.as_ref()))
        }
        Kind::PortfolioBelow(one) => {
            format!("{} below {}", one.portfolio, number(one.threshold.as_ref()))
        }
        Kind::PortfolioChange(one) => format!("{} changed", one.portfolio),
        Kind::PortfolioDrawdown(one) => format!("{} fell from its highest value", one.portfolio),
        Kind::GasAbove(one) => format!("Gas of chain {} above {} gwei", one.chain, one.gwei),
        Kind::GasBelow(one) => format!("Gas of chain {} below {} gwei", one.chain, one.gwei),
        Kind::TransactionState(one) => {
            let state = one.state().as_str_name();
            let state = state.strip_prefix("TRANSACTION_STATE_").unwrap_or(state);
            format!("Transaction {}", state.to_ascii_lowercase())
        }
        Kind::All(_) | Kind::Any(_) => "Several conditions".to_owned(),
    }
}

fn exact(text: Option<&str>) -> Option<Decimal> {
    text.and_then(|text| Decimal::from_str_exact(text).ok())
}

/// The rule's template with its values, or a text made of the condition.
fn body(rule: &AlertRule, record: &OutgoingRecord, event: &AlertEvent) -> String {
    let value = |value: &Option<tidewire_proto::v1::Decimal>| {
        exact(value.as_ref().map(|value| value.value.as_str()))
    };
    let tests = view::tests(rule);
    let (mut chain, mut portfolio, mut transaction) = (None, None, None);
    for one in tests {
        match one {
            Kind::PortfolioAbove(one)
            | Kind::PortfolioBelow(one)
            | Kind::PortfolioChange(one)
            | Kind::PortfolioDrawdown(one) => portfolio = Some(one.portfolio.as_str()),
            Kind::GasAbove(one) | Kind::GasBelow(one) => chain = Some(one.chain),
            Kind::TransactionState(one) => {
                chain = Some(one.chain);
                transaction = Some(one.tx_hash.as_str());
            }
            _ => {}
        }
    }
    let time = event.timestamp.to_string();
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
            chain,
            portfolio,
            transaction,
        });
    }
    if event.manual {
        return "The alert was fired by hand.".to_owned();
    }
    match (&event.symbol, price, transaction) {
        (Some(symbol), Some(price), _) => format!("{symbol} is at {price}."),
        (_, _, Some(hash)) => format!("{}: {hash}", describe(rule, event)),
        _ => match &event.value {
            Some(value) => format!("{}: {}.", describe(rule, event), value.value),
            None => format!("{}.", describe(rule, event)),
        },
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
            })),
        };
        let rule = AlertRule {
            id: "r".into(),
            condition: Some(condition),
            template: template.map(str::to_owned),
            ..AlertRule::default()
        };
        OutgoingRecord {
            user: "ada".into(),
            kind: kind.into(),
            event: Some(AlertEvent {
                alert_id: "r".into(),
                id: Some("f".into()),
                rule: Some(rule),
                value: decimal("3.01"),
                threshold: decimal("0.00000000172"),
                symbol: Some("BTC-USD".into()),
                sources: vec!["a\"b".into()],
                timestamp: 7,
                ..AlertEvent::default()
            }),
            count: 0,
            price: Some("3.01".into()),
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
