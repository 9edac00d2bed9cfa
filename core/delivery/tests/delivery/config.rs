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

/// The tables of the documentation, which a reader copies.
fn documented_example() -> String {
    let page = include_str!("../../../../docs/delivery.md");
    let mut tables = page.split("```toml\n").map(|rest| rest.split("```").next());
    let example = tables.find_map(|text| text.filter(|text| text.starts_with("[delivery]\n")));
    let example = example.unwrap();
    let example = example.replace("[delivery]", "");
    let example = example.replace("[delivery.", "[");
    example.replace("[[delivery.", "[[")
}

#[test]
fn the_documented_example_is_accepted_with_secrets_of_its_reader() {
    let secrets = [
        ("whsec_…", SECRET, "`delivery.webhook \"orders\" secrets`"),
        (
            "vapid_private_key = \"…\"",
            "vapid_private_key = \"yfWPiYE-n46HLnH0KqZOF1fJJU3MYrct3AELtAQ-oRw\"",
            "`delivery.push.vapid_private_key`",
        ),
        (
            "password = \"…\"",
            "password = \"a\"",
            "`delivery.email.password`",
        ),
        (
            "unsubscribe_secrets = [\"…\"]",
            "unsubscribe_secrets = [\"0123456789abcdef0123456789abcdef\"]",
            "`delivery.email.unsubscribe_secrets`",
        ),
    ];
    let mut example = documented_example();
    for (placeholder, own, _) in secrets {
        assert!(example.contains(placeholder), "{placeholder}: {example}");
        example = example.replace(placeholder, own);
    }
    let whole = config(&example);
    whole.check().unwrap_or_else(|error| panic!("{error}"));
    assert!(whole.webhook.len() > 1 && whole.push.is_some() && whole.email.is_some());
    // A placeholder that is left is refused by the name of its key.
    for (placeholder, own, key) in secrets {
        let found = refusal(&example.replace(own, placeholder));
        assert!(found.starts_with(key), "{placeholder}: {found}");
    }
}

/// The tables to try a channel on this machine.
#[test]
fn the_other_documented_tables_are_accepted_too() {
    let page = include_str!("../../../../docs/delivery.md");
    let tables = page.split("```toml\n").skip(1);
    let tables = tables.filter_map(|rest| rest.split("```").next());
    let others: Vec<_> = tables
        .filter(|text| !text.contains("[delivery]\n"))
        .collect();
    assert_eq!(others.len(), 2);
    for table in others {
        let own = table
            .replace("whsec_…", SECRET)
            .replace('…', &"s".repeat(32));
        let own = own.replace("[delivery.", "[").replace("[[delivery.", "[[");
        config(&own)
            .check()
            .unwrap_or_else(|error| panic!("{error}"));
    }
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
        (
            "ssss",
            "32 bytes at least: openssl rand -base64 32 ",
            "`delivery.email.unsubscribe_secrets`: the command in place of its output",
        ),
    ] {
        let found = refusal(&email("").replace(from, to));
        assert!(found.starts_with(expected), "{found}");
    }
    for (keys, expected) in [
        ("username = \"a\"", "`delivery.email.password`: missing"),
        ("password = \"a\"", "`delivery.email.username`: missing"),
        (
            "username = \"a\"\npassword = \"…\"",
            "`delivery.email.password`: a placeholder",
        ),
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
