//! Counts in order: a reply with a count of unread notifications, and the pushes of the user's
//! channel.
//!
//! A client shows the count of a reply, and adds one for each notification that is pushed
//! afterwards. But replies leave a session before the pushes that wait for it, and a push may
//! leave while a reply is made. Example: three notifications wait for a slow client that asks
//! for its count. The reply says 3, the pushes follow, and the client shows 6.
//!
//! The channel's own messages are in order, and the last one with a count is right. So after
//! such a reply the count is published on the channel, unless the client ends at the right count
//! in any case:
//!
//! - the newest message of the channel carries the same count, such as the `read` of the command
//!   itself, or the count that was published after the reply before; or
//! - the client had been sent all of the channel when the command began, and nothing was
//!   published until its reply was queued.
//!
//! Over SSE, replies come on connections of their own, at any time before or after the pushes. There
//! the client leaves the counts of replies alone. The count is published unless the command itself
//! did so.

use std::sync::Arc;

use tidewire_proto::v1::server_message::Data;
use tidewire_stream::{
    ChannelName, Command, PageLimit, Position, Publication, Session, StreamCore, broker::History,
};
use tokio::runtime::Handle;

use crate::NotifyRpc;

/// A command whose reply will carry a count.
pub(crate) struct CountOrder {
    stream: Arc<StreamCore>,
    notify: NotifyRpc,
    channel: ChannelName,
    /// Newest position of the channel before the command.
    before: Position,
}

impl CountOrder {
    /// Begins before the count is read. None if the session does not follow the user's channel.
    pub(crate) async fn begin(
        command: &Command,
        user: &str,
        stream: Arc<StreamCore>,
        notify: NotifyRpc,
    ) -> Option<Self> {
        let channel = ChannelName::user(user).ok()?;
        if !command.is_subscribed(&channel) {
            return None;
        }
        let history = stream.broker().history(&channel, None, PageLimit::NOTHING);
        let before = history.await.ok()?.top;
        Some(Self {
            stream,
            notify,
            channel,
            before,
        })
    }

    /// Sees to it that the client ends at the right count after a reply with `count`.
    pub(crate) fn follow(self, command: &Command, count: u64) {
        let session = Session::clone(command);
        command.after_reply(move || {
            // Without a runtime the server is stopping.
            if let Ok(runtime) = Handle::try_current() {
                runtime.spawn(self.settle(session, count));
            }
        });
    }

    async fn settle(self, session: Session, count: u64) {
        let broker = self.stream.broker();
        let history = broker.history(&self.channel, None, PageLimit::NEWEST);
        let Ok(history) = history.await else {
            return;
        };
        let newest = history.publications.last();
        let is_newest = newest.and_then(|newest| count_of(newest)) == Some(count);
        let is_shown = match session.post_key() {
            Some(_) => is_newest && history.top != self.before,
            None => is_newest || self.is_in_order(&session, &history),
        };
        if is_shown {
            return;
        }
        if let Err(error) = self.notify.publish_count(self.channel.rest()).await {
            tracing::warn!(%error, "a client may show a wrong count of notifications");
        }
    }

    /// Whether the client has all of the channel before the reply, and the reply before what
    /// comes next.
    fn is_in_order(&self, session: &Session, history: &History) -> bool {
        let sent = session.sent_position(&self.channel);
        history.top == self.before && sent.as_ref() == Some(&history.top)
    }
}

/// The count that a message of a user's channel carries.
fn count_of(publication: &Publication) -> Option<u64> {
    match &*publication.event() {
        Data::Read(receipt) => Some(receipt.unread_count),
        Data::Dismissed(dismissed) => Some(dismissed.unread_count),
        Data::UnreadCount(count) => Some(count.unread_count),
        Data::NotificationBatch(batch) => Some(batch.unread_count),
        Data::Notification(one) => one.unread_count,
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use proptest::prelude::*;
    use tidewire_notification::{EventSink, HubEvent, NotificationConfig, NotificationHub};
    use tidewire_proto::v1::{
        GetUnreadCountResponse, Notification, NotificationType, NotifyRequest, Priority,
        ServerMessage,
    };
    use tidewire_store::MemoryStore;
    use tidewire_stream::{
        AnonymousPolicy, Authenticator, Connection, ConnectionInfo, Encoding, Identity,
        ManualClock, Namespaces, OutgoingMessage, PostKey, ShardId, StreamOptions, Transport,
        Urgency, UserId, identity::UserIdentity,
    };

    use super::*;

    /// Publishes the events of the hub, as the server does.
    struct Sink(Arc<StreamCore>);

    impl EventSink for Sink {
        fn publish(&self, event: HubEvent) {
            let (user, data) = match event {
                HubEvent::Notification {
                    user, notification, ..
                } => (user, Data::Notification(Arc::unwrap_or_clone(notification))),
                HubEvent::Read { user, receipt } => (user, Data::Read(receipt)),
                HubEvent::UnreadCount { user, unread_count } => {
                    let count = GetUnreadCountResponse { unread_count };
                    (user, Data::UnreadCount(count))
                }
                other => unreachable!("{other:?}"),
            };
            let channel = ChannelName::user(user.as_str()).unwrap();
            self.0
                .publish_if_known(&channel, data, Urgency::Ordinary, None);
        }
    }

    /// A user's client, which counts as the documentation says.
    struct World {
        stream: Arc<StreamCore>,
        hub: NotificationHub,
        service: NotifyRpc,
        connection: Connection,
        shown: u64,
    }

    /// Operation of a command on the inbox.
    #[derive(Debug, Clone, Copy)]
    enum Operation {
        Count,
        MarkAll,
    }

    impl World {
        async fn new(post_key: Option<PostKey>) -> Self {
            let clock = ManualClock::at(1_750_000_000_000);
            let policy = AnonymousPolicy::Read;
            let authenticator = Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
            let options = StreamOptions {
                outbox_bytes: 4_096,
                ..StreamOptions::default()
            };
            let namespaces = Namespaces::built_in();
            let stream = StreamCore::in_memory(namespaces, authenticator, clock.clone(), options);
            let store = Arc::new(MemoryStore::new());
            let hub = NotificationHub::open(
                store.clone(),
                Arc::new(Sink(stream.clone())),
                clock.clone(),
                NotificationConfig::default(),
            );
            let hub = hub.await.unwrap();
            let service = NotifyRpc::new(stream.clone());
            service.set_hub(hub.clone(), store);
            let identity = UserIdentity::new(UserId::new("ada"), i64::MAX);
            let info = ConnectionInfo {
                caller: Identity::from(identity).into(),
                transport: Transport::new("test"),
                post_key,
                encoding: Encoding::Json,
                heartbeat: None,
                quota: None,
                shard: ShardId::CALLER,
            };
            let connection = stream.connect(info).await;
            Self {
                stream,
                hub,
                service,
                connection,
                shown: 0,
            }
        }

        async fn notify(&self) {
            let request = NotifyRequest {
                notification: Some(Notification {
                    r#type: NotificationType::PaymentReceived.into(),
                    priority: Priority::High.into(),
                    title: "t".to_owned(),
                    body: "b".repeat(1_000),
                    ..Notification::default()
                }),
                user: Some("ada".to_owned()),
                ..NotifyRequest::default()
            };
            self.hub.notify(&UserId::new("be"), request).await.unwrap();
        }

        /// Begins a command, and does its operation.
        async fn begin(&self, operation: Operation) -> (Command, Option<CountOrder>, u64) {
            let command = self.connection.begin_command();
            let (stream, service) = (self.stream.clone(), self.service.clone());
            let order = CountOrder::begin(&command, "ada", stream, service).await;
            let count = match operation {
                Operation::Count => self.hub.unread_count("ada").await.unwrap(),
                Operation::MarkAll => {
                    let marked = self.hub.mark_all_read("ada", None).await;
                    marked.unwrap().unread_count
                }
            };
            (command, order, count)
        }

        /// Queues the reply of a command.
        async fn finish(&self, (command, order, count): (Command, Option<CountOrder>, u64)) {
            order.unwrap().follow(&command, count);
            command.reply(ServerMessage {
                id: Some("1".to_owned()),
                data: Some(Data::UnreadCount(GetUnreadCountResponse {
                    unread_count: count,
                })),
                ..ServerMessage::default()
            });
            self.settle().await;
        }

        /// Lets what follows a reply run.
        async fn settle(&self) {
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
        }

        /// Takes messages up to about `budget` bytes. False if there were none.
        fn take(&mut self, budget: usize) -> bool {
            let mut out = Vec::new();
            let taken = self.connection.next(budget, &mut out).now_or_never();
            for message in out {
                let message = match message {
                    OutgoingMessage::Direct(direct) => direct.to_message(),
                    OutgoingMessage::Publication(publication) => publication.to_message(),
                    OutgoingMessage::PriceBatch(_) => unreachable!("there are no prices"),
                };
                match message.data.unwrap() {
                    Data::Notification(_) => self.shown += 1,
                    Data::Read(receipt) => self.shown = receipt.unread_count,
                    Data::UnreadCount(count) => self.shown = count.unread_count,
                    Data::Gap(_) => panic!("the history has all"),
                    _ => {}
                }
            }
            taken.is_some()
        }

        async fn top(&self) -> u64 {
            let channel = ChannelName::user("ada").unwrap();
            let history = self
                .stream
                .broker()
                .history(&channel, None, PageLimit::NOTHING);
            history.await.unwrap().top.seq
        }
    }

    #[derive(Debug, Clone)]
    enum Action {
        Notify,
        /// Another client of the user marks all as read.
        MarkElsewhere,
        Begin(Operation),
        Finish,
        Take(usize),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let action = prop_oneof![
            4 => Just(Action::Notify),
            1 => Just(Action::MarkElsewhere),
            2 => Just(Action::Begin(Operation::Count)),
            1 => Just(Action::Begin(Operation::MarkAll)),
            3 => Just(Action::Finish),
            3 => (1_usize..3_000).prop_map(Action::Take),
        ];
        prop::collection::vec(action, 1..40)
    }

    async fn play(actions: Vec<Action>) {
        let mut world = World::new(None).await;
        let mut begun = None;
        for action in actions {
            match action {
                Action::Notify => world.notify().await,
                Action::MarkElsewhere => drop(world.hub.mark_all_read("ada", None).await.unwrap()),
                Action::Begin(operation) => {
                    if begun.is_none() {
                        begun = Some(world.begin(operation).await);
                    }
                }
                Action::Finish => {
                    if let Some(command) = begun.take() {
                        world.finish(command).await;
                    }
                }
                Action::Take(budget) => drop(world.take(budget)),
            }
        }
        if let Some(command) = begun {
            world.finish(command).await;
        }
        while world.take(usize::MAX) {
            world.settle().await;
        }
        assert_eq!(world.shown, world.hub.unread_count("ada").await.unwrap());
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_client_that_counts_ends_at_the_true_count(actions in actions()) {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(play(actions));
        }
    }

    #[tokio::test]
    async fn a_reply_in_order_publishes_nothing() {
        let mut world = World::new(None).await;
        world.notify().await;
        while world.take(usize::MAX) {}
        for _ in 0..3 {
            world.finish(world.begin(Operation::Count).await).await;
            assert_eq!(world.top().await, 1);
        }
        // A mark publishes its own `read`, and nothing else.
        world.finish(world.begin(Operation::MarkAll).await).await;
        world.finish(world.begin(Operation::MarkAll).await).await;
        assert_eq!(world.top().await, 2);
        // What waits makes one count necessary, however often the client asks.
        world.notify().await;
        for _ in 0..3 {
            world.finish(world.begin(Operation::Count).await).await;
            assert_eq!(world.top().await, 4);
        }
    }

    #[tokio::test]
    async fn a_reply_on_another_connection_is_followed_by_the_count() {
        let mut world = World::new(Some(PostKey::random())).await;
        for number in 1..=3 {
            world.finish(world.begin(Operation::Count).await).await;
            assert_eq!(world.top().await, number);
        }
        world.notify().await;
        // The `read` of a mark has the count already.
        world.finish(world.begin(Operation::MarkAll).await).await;
        assert_eq!(world.top().await, 5);
        // One that changes nothing publishes none.
        world.finish(world.begin(Operation::MarkAll).await).await;
        assert_eq!(world.top().await, 6);
        world.shown = 7;
        while world.take(usize::MAX) {}
        assert_eq!(world.shown, 0);
    }
}
