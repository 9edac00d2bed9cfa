//! Tests of the senders against real receivers: HTTP servers, a push service that decrypts, SMTP
//! servers. All are on local ports.
//!
//! Receivers in Node come from `tests/tools`: `npm install` there installs their libraries.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod config;
mod dispatcher;
mod email;
mod guard;
mod http_server;
mod node;
mod smtp_server;
mod web_push;
mod webhook;

use tidewire_delivery::{DeliveryConfig, MessageId, OutgoingMessage, Secret};
use tidewire_proto::v1::{Notification, NotificationType, Priority};
use tidewire_stream::UserId;

/// A signing secret.
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// Another one.
const OLD_SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

/// The creation of every message: 15 June 2025, 15:06:40 UTC.
const CREATED_MS: i64 = 1_750_000_000_000;

/// Reads the configuration of `[delivery]`.
fn config(toml: &str) -> DeliveryConfig {
    read_config(toml).unwrap_or_else(|error| panic!("{error}"))
}

fn read_config(toml: &str) -> Result<DeliveryConfig, Box<figment::Error>> {
    use figment::{Figment, providers::Format as _, providers::Toml};
    Ok(Figment::from(Toml::string(toml)).extract()?)
}

fn message(id: &str) -> OutgoingMessage {
    message_of(id, "Payment received", "0.1 ETH")
}

fn message_of(id: &str, title: &str, body: &str) -> OutgoingMessage {
    let notification = Notification {
        id: id.to_owned(),
        r#type: NotificationType::PaymentReceived.into(),
        title: title.to_owned(),
        body: body.to_owned(),
        priority: Priority::High.into(),
        timestamp: CREATED_MS,
        collapse_key: Some("payments".to_owned()),
        ..Notification::default()
    };
    let id = MessageId::new(id).unwrap();
    OutgoingMessage::notification(id, UserId::new("ada"), notification)
}

/// A configuration of one webhook at this URL, which may be on this machine.
fn webhook_config(url: &str) -> DeliveryConfig {
    let mut config =
        config("[[webhook]]\nname = \"ops\"\nurl = \"x\"\nallow_private = true\nsecrets = []\n");
    config.webhook[0].url = Secret::new(url);
    config.webhook[0].secrets = vec![Secret::new(SECRET), Secret::new(OLD_SECRET)];
    config
}
