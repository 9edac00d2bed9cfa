//! Notification requests: recipients, content and delivery time.

use bytes::Bytes;
use serde::Serialize;
use tidewire_proto::v1::{
    Notification, NotificationAction, NotificationType, NotifyRequest, Priority,
};

use crate::error::{Error, ErrorKind};

/// A notification to send. [`Notify::into_request`] gives access to all fields.
#[derive(Debug, Clone)]
#[must_use = "it is sent by `Client::notify`"]
pub struct Notify(NotifyRequest);

impl Notify {
    fn new(request: NotifyRequest, kind: NotificationType, title: impl Into<String>) -> Self {
        Self(NotifyRequest {
            notification: Some(Notification {
                r#type: kind.into(),
                title: title.into(),
                priority: Priority::Medium.into(),
                ..Notification::default()
            }),
            ..request
        })
    }

    /// A notification to a user.
    pub fn user(user: impl Into<String>, kind: NotificationType, title: impl Into<String>) -> Self {
        let request = NotifyRequest {
            user: Some(user.into()),
            ..NotifyRequest::default()
        };
        Self::new(request, kind, title)
    }

    /// A notification to several users.
    pub fn users<I: IntoIterator<Item: Into<String>>>(
        users: I,
        kind: NotificationType,
        title: impl Into<String>,
    ) -> Self {
        let request = NotifyRequest {
            users: users.into_iter().map(Into::into).collect(),
            ..NotifyRequest::default()
        };
        Self::new(request, kind, title)
    }

    /// A notification to everyone.
    pub fn everyone(kind: NotificationType, title: impl Into<String>) -> Self {
        let request = NotifyRequest {
            everyone: true,
            ..NotifyRequest::default()
        };
        Self::new(request, kind, title)
    }

    /// A notification to a channel. It is in no inbox.
    pub fn channel(
        channel: impl Into<String>,
        kind: NotificationType,
        title: impl Into<String>,
    ) -> Self {
        let request = NotifyRequest {
            channel: Some(channel.into()),
            ..NotifyRequest::default()
        };
        Self::new(request, kind, title)
    }

    fn edit(mut self, edit: impl FnOnce(&mut Notification)) -> Self {
        edit(self.0.notification.get_or_insert_default());
        self
    }

    /// Sets the text below the title.
    pub fn body(self, body: impl Into<String>) -> Self {
        self.edit(|notification| notification.body = body.into())
    }

    /// Sets the priority. The default is medium.
    pub fn priority(self, priority: Priority) -> Self {
        self.edit(|notification| notification.priority = priority.into())
    }

    /// Sets the data for the application.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`]: it has no JSON form.
    pub fn data(self, data: &impl Serialize) -> Result<Self, Error> {
        let data = to_json(data)?;
        Ok(self.edit(|notification| notification.data = data))
    }

    /// Adds a button.
    pub fn action(self, label: impl Into<String>, url: impl Into<String>) -> Self {
        let action = NotificationAction {
            label: label.into(),
            url: url.into(),
        };
        self.edit(|notification| notification.actions.push(action))
    }

    /// Replaces the user's older notification that has this key.
    pub fn collapse_key(self, key: impl Into<String>) -> Self {
        self.edit(|notification| notification.collapse_key = Some(key.into()))
    }

    /// Sets the idempotency key. Without one, each [`Client::notify`](crate::Client::notify) makes
    /// one for its own attempts. A key of your own, such as a payment's id, also covers a back end
    /// that restarts and sends again.
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.0.idempotency_key = Some(key.into());
        self
    }

    /// Returns the request.
    #[must_use]
    pub fn into_request(self) -> NotifyRequest {
        self.0
    }
}

impl From<Notify> for NotifyRequest {
    fn from(notify: Notify) -> Self {
        notify.0
    }
}

/// Serialises a document.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`]: it has no JSON form.
pub(crate) fn to_json(data: &impl Serialize) -> Result<Bytes, Error> {
    serde_json::to_vec(data).map(Bytes::from).map_err(|source| {
        let text = format!("`data` has no JSON form: {source}");
        Error::new(ErrorKind::InvalidArgument, text).with_source(source)
    })
}
