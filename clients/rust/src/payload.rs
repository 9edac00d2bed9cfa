//! Payloads: the type of a subscription's items, which the channel's class of names decides.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use tidewire_proto::v1::{
    AlertEvent, Block, Candle, Dismissed, EventLog, MarketOverview, Notification,
    NotificationBatch, PriceUpdate, ReadReceipt, TransactionStatus, WalletUpdate,
    server_message::Data,
};

use crate::error::{Error, ErrorKind};

/// A type that a subscription can yield. This crate implements it; [`Json`] and [`Data`] fit
/// every channel.
pub trait Payload: Clone + Send + Sync + 'static + sealed::Sealed {
    /// Reads the payload of a publication. `None` leaves the publication out.
    #[doc(hidden)]
    fn read(data: &Data) -> Option<Self>;
}

mod sealed {
    pub trait Sealed {}
}

macro_rules! payload {
    ($($type:ty: $pattern:pat => $value:expr;)*) => {$(
        impl sealed::Sealed for $type {}

        impl Payload for $type {
            fn read(data: &Data) -> Option<Self> {
                match data {
                    $pattern => $value,
                    // Later servers publish more types: unknown ones are left out.
                    #[allow(unreachable_patterns, reason = "a pattern may fit everything")]
                    _ => None,
                }
            }
        }
    )*};
}

payload! {
    PriceUpdate: Data::Price(price) => Some(price.clone());
    Candle: Data::Candle(candle) => Some(candle.clone());
    MarketOverview: Data::MarketOverview(overview) => Some(overview.clone());
    Block: Data::Block(block) => Some(block.clone());
    TransactionStatus: Data::Transaction(status) => Some(status.clone());
    WalletUpdate: Data::WalletUpdate(update) => Some(update.clone());
    EventLog: Data::EventLog(log) => Some(log.clone());
    AlertEvent: Data::Alert(event) => Some(event.clone());
    Notification: Data::Notification(notification) => Some(notification.clone());
    Json: Data::Message(bytes) => Some(Json(bytes.clone()));
    Data: data => Some(data.clone());
    UserEvent: data => UserEvent::of(data);
}

/// A published JSON document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Json(pub(crate) Bytes);

impl Json {
    /// Returns the document as it was published.
    #[must_use]
    pub fn as_bytes(&self) -> &Bytes {
        &self.0
    }

    /// Deserialises the document.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`]: it is not a `T`.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Error> {
        serde_json::from_slice(&self.0).map_err(|source| {
            let text = format!("the published document does not fit the type: {source}");
            Error::new(ErrorKind::InvalidArgument, text).with_source(source)
        })
    }
}

/// An event on the channel of a user, `user:{id}`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum UserEvent {
    /// A notification.
    Notification(Notification),
    /// Several notifications, or everything that was missed.
    Batch(NotificationBatch),
    /// Notifications were read, on this or another connection.
    Read(ReadReceipt),
    /// Notifications were removed.
    Dismissed(Dismissed),
    /// The number of unread notifications changed by itself.
    UnreadCount(u64),
    /// An alert fired.
    Alert(Box<AlertEvent>),
    /// A back end sent the user a JSON document.
    Message(Json),
}

impl UserEvent {
    fn of(data: &Data) -> Option<Self> {
        Some(match data {
            Data::Notification(notification) => Self::Notification(notification.clone()),
            Data::NotificationBatch(batch) => Self::Batch(batch.clone()),
            Data::Read(receipt) => Self::Read(receipt.clone()),
            Data::Dismissed(dismissed) => Self::Dismissed(dismissed.clone()),
            Data::UnreadCount(count) => Self::UnreadCount(count.unread_count),
            Data::Alert(event) => Self::Alert(Box::new(event.clone())),
            Data::Message(bytes) => Self::Message(Json(bytes.clone())),
            _ => return None,
        })
    }
}
