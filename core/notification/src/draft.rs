//! Drafts: requests whose every field was checked.
//!
//! An error names the field and what was expected. The text of a draft is encoded once, however
//! many users receive it.

use std::collections::HashSet;

use prost::Message as _;
use tidewire_proto::{
    json::check_document,
    v1::{Notification, NotificationAction, NotifyRequest, Priority},
};
use tidewire_stream::{ChannelName, UserId};

use crate::{
    NotificationError,
    config::DAY_MS,
    idempotency::{self, KeyHash},
    kind::{Class, KindRegistry},
};

/// Longest title, in bytes.
const MAX_TITLE_BYTES: usize = 500;

/// Longest body, in bytes.
const MAX_BODY_BYTES: usize = 10_000;

/// Longest data, in bytes.
const MAX_DATA_BYTES: usize = 16 << 10;

/// Longest key, for collapsing and for idempotency, in bytes.
const MAX_KEY_BYTES: usize = 255;

/// Actions of a notification at most.
const MAX_ACTIONS: usize = 5;

/// Longest label of an action, in bytes.
const MAX_LABEL_BYTES: usize = 100;

/// Longest link of an action, in bytes.
const MAX_URL_BYTES: usize = 2_048;

/// Users of one request at most.
const MAX_RECIPIENTS: usize = 10_000;

/// The longest time to a scheduled delivery.
const MAX_SCHEDULE_MS: i64 = 366 * DAY_MS;

/// Times before this one, in September 2001, are taken for seconds and refused: the seconds of
/// today would mean January 1970.
const FIRST_TIME_MS: i64 = 1_000_000_000_000;

/// Schemes of an action's link. Others, like `javascript:`, could run code where a client opens
/// the link.
const SCHEMES: [&str; 3] = ["https", "http", "mailto"];

/// Recipients of a notification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// Each user once.
    Users(Vec<UserId>),
    Channel(ChannelName),
    Everyone,
}

impl Target {
    /// Number of inboxes. A broadcast is in all and counts as none.
    pub(crate) fn inboxes(&self) -> u64 {
        match self {
            Self::Users(users) => users.len() as u64,
            Self::Channel(_) | Self::Everyone => 0,
        }
    }
}

/// When a notification expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiry {
    Never,
    /// A time, in milliseconds since the Unix epoch.
    At(i64),
    /// Milliseconds after its delivery.
    After(i64),
}

impl Expiry {
    /// The time for a delivery at `now_ms`.
    pub(crate) fn at_ms(self, now_ms: i64) -> Option<i64> {
        match self {
            Self::Never => None,
            Self::At(at_ms) => Some(at_ms),
            Self::After(ttl_ms) => Some(now_ms.saturating_add(ttl_ms)),
        }
    }
}

/// A notification as it is delivered, now or later.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Message {
    pub(crate) target: Target,
    pub(crate) class: Class,
    pub(crate) expiry: Expiry,
    /// Hash of the collapse key.
    pub(crate) collapse: Option<u64>,
    /// Encoded [`Notification`] with the fields that all recipients share.
    pub(crate) text: Vec<u8>,
    /// The same before it was encoded. None once it is delivered, and after it was stored.
    pub(crate) shared: Option<Notification>,
}

/// An idempotency key of one sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SenderKey {
    pub(crate) hash: KeyHash,
    pub(crate) text: String,
    /// Hash of the request without its key.
    pub(crate) request: u64,
}

/// A request whose every field was checked, except for its times.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Draft {
    pub(crate) message: Message,
    pub(crate) key: Option<SenderKey>,
    /// The time of delivery, if that is later than the request.
    pub(crate) not_before_ms: Option<i64>,
}

/// Checks a request.
pub(crate) fn check(
    kinds: &KindRegistry,
    sender: &UserId,
    request: NotifyRequest,
    now_ms: i64,
) -> Result<Draft, NotificationError> {
    let key = match &request.idempotency_key {
        Some(text) => {
            check_len("idempotencyKey", text, 1, MAX_KEY_BYTES)?;
            // A repetition may have what the server sets and ignores, such as a new `timestamp`.
            let body = NotifyRequest {
                idempotency_key: None,
                notification: request.notification.as_ref().map(without_ignored),
                ..request.clone()
            };
            Some(SenderKey {
                hash: idempotency::key_hash(sender, text),
                text: text.clone(),
                request: idempotency::short_hash(&body.encode_to_vec()),
            })
        }
        None => None,
    };
    let target = check_target(&request)?;
    let notification = request.notification.ok_or_else(|| {
        NotificationError::invalid("notification", "missing, expected a notification")
    })?;
    let expiry = match (notification.expires_at, request.ttl_ms) {
        (Some(_), Some(_)) => {
            let problem = "given beside `notification.expiresAt`, expected one of the two";
            return Err(NotificationError::invalid("ttlMs", problem));
        }
        (Some(at_ms), None) => {
            check_time("notification.expiresAt", at_ms)?;
            Expiry::At(at_ms)
        }
        (None, Some(0)) => {
            return Err(NotificationError::invalid(
                "ttlMs",
                "0, expected 1 millisecond at least",
            ));
        }
        (None, Some(ttl_ms)) => Expiry::After(i64::try_from(ttl_ms).unwrap_or(i64::MAX)),
        (None, None) => Expiry::Never,
    };
    if let Some(time_ms) = request.not_before {
        check_time("notBefore", time_ms)?;
    }
    let not_before_ms = request.not_before.filter(|time_ms| *time_ms > now_ms);
    let message = check_notification(kinds, notification, target, expiry)?;
    Ok(Draft {
        message,
        key,
        not_before_ms,
    })
}

/// A notification without the fields that the server ignores in a request.
fn without_ignored(notification: &Notification) -> Notification {
    Notification {
        id: String::new(),
        timestamp: 0,
        read: false,
        seen: None,
        scheduled_id: None,
        replaces: Vec::new(),
        unread_count: None,
        ..notification.clone()
    }
}

impl Draft {
    /// Whether it is delivered now, and is urgent.
    pub(crate) fn is_urgent(&self) -> bool {
        self.not_before_ms.is_none() && self.message.class.priority() == Priority::Urgent
    }

    /// Checks the times. A repeated request is not checked: its times were right at first.
    pub(crate) fn check_times(&self, now_ms: i64) -> Result<(), NotificationError> {
        let delivery_ms = self.not_before_ms.unwrap_or(now_ms);
        if delivery_ms > now_ms.saturating_add(MAX_SCHEDULE_MS) {
            let problem = "more than a year ahead, expected at most a year";
            return Err(NotificationError::invalid("notBefore", problem));
        }
        if matches!(self.message.expiry, Expiry::At(at_ms) if at_ms <= delivery_ms) {
            let problem = "not after the delivery, expected a later time";
            return Err(NotificationError::invalid(
                "notification.expiresAt",
                problem,
            ));
        }
        Ok(())
    }
}

fn check_notification(
    kinds: &KindRegistry,
    notification: Notification,
    target: Target,
    expiry: Expiry,
) -> Result<Message, NotificationError> {
    let kind = kinds.find(
        "notification.type",
        notification.r#type,
        &notification.custom_type,
    )?;
    let priority = check_priority("notification.priority", notification.priority)?;
    check_len(
        "notification.title",
        &notification.title,
        1,
        MAX_TITLE_BYTES,
    )?;
    if notification.title.trim().is_empty() || notification.title.contains(|c: char| c.is_control())
    {
        let problem = "blank or with control characters, expected one line of text";
        return Err(NotificationError::invalid("notification.title", problem));
    }
    check_len("notification.body", &notification.body, 0, MAX_BODY_BYTES)?;
    if notification.data.len() > MAX_DATA_BYTES {
        let problem = format!(
            "{} bytes, expected at most {MAX_DATA_BYTES}",
            notification.data.len()
        );
        return Err(NotificationError::invalid("notification.data", problem));
    }
    check_document(&notification.data)
        .map_err(|error| NotificationError::invalid("notification.data", error.to_string()))?;
    if let Some(key) = &notification.collapse_key {
        check_len("notification.collapseKey", key, 1, MAX_KEY_BYTES)?;
    }
    if notification.actions.len() > MAX_ACTIONS {
        let problem = format!(
            "{} actions, expected at most {MAX_ACTIONS}",
            notification.actions.len()
        );
        return Err(NotificationError::invalid("notification.actions", problem));
    }
    for (place, action) in notification.actions.iter().enumerate() {
        check_action(&format!("notification.actions[{place}]"), action)?;
    }
    let collapse = notification.collapse_key.as_ref();
    let collapse = collapse.map(|key| idempotency::short_hash(key.as_bytes()));
    let text = Notification {
        title: notification.title,
        body: notification.body,
        data: notification.data,
        collapse_key: notification.collapse_key,
        actions: notification.actions,
        ..Notification::default()
    };
    Ok(Message {
        target,
        class: Class::new(kind, priority),
        expiry,
        collapse,
        text: text.encode_to_vec(),
        shared: Some(text),
    })
}

/// Checks a priority. An unspecified one is medium.
pub(crate) fn check_priority(field: &str, number: i32) -> Result<Priority, NotificationError> {
    match Priority::try_from(number) {
        Ok(Priority::Unspecified) => Ok(Priority::Medium),
        Ok(priority) => Ok(priority),
        Err(_) => {
            let problem = format!("{number}, expected one of low, medium, high, urgent");
            Err(NotificationError::invalid(field, problem))
        }
    }
}

fn check_target(request: &NotifyRequest) -> Result<Target, NotificationError> {
    let given = [
        request.user.is_some(),
        !request.users.is_empty(),
        request.channel.is_some(),
        request.everyone,
    ];
    let names = ["user", "users", "channel", "everyone"];
    let given: Vec<_> = names
        .into_iter()
        .zip(given)
        .filter_map(|(name, is_given)| is_given.then_some(name))
        .collect();
    match given[..] {
        [_] => {}
        // An empty list of users is the same as none on the wire.
        [] => {
            let problem = "missing, expected `user`, `users` with one user at least, `channel`, or `everyone` with true";
            return Err(NotificationError::invalid("user", problem));
        }
        [first, second, ..] => {
            let problem = format!(
                "given beside `{first}`, expected one of `user`, `users`, `channel` and `everyone`"
            );
            return Err(NotificationError::invalid(second, problem));
        }
    }
    if let Some(user) = &request.user {
        return Ok(Target::Users(vec![check_user("user", user)?]));
    }
    if let Some(channel) = &request.channel {
        let channel = ChannelName::parse(channel);
        let channel =
            channel.map_err(|error| NotificationError::invalid("channel", error.to_string()))?;
        return Ok(Target::Channel(channel));
    }
    if request.everyone {
        return Ok(Target::Everyone);
    }
    if request.users.len() > MAX_RECIPIENTS {
        let problem = format!(
            "{} users, expected at most {MAX_RECIPIENTS}",
            request.users.len()
        );
        return Err(NotificationError::invalid("users", problem));
    }
    let mut known = HashSet::new();
    let mut users = Vec::with_capacity(request.users.len());
    for (place, user) in request.users.iter().enumerate() {
        if known.insert(user.as_str()) {
            users.push(check_user(&format!("users[{place}]"), user)?);
        }
    }
    Ok(Target::Users(users))
}

/// Checks that a time is in milliseconds.
fn check_time(field: &str, time_ms: i64) -> Result<(), NotificationError> {
    if time_ms >= FIRST_TIME_MS {
        return Ok(());
    }
    let problem = format!(
        "{time_ms} is before the year 2001, expected a time in milliseconds since the Unix epoch, not in seconds"
    );
    Err(NotificationError::invalid(field, problem))
}

/// Checks a user's id: it names the user's channel.
pub(crate) fn check_user(field: &str, user: &str) -> Result<UserId, NotificationError> {
    if user.is_empty() {
        return Err(NotificationError::invalid(
            field,
            "empty, expected the id of a user",
        ));
    }
    match ChannelName::user(user) {
        Ok(_) => Ok(UserId::new(user)),
        Err(error) => Err(NotificationError::invalid(
            field,
            format!("{user:?} is not the id of a user: {error}"),
        )),
    }
}

fn check_len(field: &str, text: &str, least: usize, most: usize) -> Result<(), NotificationError> {
    match text.len() {
        0 if least > 0 => Err(NotificationError::invalid(
            field,
            format!("empty, expected 1 to {most} bytes"),
        )),
        len if len > most => Err(NotificationError::invalid(
            field,
            format!("{len} bytes, expected at most {most}"),
        )),
        _ => Ok(()),
    }
}

fn check_action(field: &str, action: &NotificationAction) -> Result<(), NotificationError> {
    check_len(&format!("{field}.label"), &action.label, 1, MAX_LABEL_BYTES)?;
    let url = format!("{field}.url");
    check_len(&url, &action.url, 1, MAX_URL_BYTES)?;
    if action
        .url
        .contains(|c: char| c.is_control() || c.is_whitespace())
    {
        return Err(NotificationError::invalid(
            url,
            "holds spaces or control characters, expected a link",
        ));
    }
    let (scheme, rest) = action.url.split_once(':').unwrap_or_default();
    let scheme = scheme.to_ascii_lowercase();
    let has_target = match scheme.as_str() {
        "mailto" => !rest.is_empty(),
        _ => rest
            .strip_prefix("//")
            .is_some_and(|host| !host.is_empty() && !host.starts_with('/')),
    };
    if SCHEMES.contains(&scheme.as_str()) && has_target {
        return Ok(());
    }
    let problem = format!(
        "{:?}, expected a link that begins with https://, http:// or mailto:",
        action.url
    );
    Err(NotificationError::invalid(url, problem))
}
