//! Delivery channels, as the services see them: contacts of users, and dead letters.

use std::sync::{Arc, OnceLock};

use parking_lot::RwLock;
use tidewire_delivery::{
    DeliveryError, Dispatcher, MessageId, Senders,
    durable::{Contacts, DeadLetter, DurableJobs, EmailContact, RetryOutcome},
    email::{CONFIRMATION_PAGE, UnsubscribeStep, unsubscribe_step},
};
use tidewire_proto::v1::{self, ErrorCode, ListDeadLettersRequest, ListDeadLettersResponse};
use tidewire_stream::{StreamError, UserId};

/// Dead letters of a page, by default.
const DEFAULT_PAGE: u32 = 100;

/// Dead letters of a page at most.
const MAX_PAGE: u32 = 1_000;

const UNSUBSCRIBED_PAGE: &str = "\
<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Unsubscribed</title></head>
<body style=\"font-family:sans-serif\"><p>You get no more e-mail notifications.</p></body></html>
";

/// The delivery channels of a server.
#[derive(Debug)]
pub struct Delivery {
    /// The contacts of users.
    pub contacts: Contacts,
    /// The senders of the configured channels.
    pub senders: Arc<Senders>,
    /// The stored messages, and the dead letters.
    pub jobs: DurableJobs,
    /// The queues of messages, for metrics.
    pub dispatcher: Dispatcher,
}

/// The delivery channels, once they are open. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DeliverySlot(Arc<Slot>);

#[derive(Debug, Default)]
struct Slot {
    /// Whether the configuration has channels, which may be open later than the server.
    is_configured: OnceLock<()>,
    delivery: RwLock<Option<Arc<Delivery>>>,
}

/// The answer to a request at the unsubscribe URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnsubscribeAnswer {
    /// The page with a button. Nothing has changed.
    Page,
    /// The user gets no mails any more.
    Done,
}

impl UnsubscribeAnswer {
    /// The page that a browser shows.
    #[must_use]
    pub fn page(self) -> &'static str {
        match self {
            Self::Page => CONFIRMATION_PAGE,
            Self::Done => UNSUBSCRIBED_PAGE,
        }
    }
}

impl DeliverySlot {
    /// Says that the configuration has channels. Until they are [`set`](Self::set), requests get
    /// `unavailable`.
    pub fn announce(&self) {
        let _ = self.0.is_configured.set(());
    }

    /// Sets the delivery channels.
    pub fn set(&self, delivery: Delivery) {
        *self.0.delivery.write() = Some(Arc::new(delivery));
    }

    /// Takes the delivery channels out, if they are open.
    pub fn clear(&self) {
        *self.0.delivery.write() = None;
    }

    /// The queues of messages, once the channels are open.
    #[must_use]
    pub fn dispatcher(&self) -> Option<Dispatcher> {
        let delivery = self.0.delivery.read();
        delivery
            .as_ref()
            .map(|delivery| delivery.dispatcher.clone())
    }

    fn get(&self) -> Result<Arc<Delivery>, StreamError> {
        self.opened()?.ok_or_else(|| {
            let text = "this server has no delivery channels: add `[delivery.push]`, \
                        `[delivery.email]` or `[[delivery.webhook]]` to its configuration";
            StreamError::new(ErrorCode::FailedPrecondition, text)
        })
    }

    /// The channels. None if the configuration has none.
    fn opened(&self) -> Result<Option<Arc<Delivery>>, StreamError> {
        let delivery = self.0.delivery.read().clone();
        if delivery.is_none() && self.0.is_configured.get().is_some() {
            let text = "the delivery channels wait for the store, try again";
            return Err(StreamError::new(ErrorCode::Unavailable, text));
        }
        Ok(delivery)
    }

    /// The channels, which send push messages.
    fn with_push(&self) -> Result<Arc<Delivery>, StreamError> {
        let delivery = self.opened()?;
        let delivery = delivery.filter(|delivery| delivery.senders.push().is_some());
        delivery.ok_or_else(no_push)
    }

    /// The channels, which send mails.
    fn with_email(&self) -> Result<Arc<Delivery>, StreamError> {
        let delivery = self.opened()?;
        let delivery = delivery.filter(|delivery| delivery.senders.email().is_some());
        delivery.ok_or_else(no_email)
    }

    /// The key with which browsers subscribe.
    pub(crate) fn push_key(&self) -> Result<String, StreamError> {
        let delivery = self.with_push()?;
        let push = delivery.senders.push().ok_or_else(no_push)?;
        Ok(push.public_key().to_owned())
    }

    /// Registers a browser.
    pub(crate) async fn register_push(
        &self,
        user: &str,
        subscription: &[u8],
    ) -> Result<String, StreamError> {
        let delivery = self.with_push()?;
        let push = delivery.senders.push().ok_or_else(no_push)?;
        let read = push
            .read_subscription(subscription)
            .map_err(|error| invalid(&error))?;
        let (user, contacts) = (UserId::new(user), &delivery.contacts);
        let registered = contacts.register(&user, subscription, &read).await;
        registered.map_err(unavailable)
    }

    /// Ends a registration.
    pub(crate) async fn unregister_push(&self, user: &str, id: &str) -> Result<(), StreamError> {
        if id.is_empty() {
            let text = "`id` is missing, expected the id that RegisterPush returned";
            return Err(StreamError::new(ErrorCode::InvalidArgument, text));
        }
        let delivery = self.get()?;
        let ended = delivery.contacts.unregister(&UserId::new(user), id).await;
        match ended.map_err(unavailable)? {
            true => Ok(()),
            false => Err(StreamError::new(
                ErrorCode::NotFound,
                format!("`id`: {id:?} is no registration of this user"),
            )),
        }
    }

    /// Sets a user's mail address. Returns whether the user unsubscribed it.
    pub(crate) async fn set_email(
        &self,
        user: &str,
        address: Option<&str>,
        subscribes: bool,
    ) -> Result<bool, StreamError> {
        let delivery = self.with_email()?;
        let Some(address) = address else {
            let text = "`address`: missing, expected a mail address, or an empty text to remove it";
            return Err(StreamError::new(ErrorCode::InvalidArgument, text));
        };
        let (user, contacts) = (UserId::new(user), &delivery.contacts);
        let address = Some(address).filter(|address| !address.is_empty());
        let set = contacts.set_email(&user, address).await;
        set.map_err(unavailable)?.map_err(|error| invalid(&error))?;
        if subscribes {
            contacts.subscribe(&user).await.map_err(unavailable)?;
        }
        let contact = contacts.email_contact(&user).await.map_err(unavailable)?;
        Ok(contact.is_some_and(|contact| contact.is_unsubscribed))
    }

    /// A user's mail address.
    pub(crate) async fn email(&self, user: &str) -> Result<Option<EmailContact>, StreamError> {
        let delivery = self.with_email()?;
        let contact = delivery.contacts.email_contact(&UserId::new(user)).await;
        contact.map_err(unavailable)
    }

    /// Handles a request at the unsubscribe URL. Only a POST changes something: scanners of mail
    /// follow links.
    ///
    /// # Errors
    /// This server did not make the token, has no e-mail, or its store fails.
    pub(crate) async fn unsubscribe(
        &self,
        method: &http::Method,
        token: &str,
    ) -> Result<UnsubscribeAnswer, StreamError> {
        let delivery = self.with_email()?;
        let email = delivery.senders.email().ok_or_else(no_email)?;
        let step = unsubscribe_step(email.unsubscribe_tokens(), method, token);
        let step = step.map_err(|_| {
            let text = "`token` is not one of this server, expected the link of a mail";
            StreamError::new(ErrorCode::InvalidArgument, text)
        })?;
        match step {
            UnsubscribeStep::Unsubscribe(link) => {
                let unsubscribed = delivery.contacts.unsubscribe(&link).await;
                unsubscribed.map_err(unavailable)?;
                Ok(UnsubscribeAnswer::Done)
            }
            UnsubscribeStep::ShowPage | UnsubscribeStep::RefuseMethod => {
                Ok(UnsubscribeAnswer::Page)
            }
        }
    }

    /// Sends a dead letter again.
    pub(crate) async fn retry_dead_letter(&self, id: &str) -> Result<(), StreamError> {
        let delivery = self.get()?;
        let refusal = |code, problem: &str| StreamError::new(code, format!("`id`: {problem}"));
        let unknown = || refusal(ErrorCode::NotFound, "there is no dead letter with this id");
        let id = MessageId::new(id).map_err(|_| unknown())?;
        let retried = delivery.jobs.retry(&delivery.dispatcher, &id).await;
        match retried.map_err(unavailable)? {
            RetryOutcome::Queued => Ok(()),
            RetryOutcome::Unknown => Err(unknown()),
            RetryOutcome::Expired => Err(refusal(
                ErrorCode::FailedPrecondition,
                "the notification of this dead letter has expired",
            )),
            RetryOutcome::NoEndpoint => Err(refusal(
                ErrorCode::FailedPrecondition,
                "the device of this dead letter is not registered any more, or its user has no mail address",
            )),
        }
    }

    /// A page of dead letters.
    pub(crate) async fn dead_letters(
        &self,
        request: &ListDeadLettersRequest,
    ) -> Result<ListDeadLettersResponse, StreamError> {
        let (limit, after) = (
            request.limit.unwrap_or(DEFAULT_PAGE),
            request.after.as_deref(),
        );
        if limit == 0 || limit > MAX_PAGE {
            let text = format!("`limit` is {limit}, expected 1 to {MAX_PAGE}");
            return Err(StreamError::new(ErrorCode::InvalidArgument, text));
        }
        let after = after.map(|text| {
            let (time, id) = text.split_once('.')?;
            Some((time.parse().ok()?, id))
        });
        let after = match after {
            Some(None) => {
                let text = "`after` is not the `next` of a page";
                return Err(StreamError::new(ErrorCode::InvalidArgument, text));
            }
            after => after.flatten(),
        };
        let limit = limit as usize;
        let letters = self.get()?.jobs.dead_letters().list(after, limit).await;
        let letters = letters.map_err(unavailable)?;
        let next = letters.last().filter(|_| letters.len() == limit);
        let next = next.map(|last| format!("{}.{}", last.time_ms, last.id));
        Ok(ListDeadLettersResponse {
            items: letters.into_iter().map(dead_letter).collect(),
            next,
        })
    }
}

fn dead_letter(letter: DeadLetter) -> v1::DeadLetter {
    v1::DeadLetter {
        id: letter.id,
        timestamp: letter.time_ms,
        channel: letter.channel.name().to_owned(),
        endpoint: letter.endpoint,
        user: (!letter.user.is_empty()).then_some(letter.user),
        titles: letter.titles,
        attempts: letter.attempts,
        reason: letter.reason,
    }
}

fn no_push() -> StreamError {
    let text = "this server sends no push messages: `[delivery.push]` is not configured";
    StreamError::new(ErrorCode::FailedPrecondition, text)
}

fn no_email() -> StreamError {
    let text = "this server sends no mails: `[delivery.email]` is not configured";
    StreamError::new(ErrorCode::FailedPrecondition, text)
}

fn invalid(error: &DeliveryError) -> StreamError {
    StreamError::new(ErrorCode::InvalidArgument, error.to_string())
}

fn unavailable(error: impl std::fmt::Display) -> StreamError {
    let text = format!("contacts are unavailable, try again: {error}");
    StreamError::new(ErrorCode::Unavailable, text)
}
