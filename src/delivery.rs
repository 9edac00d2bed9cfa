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

use crate::engine_store::StoreTerm;

/// The delivery channels of a server, before its hub is open.
pub(crate) struct DeliveryChannels {
    config: DeliveryConfig,
    senders: Arc<Senders>,
    stream: Arc<StreamCore>,
}

impl DeliveryChannels {
    /// The channels of a configuration. None if it has none.
    pub(crate) fn new(
        config: &DeliveryConfig,
        stream: &Arc<StreamCore>,
        clock: &SharedClock,
    ) -> anyhow::Result<Option<Self>> {
        if !config.has_channels() {
            return Ok(None);
        }
        Ok(Some(Self {
            senders: Arc::new(Senders::new(config, clock)?),
            config: config.clone(),
            stream: stream.clone(),
        }))
    }

    /// The channels of an open hub, and its store and clock, in `slot` from now on, so that no request finds
    /// them missing once the hub takes requests.
    pub(crate) fn open(
        &self,
        hub: &NotificationHub,
        (store, clock): (&SharedStore, &SharedClock),
        slot: &DeliverySlot,
    ) -> OpenChannels {
        let contacts = Contacts::new(store.clone(), clock.clone());
        let jobs = DurableJobs::new(store.clone(), hub.clone(), contacts.clone(), clock.clone());
        let limits = DispatcherLimits {
            jobs: self.config.total_queue,
            in_flight: self.config.in_flight,
        };
        let dispatcher = Dispatcher::new(
            self.senders.clone(),
            Arc::new(jobs.clone()),
            clock.clone(),
            limits,
        );
        slot.set(Delivery {
            contacts,
            senders: self.senders.clone(),
            jobs: jobs.clone(),
            dispatcher: dispatcher.clone(),
        });
        let planner = Planner::new(
            jobs.clone(),
            Arc::new(Connections(self.stream.clone())),
            self.config.clone(),
            dispatcher.clone(),
        );
        OpenChannels {
            jobs,
            dispatcher,
            planner,
        }
    }
}

/// The delivery channels of an open hub.
pub(crate) struct OpenChannels {
    jobs: DurableJobs,
    dispatcher: Dispatcher,
    planner: Planner,
}

impl OpenChannels {
    /// Sends the notifications of the hub until cancelled, and waits for attempts in flight. Messages
    /// that are not sent by then stay in the store. The end of the term ends everything at once.
    pub(crate) async fn run(self, term: StoreTerm, cancel: CancellationToken) {
        let sending = async {
            tokio::join!(
                self.jobs.run(&self.dispatcher, cancel.clone()),
                self.planner.run(cancel.clone()),
            );
            self.dispatcher.stop().await;
        };
        tokio::select! {
            biased;
            _ = term.ended() => self.dispatcher.abandon(),
            () = sending => {}
        }
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
