//! Delivery outside of the application: wires the channels of the configuration to the hub.

use std::{sync::Arc, time::Duration};

use tidewire_delivery::{
    DeliveryConfig, Dispatcher, DispatcherLimits, Senders,
    durable::{Contacts, DurableJobs, Planner, Presence},
};
use tidewire_notification::NotificationHub;
use tidewire_service::{Delivery, DeliverySlot};
use tidewire_store::SharedStore;
use tidewire_stream::{SharedClock, StreamCore, UserId};
use tokio_util::sync::CancellationToken;

/// The delivery channels of a server, before its hub is open.
pub(crate) struct DeliveryChannels {
    config: DeliveryConfig,
    senders: Arc<Senders>,
    store: SharedStore,
    stream: Arc<StreamCore>,
    clock: SharedClock,
    contacts: Contacts,
}

impl DeliveryChannels {
    /// The channels of a configuration. None if it has none.
    pub(crate) fn new(
        config: &DeliveryConfig,
        store: &SharedStore,
        stream: &Arc<StreamCore>,
        clock: &SharedClock,
    ) -> anyhow::Result<Option<Self>> {
        if !config.has_channels() {
            return Ok(None);
        }
        Ok(Some(Self {
            senders: Arc::new(Senders::new(config, clock)?),
            config: config.clone(),
            contacts: Contacts::new(store.clone(), clock.clone()),
            store: store.clone(),
            stream: stream.clone(),
            clock: clock.clone(),
        }))
    }

    /// Sends the notifications of `hub` until cancelled. Messages that are not sent by then
    /// stay in the store.
    pub(crate) async fn run(
        self,
        hub: NotificationHub,
        slot: DeliverySlot,
        cancel: CancellationToken,
    ) {
        let jobs = DurableJobs::new(
            self.store.clone(),
            hub.clone(),
            self.contacts.clone(),
            self.clock.clone(),
        );
        let limits = DispatcherLimits {
            jobs: self.config.total_queue,
            in_flight: self.config.in_flight,
        };
        let dispatcher = Dispatcher::new(
            self.senders.clone(),
            Arc::new(jobs.clone()),
            self.clock.clone(),
            limits,
        );
        slot.set(Delivery {
            contacts: self.contacts.clone(),
            senders: self.senders,
            jobs: jobs.clone(),
            dispatcher: dispatcher.clone(),
        });
        let planner = Planner::new(
            jobs.clone(),
            Arc::new(Connections(self.stream)),
            self.config,
            dispatcher.clone(),
        );
        tokio::join!(
            jobs.run(&dispatcher, cancel.clone()),
            planner.run(cancel.clone()),
        );
        dispatcher.stop().await;
    }
}

/// The users with a connection to this server.
struct Connections(Arc<StreamCore>);

impl Presence for Connections {
    fn is_connected(&self, user: &UserId) -> bool {
        self.0.is_connected(user)
    }

    fn dead_after(&self) -> Duration {
        self.0.options().longest_silence()
    }
}
