//! Channel rows: notifications to channels that may not have been published yet.
//!
//! A notification to a channel is in no inbox: a publication that is missing is missing for good. Its
//! row is stored in the commit that acknowledges it, and removed once the broker has published it. A
//! hub that opens publishes those that are left, for example after a kill.

use prost::Message as _;
use tidewire_proto::v1::Notification;
use tidewire_store::{Batch, Value};
use tidewire_stream::ChannelName;

use crate::{HubEvent, NotificationError, id::Order, tables};

/// Version of the stored rows.
const VERSION: u8 = 1;

#[derive(Clone, PartialEq, prost::Message)]
struct StoredRow {
    #[prost(string, tag = "1")]
    channel: String,
    #[prost(message, optional, tag = "2")]
    notification: Option<Notification>,
}

/// Stages the row of a notification.
pub(crate) fn put(
    batch: &mut Batch,
    order: Order,
    channel: &ChannelName,
    notification: &Notification,
) {
    let row = StoredRow {
        channel: channel.as_str().to_owned(),
        notification: Some(notification.clone()),
    };
    let mut value = vec![VERSION];
    value.extend(row.encode_to_vec());
    batch.put(tables::CHANNEL_ROWS, order.0.to_be_bytes(), value);
}

/// Stages the removal of the row.
pub(crate) fn remove(batch: &mut Batch, order: Order) {
    batch.delete(tables::CHANNEL_ROWS, order.0.to_be_bytes());
}

/// The event of a row.
pub(crate) fn decode(value: &Value) -> Result<HubEvent, NotificationError> {
    let damaged = NotificationError::Damaged("notification to a channel");
    let Some((&VERSION, row)) = value.split_first() else {
        return Err(damaged);
    };
    let row = StoredRow::decode(row).map_err(|_| damaged.clone())?;
    let channel = ChannelName::parse(&row.channel).map_err(|_| damaged.clone())?;
    let notification = Box::new(row.notification.ok_or(damaged)?);
    Ok(HubEvent::Channel {
        channel,
        notification,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_decodes_to_the_event() {
        let channel = ChannelName::parse("orders:1").unwrap();
        let notification = Notification {
            title: "shipped".to_owned(),
            ..Notification::default()
        };
        let mut batch = Batch::new();
        put(&mut batch, Order(7), &channel, &notification);
        let [tidewire_store::Write::Put(_, key, value)] = batch.writes() else {
            panic!("one row is staged");
        };
        assert_eq!(tables::order(key), Some(Order(7)));
        let expected = HubEvent::Channel {
            channel,
            notification: Box::new(notification),
        };
        assert_eq!(decode(value), Ok(expected));
        for damaged in [&[][..], &[VERSION + 1], &[VERSION, 0xff]] {
            assert!(decode(&damaged.to_vec()).is_err());
        }
    }
}
