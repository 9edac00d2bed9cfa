//! Configuration: the example of the documentation, and errors that name the key.

use tidewire_delivery::DeliveryConfig;
use tidewire_proto::v1::{Notification, NotificationType, Priority};

use crate::{SECRET, config, read_config};

fn refusal(toml: &str) -> String {
    match read_config(toml) {
        Ok(config) => config.check().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    }
}

fn webhook(keys: &str) -> String {
    format!(
        "[[webhook]]\nname = \"ops\"\nurl = \"https://example.com/\"\nsecrets = [\"{SECRET}\"]\n{keys}"
    )
}

fn email(keys: &str) -> String {
    format!(
        "[email]\nhost = \"smtp.example.com\"\nfrom = \"Tidewire <notify@example.com>\"\n\
         unsubscribe_url = \"https://app.example.com/unsubscribe\"\n\
         unsubscribe_secrets = [\"{}\"]\n{keys}",
        "s".repeat(32)
    )
}

#[test]
fn every_channel_is_off_by_default() {
    let default = DeliveryConfig::default();
    assert!(default.webhook.is_empty() && default.push.is_none() && default.email.is_none());
    assert_eq!(config(""), default);
    default.check().unwrap();
}

#[test]
fn the_documented_example_is_accepted() {
    let page = include_str!("../../../../docs/delivery.md");
    let example = page.split("```toml\n").nth(1).unwrap();
    let example = example.split("```").next().unwrap();
    let example = example
        .replace("[delivery]", "")
        .replace("[delivery.", "[")
        .replace("[[delivery.", "[[");
    let config = config(&example);
    config.check().unwrap_or_else(|error| panic!("{error}"));
    assert!(config.webhook.len() > 1 && config.push.is_some() && config.email.is_some());
}

#[test]
fn an_error_names_the_key() {
    for (toml, expected) in [
        (
            "timeout = \"0s\"",
            "`delivery.timeout`: 0s, expected 1s to 30s",
        ),
        ("max_age = \"1y\"", "`delivery.max_age`: "),
        ("attempts = 0", "`delivery.attempts`: 0, expected 1 to 1000"),
        (
            "in_flight = 0",
            "`delivery.in_flight`: 0, expected 1 to 10000",
        ),
        (
            "first_pause = \"10m\"\nlongest_pause = \"1m\"",
            "`delivery.first_pause`: 10m, expected at most delivery.longest_pause (1m)",
        ),
        (
            "ca_file = \"/nowhere.pem\"",
            "`delivery.ca_file`: /nowhere.pem: ",
        ),
    ] {
        let found = refusal(toml);
        assert!(found.starts_with(expected), "{toml}: {found}");
    }
    for (keys, expected) in [
        ("template = \"telegram\"", "chat_id`: missing"),
        ("chat_id = \"1\"", "chat_id`: set, expected only with"),
        (
            "priorities = [\"loud\"]",
            "priorities`: \"loud\", expected one of low, medium, ",
        ),
        ("concurrency = 0", "concurrency`: 0, expected 1 to 100"),
        ("rate = 1000000", "rate`: 1000000, expected 0 to 10000"),
    ] {
        let found = refusal(&webhook(keys));
        let expected = format!("`delivery.webhook \"ops\" {expected}");
        assert!(found.starts_with(&expected), "{keys}: {found}");
    }
    let twice = format!("{}{}", webhook(""), webhook(""));
    assert!(refusal(&twice).starts_with("`delivery.webhook.name`: \"ops\" twice"));
    let unsigned = webhook("").replace(&format!("\"{SECRET}\""), "");
    assert!(refusal(&unsigned).starts_with("`delivery.webhook \"ops\" secrets`: empty"));
    let name = webhook("").replace("\"ops\"", "\"o p s\"");
    assert!(refusal(&name).starts_with("`delivery.webhook.name`: \"o p s\""));
    for (from, to, expected) in [
        ("smtp.example.com", "", "`delivery.email.host`: empty"),
        (
            "Tidewire <notify@example.com>",
            "Tidewire",
            "`delivery.email.from`: \"Tidewire\"",
        ),
        (
            "https://app",
            "http://app",
            "`delivery.email.unsubscribe_url`: \"http://app",
        ),
        (
            "ssss",
            "",
            "`delivery.email.unsubscribe_secrets`: a secret of 0 bytes",
        ),
    ] {
        let found = refusal(&email("").replace(from, to));
        assert!(found.starts_with(expected), "{found}");
    }
    for (keys, expected) in [
        ("username = \"a\"", "`delivery.email.password`: missing"),
        ("password = \"a\"", "`delivery.email.username`: missing"),
        (
            "encryption = \"none\"\nusername = \"a\"\npassword = \"b\"",
            "`delivery.email.encryption`: none, expected `starttls` or `tls`",
        ),
        ("reply_to = \"x\"", "`delivery.email.reply_to`: \"x\""),
        (
            "ca_file = \"/nowhere.pem\"",
            "`delivery.email.ca_file`: /nowhere.pem",
        ),
    ] {
        let found = refusal(&email(keys));
        assert!(found.starts_with(expected), "{keys}: {found}");
    }
    let push = "[push]\nvapid_private_key = \"x\"\nsubject = \"mailto:root@localhost\"";
    assert!(refusal(push).starts_with("`delivery.push.vapid_private_key`: "));
    let push = push.replace("\"x\"", "\"yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw\"");
    assert!(refusal(&push).starts_with("`delivery.push.subject`: \"mailto:root@localhost\""));
    for unknown in ["speed = 1", &webhook("speed = 1"), &email("speed = 1")] {
        assert!(
            refusal(unknown).contains("unknown field: found `speed`"),
            "{}",
            refusal(unknown)
        );
    }
}

#[test]
fn secrets_are_in_no_debug_text() {
    let config = config(&format!(
        "{}{}",
        webhook(""),
        email("username = \"a\"\npassword = \"hunter2\"")
    ));
    let debug = format!("{config:?}");
    for secret in [SECRET, "hunter2", "ssss", "https://example.com"] {
        assert!(!debug.contains(secret), "{debug}");
    }
}

#[test]
fn a_webhook_may_select_types_and_priorities() {
    let matches = |keys: &str, kind: NotificationType, priority: Priority| {
        let notification = Notification {
            r#type: kind.into(),
            priority: priority.into(),
            ..Notification::default()
        };
        config(&webhook(keys)).webhook[0].matches(&notification)
    };
    let (alert, payment) = (
        NotificationType::PriceAlert,
        NotificationType::PaymentReceived,
    );
    assert!(matches("", alert, Priority::Low));
    let keys = "types = [\"price_alert\"]\npriorities = [\"high\", \"urgent\"]";
    assert!(matches(keys, alert, Priority::High));
    assert!(!matches(keys, alert, Priority::Low) && !matches(keys, payment, Priority::High));
}
