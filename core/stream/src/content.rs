//! Contents of publications: an event of one publication, or one that publications on many channels
//! share, and the memory of each.

use std::{
    borrow::Cow,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use tidewire_proto::{json, prost::encoding, v1};

use crate::{
    Event,
    history_memory::{HistoryShare, heap_bytes},
};

/// An event that is published on many channels, such as a notification to all users. Its
/// publications share it, its encodings, and so its memory.
#[derive(Debug)]
pub struct SharedEvent {
    event: Event,
    /// The `data` of its message as JSON.
    json: Box<[u8]>,
    /// The same as protobuf: its field's number, and its bytes without key and length.
    proto: (u32, Box<[u8]>),
    /// Publications of histories that share the event.
    holders: AtomicUsize,
    /// Where its memory is charged while a history has it.
    charged_to: OnceLock<Arc<HistoryShare>>,
}

impl SharedEvent {
    /// An event that no publication has yet.
    #[must_use]
    pub fn new(event: Event) -> Arc<Self> {
        let (field, proto) = json::proto_fragment(&event);
        Arc::new(Self {
            json: json::fragment(&event).into(),
            proto: (field, proto.into()),
            event,
            holders: AtomicUsize::new(0),
            charged_to: OnceLock::new(),
        })
    }

    /// The event.
    #[must_use]
    pub fn event(&self) -> &Event {
        &self.event
    }

    fn memory_bytes(&self) -> usize {
        heap_bytes(size_of::<Self>())
            + heap_of(&self.event)
            + heap_bytes(self.json.len())
            + heap_bytes(self.proto.1.len())
    }

    /// Notes that one more publication of a history shares the event. The first one pays.
    pub(crate) fn enter_history(&self, memory: &Arc<HistoryShare>) {
        let memory = self.charged_to.get_or_init(|| memory.clone());
        if self.holders.fetch_add(1, Ordering::AcqRel) == 0 {
            memory.add(self.memory_bytes());
        }
    }

    /// Notes that a history has dropped a publication that shares the event, and returns the bytes
    /// that are no longer charged for.
    pub(crate) fn leave_history(&self) -> usize {
        let is_last = self.holders.fetch_sub(1, Ordering::AcqRel) == 1;
        match self.charged_to.get() {
            Some(charged) if is_last => {
                charged.remove(self.memory_bytes());
                self.memory_bytes()
            }
            _ => 0,
        }
    }
}

/// The event of a publication.
#[derive(Debug, Clone)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly every publication has an event of its own, and needs no further allocation"
)]
pub enum Content {
    /// Of this publication alone.
    Own(Event),
    /// Shared with publications on other channels.
    Shared(Arc<SharedEvent>),
    /// A shared notification, with the number of unread ones of this channel's user.
    Counted(Arc<SharedEvent>, u64),
}

/// Number of the field [`v1::Notification::unread_count`].
const UNREAD_COUNT_FIELD: u32 = 15;

impl Content {
    /// The event as clients read it.
    pub(crate) fn event(&self) -> Cow<'_, Event> {
        match self {
            Self::Own(event) => Cow::Borrowed(event),
            Self::Shared(shared) => Cow::Borrowed(shared.event()),
            Self::Counted(shared, unread_count) => {
                let mut event = shared.event().clone();
                if let Event::Notification(one) = &mut event {
                    one.unread_count = Some(*unread_count);
                }
                Cow::Owned(event)
            }
        }
    }

    /// The event without what is this channel's own.
    pub(crate) fn base(&self) -> &Event {
        match self {
            Self::Own(event) => event,
            Self::Shared(shared) | Self::Counted(shared, _) => shared.event(),
        }
    }

    /// The event that it shares with other publications.
    pub(crate) fn shared(&self) -> Option<&Arc<SharedEvent>> {
        match self {
            Self::Own(_) => None,
            Self::Shared(shared) | Self::Counted(shared, _) => Some(shared),
        }
    }

    /// The `data` of the message as JSON.
    pub(crate) fn json(&self) -> Cow<'_, [u8]> {
        match self {
            Self::Own(event) => Cow::Owned(json::fragment(event)),
            Self::Shared(shared) => Cow::Borrowed(&shared.json),
            Self::Counted(shared, unread_count) => {
                // A notification has an id at least: the count, its last field, follows a comma.
                let fields = shared.json.strip_suffix(b"}").unwrap_or(&shared.json);
                let count = unread_count.to_string();
                Cow::Owned([fields, br#","unreadCount":"#, count.as_bytes(), b"}"].concat())
            }
        }
    }

    /// The `data` of the message as protobuf: its field's number, and its bytes without key and
    /// length.
    pub(crate) fn proto(&self) -> (u32, Cow<'_, [u8]>) {
        match self {
            Self::Own(event) => {
                let (field, data) = json::proto_fragment(event);
                (field, Cow::Owned(data))
            }
            Self::Shared(shared) => (shared.proto.0, Cow::Borrowed(&shared.proto.1)),
            Self::Counted(shared, unread_count) => {
                let (field, data) = &shared.proto;
                let mut data = data.to_vec();
                encoding::uint64::encode(UNREAD_COUNT_FIELD, unread_count, &mut data);
                (*field, Cow::Owned(data))
            }
        }
    }

    /// Memory of it that belongs to one publication alone, in bytes.
    pub(crate) fn own_memory(&self) -> usize {
        match self {
            Self::Own(event) => heap_of(event),
            Self::Shared(_) | Self::Counted(..) => 0,
        }
    }
}

impl From<Event> for Content {
    fn from(event: Event) -> Self {
        Self::Own(event)
    }
}

impl From<Arc<SharedEvent>> for Content {
    fn from(shared: Arc<SharedEvent>) -> Self {
        Self::Shared(shared)
    }
}

/// Memory of an event beside its own fields, in bytes, estimated.
fn heap_of(event: &Event) -> usize {
    match event {
        Event::Message(bytes) => heap_bytes(bytes.len()),
        Event::Notification(one) => heap_of_notification(one),
        Event::NotificationBatch(batch) => {
            let items = batch.items.iter();
            let items = items.map(|one| size_of_val(one) + heap_of_notification(one));
            items.sum::<usize>() + heap_bytes(0)
        }
        // Prices and chain events are many short parts, which take about twice as much as in
        // protobuf.
        event => heap_bytes(2 * event.encoded_len()),
    }
}

fn heap_of_notification(one: &v1::Notification) -> usize {
    let key = one.collapse_key.as_ref().map_or(0, String::len);
    let scheduled = one.scheduled_id.as_ref().map_or(0, String::len);
    let parts = [
        one.id.len(),
        one.title.len(),
        one.body.len(),
        one.data.len(),
        one.custom_type.len(),
        key,
        scheduled,
    ];
    let replaces = one.replaces.iter();
    let replaces = replaces.map(|id| size_of_val(id) + heap_bytes(id.len()));
    let actions = one.actions.iter();
    let actions = actions
        .map(|one| size_of_val(one) + heap_bytes(one.label.len()) + heap_bytes(one.url.len()));
    let parts = parts.into_iter().filter(|length| *length > 0);
    parts.map(heap_bytes).sum::<usize>() + actions.sum::<usize>() + replaces.sum::<usize>()
}
