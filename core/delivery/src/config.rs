//! Configuration: the tables `[delivery]`, `[[delivery.webhook]]`, `[delivery.push]` and
//! `[delivery.email]`.
//!
//! A channel without its table is off. [`DeliveryConfig::check`] names the key of a value that
//! cannot be used; keys of a webhook are named with the webhook: `delivery.webhook "ops" url`.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use serde::Deserialize;
use tidewire_proto::v1::{Notification, Priority};

use crate::{
    DeliveryError, Secret,
    email::{self, Encryption},
    guard::{Guard, Networks},
    message::{priority_name, type_name},
    web_push::Vapid,
    webhook::{self, Template},
};

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Webhooks at most.
pub const MAX_WEBHOOKS: usize = 100;

/// Signing secrets of a webhook at most: the new one, the old one, and one to spare.
pub const MAX_SECRETS: usize = 5;

/// Configuration of all delivery channels.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DeliveryConfig {
    /// Time for one attempt.
    #[serde(with = "humantime_serde")]
    pub timeout: Duration,
    /// Longest pause after the first failure. It doubles with each further one.
    #[serde(with = "humantime_serde")]
    pub first_pause: Duration,
    /// Longest pause between two attempts.
    #[serde(with = "humantime_serde")]
    pub longest_pause: Duration,
    /// Attempts after which a message becomes a dead letter.
    pub attempts: u32,
    /// Age at which a message becomes a dead letter.
    #[serde(with = "humantime_serde")]
    pub max_age: Duration,
    /// Messages in memory for one endpoint. Further ones stay in the store.
    pub queue: usize,
    /// Messages in memory. Each channel has a third. Further ones stay in the store.
    pub total_queue: usize,
    /// Attempts of one channel at the same time.
    pub in_flight: usize,
    /// Certificate authorities that HTTPS trusts besides the web's.
    pub ca_file: Option<PathBuf>,
    /// The webhooks.
    pub webhook: Vec<WebhookConfig>,
    /// Web Push.
    pub push: Option<PushConfig>,
    /// E-mail.
    pub email: Option<EmailConfig>,
}

impl Default for DeliveryConfig {
    fn default() -> Self {
        Self {
            timeout: 10 * SECOND,
            first_pause: 2 * SECOND,
            longest_pause: HOUR / 2,
            attempts: 50,
            max_age: DAY,
            queue: 256,
            total_queue: 4_096,
            in_flight: 64,
            ca_file: None,
            webhook: Vec::new(),
            push: None,
            email: None,
        }
    }
}

/// Configuration of one webhook.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebhookConfig {
    /// Its name in logs, metrics and dead letters.
    pub name: String,
    /// Where to. Chats put their key into it.
    pub url: Secret,
    /// Signing secrets, `whsec_` and base64. Each request is signed with all of them.
    #[serde(default)]
    pub secrets: Vec<Secret>,
    /// The form of the body.
    #[serde(default)]
    pub template: Template,
    /// The chat of `template = "telegram"`.
    #[serde(default)]
    pub chat_id: Option<String>,
    /// Types to send. Empty sends all.
    #[serde(default)]
    pub types: Vec<String>,
    /// Priorities to send. Empty sends all.
    #[serde(default)]
    pub priorities: Vec<String>,
    /// Whether the URL may be in a private network, and plain HTTP.
    #[serde(default)]
    pub allow_private: bool,
    /// Requests per second at most. 0 sets no limit.
    #[serde(default)]
    pub rate: u32,
    /// Requests at the same time. More than one may change their order.
    #[serde(default = "one")]
    pub concurrency: usize,
}

/// Configuration of Web Push.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PushConfig {
    /// The server's private VAPID key: 32 bytes in base64url.
    pub vapid_private_key: Secret,
    /// A contact for the operators of push services: `mailto:` or `https:`.
    pub subject: String,
    /// Time for which a push service keeps a message for a device that is off.
    #[serde(default = "day", with = "humantime_serde")]
    pub ttl: Duration,
    /// Whether push endpoints may be in a private network, and plain HTTP. For tests.
    #[serde(default)]
    pub allow_private: bool,
}

/// Configuration of e-mail.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EmailConfig {
    /// The SMTP server's name or address.
    pub host: String,
    /// Its port; by default that of the encryption: 587, 465 or 25.
    #[serde(default)]
    pub port: Option<u16>,
    /// The encryption.
    #[serde(default)]
    pub encryption: Encryption,
    /// The user name, with `password`.
    #[serde(default)]
    pub username: Option<String>,
    /// The password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// The sender: `Tidewire <notify@example.com>`.
    pub from: String,
    /// The address of answers, by default the sender.
    #[serde(default)]
    pub reply_to: Option<String>,
    /// Certificate authorities of the SMTP server, in place of the web's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// Time for which a notification may be read in the application before it is mailed.
    #[serde(default = "five_minutes", with = "humantime_serde")]
    pub delay: Duration,
    /// Where one click unsubscribes. The server adds `?token=…`.
    pub unsubscribe_url: String,
    /// Secrets of the unsubscribe tokens, 32 bytes at least. The first signs, all verify.
    pub unsubscribe_secrets: Vec<Secret>,
    /// Mails per second at most. 0 sets no limit.
    #[serde(default)]
    pub rate: u32,
    /// Connections to the SMTP server.
    #[serde(default = "one")]
    pub concurrency: usize,
}

fn one() -> usize {
    1
}

fn five_minutes() -> Duration {
    300 * SECOND
}

fn day() -> Duration {
    DAY
}

/// The results of all checks, good ones too.
type Checks = Vec<Result<(), DeliveryError>>;

impl DeliveryConfig {
    /// Whether a channel is configured.
    #[must_use]
    pub fn has_channels(&self) -> bool {
        !self.webhook.is_empty() || self.push.is_some() || self.email.is_some()
    }

    /// Checks all values. Nothing is connected to.
    ///
    /// # Errors
    /// Names the key of a value that cannot be used, and the value that was expected.
    pub fn check(&self) -> Result<(), DeliveryError> {
        self.problems().into_iter().next().map_or(Ok(()), Err)
    }

    /// All that is wrong, and nothing that only follows from another fault.
    #[must_use]
    pub fn problems(&self) -> Vec<DeliveryError> {
        let mut checks = Vec::new();
        for (key, found, min, max) in [
            ("timeout", self.timeout, SECOND, 30 * SECOND),
            ("first_pause", self.first_pause, SECOND / 10, HOUR),
            ("longest_pause", self.longest_pause, SECOND, DAY),
            ("max_age", self.max_age, SECOND, 28 * DAY),
        ] {
            checks.push(check_duration(&format!("delivery.{key}"), found, min, max));
        }
        let are_pauses = checks.iter().skip(1).take(2).all(Result::is_ok);
        if are_pauses && self.first_pause > self.longest_pause {
            checks.push(Err(DeliveryError::invalid(
                "delivery.first_pause",
                format!(
                    "{}, expected at most delivery.longest_pause ({})",
                    duration_text(self.first_pause),
                    duration_text(self.longest_pause)
                ),
            )));
        }
        for (key, found, min, max) in [
            ("attempts", self.attempts as usize, 1, 1_000),
            ("queue", self.queue, 1, 100_000),
            ("total_queue", self.total_queue, 1, 1_000_000),
            ("in_flight", self.in_flight, 1, 10_000),
        ] {
            checks.push(check_number(&format!("delivery.{key}"), found, min, max));
        }
        checks.push(crate::tls::tls_config(self.ca_file.as_deref()).map(drop));
        self.check_webhooks(&mut checks);
        if let Some(push) = &self.push {
            push.check(&mut checks);
        }
        if let Some(email) = &self.email {
            email.check(&mut checks);
        }
        checks.into_iter().filter_map(Result::err).collect()
    }

    fn check_webhooks(&self, checks: &mut Checks) {
        let count = self.webhook.len();
        if count > MAX_WEBHOOKS {
            checks.push(Err(DeliveryError::invalid(
                "delivery.webhook",
                format!("there {count} times, expected {MAX_WEBHOOKS} webhooks at most"),
            )));
        }
        let mut names = HashSet::new();
        for webhook in self.webhook.iter().take(MAX_WEBHOOKS) {
            webhook.check(checks);
            if !names.insert(&webhook.name) {
                checks.push(Err(DeliveryError::invalid(
                    "delivery.webhook.name",
                    format!("{:?} twice, expected different names", webhook.name),
                )));
            }
        }
    }
}

impl WebhookConfig {
    fn key(&self, key: &str) -> String {
        format!("delivery.webhook {:?} {key}", self.name)
    }

    /// The networks that the URL may be in.
    #[must_use]
    pub fn networks(&self) -> Networks {
        networks(self.allow_private)
    }

    /// Whether the webhook receives a notification.
    #[must_use]
    pub fn matches(&self, notification: &Notification) -> bool {
        let priority = Priority::try_from(notification.priority).unwrap_or_default();
        let has = |list: &[String], name: &str| {
            list.is_empty() || list.iter().any(|listed| listed == name)
        };
        has(&self.types, &type_name(notification)) && has(&self.priorities, priority_name(priority))
    }

    fn check(&self, checks: &mut Checks) {
        let is_allowed =
            |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
        if self.name.is_empty() || self.name.len() > 64 || !self.name.bytes().all(is_allowed) {
            checks.push(Err(DeliveryError::invalid(
                "delivery.webhook.name",
                format!(
                    "{:?}, expected 1 to 64 letters, digits, `_`, `-` or `.`",
                    self.name
                ),
            )));
        }
        checks.push(self.check_url());
        checks.extend([
            check_number(&self.key("concurrency"), self.concurrency, 1, 100),
            check_number(&self.key("rate"), self.rate as usize, 0, 10_000),
            check_number(&self.key("secrets"), self.secrets.len(), 0, MAX_SECRETS),
        ]);
        checks.extend(self.secrets.iter().map(|secret| {
            webhook::read_secret(secret)
                .map(drop)
                .map_err(|problem| DeliveryError::invalid(self.key("secrets"), problem))
        }));
        if self.template == Template::Standard && self.secrets.is_empty() {
            checks.push(Err(DeliveryError::invalid(
                self.key("secrets"),
                "empty, expected one at least with template = \"standard\": without a signature the receiver cannot trust a request",
            )));
        }
        let is_telegram = self.template == Template::Telegram;
        if is_telegram != self.chat_id.as_ref().is_some_and(|id| !id.is_empty()) {
            let problem = match is_telegram {
                true => "missing, expected the chat's id or @name",
                false => "set, expected only with template = \"telegram\"",
            };
            checks.push(Err(DeliveryError::invalid(self.key("chat_id"), problem)));
        }
        let names = ["low", "medium", "high", "urgent"];
        let unknown = self.priorities.iter();
        let unknown = unknown.filter(|priority| !names.contains(&priority.as_str()));
        checks.extend(unknown.map(|priority| {
            Err(DeliveryError::invalid(
                self.key("priorities"),
                format!("{priority:?}, expected one of {}", names.join(", ")),
            ))
        }));
    }

    fn check_url(&self) -> Result<(), DeliveryError> {
        let checked = Guard::new(self.networks()).check_url(self.url.expose());
        checked.map(drop).map_err(|error| {
            let hint = match self.allow_private {
                false if error.is_private() => {
                    ", or `allow_private = true` for a receiver in a private network"
                }
                _ => "",
            };
            DeliveryError::invalid(self.key("url"), format!("refused: {error}{hint}"))
        })
    }
}

impl PushConfig {
    /// The networks that push endpoints may be in.
    #[must_use]
    pub fn networks(&self) -> Networks {
        networks(self.allow_private)
    }

    fn check(&self, checks: &mut Checks) {
        checks.push(check_duration(
            "delivery.push.ttl",
            self.ttl,
            SECOND,
            28 * DAY,
        ));
        checks.extend(Vapid::check(&self.vapid_private_key, &self.subject));
    }
}

impl EmailConfig {
    fn check(&self, checks: &mut Checks) {
        checks.extend([
            check_number("delivery.email.concurrency", self.concurrency, 1, 100),
            check_number("delivery.email.rate", self.rate as usize, 0, 10_000),
            check_duration("delivery.email.delay", self.delay, Duration::ZERO, 7 * DAY),
        ]);
        checks.extend(email::check(self));
    }
}

fn networks(allow_private: bool) -> Networks {
    match allow_private {
        true => Networks::Any,
        false => Networks::Public,
    }
}

fn check_duration(
    key: &str,
    found: Duration,
    min: Duration,
    max: Duration,
) -> Result<(), DeliveryError> {
    if (min..=max).contains(&found) {
        return Ok(());
    }
    let [found, min, max] = [found, min, max].map(duration_text);
    Err(DeliveryError::invalid(
        key,
        format!("{found}, expected {min} to {max}"),
    ))
}

/// A duration as an operator writes it: in the largest unit that leaves no rest.
fn duration_text(duration: Duration) -> String {
    let units = [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("m", 60_000),
        ("s", 1_000),
    ];
    let ms = duration.as_millis();
    if ms == 0 {
        return "0s".to_owned();
    }
    let fits = |(_, unit): &(&str, u128)| ms.is_multiple_of(*unit);
    match units.into_iter().find(fits) {
        Some((name, unit)) => format!("{}{name}", ms / unit),
        None => format!("{ms}ms"),
    }
}

fn check_number(key: &str, found: usize, min: usize, max: usize) -> Result<(), DeliveryError> {
    if (min..=max).contains(&found) {
        return Ok(());
    }
    Err(DeliveryError::invalid(
        key,
        format!("{found}, expected {min} to {max}"),
    ))
}
