//! Servers: has writers and a subscription task serve each place, and follows the slots of a cluster.
//!
//! The tasks of a place end when it has no channels any more. A channel whose slot has moved is
//! subscribed to at its new place, whether or not the old one said so.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use tidewire_redis::slots::SLOTS;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use super::{
    health::{Link, LinkHealth},
    positions::Positions,
    queue::Queue,
    route::{Place, Route},
    subscriber::{Change, SubscriptionTask},
    writer::Writer,
};
use crate::broker::LocalDelivery;

/// Time in which changes of the map are gathered: the slots of a server move one by one.
const GATHERING: Duration = Duration::from_millis(10);

/// Starts the tasks of each place.
pub(super) struct Servers<D> {
    pub(super) route: Route,
    pub(super) health: Arc<LinkHealth>,
    pub(super) positions: Arc<Positions>,
    pub(super) queues: Vec<Arc<Queue>>,
    pub(super) changes: mpsc::UnboundedReceiver<Change>,
    /// The writers of each queue, without a place.
    pub(super) writers: Vec<Writer>,
    /// A subscription task of a place, which hears of changes.
    pub(super) subscriber: SubscriberOf<D>,
}

/// Makes the subscription task of a place.
pub(super) type SubscriberOf<D> =
    Box<dyn Fn(Place, mpsc::UnboundedReceiver<Change>) -> SubscriptionTask<D> + Send>;

impl<D: LocalDelivery> Servers<D> {
    /// Serves all places until the broker is dropped.
    pub(super) async fn run(mut self) {
        let mut maps = self.route.changes();
        let mut map = maps.borrow_and_update().clone();
        let mut subscribers: HashMap<Place, mpsc::UnboundedSender<Change>> = HashMap::new();
        let mut tasks: JoinSet<(Place, usize)> = JoinSet::new();
        let mut running: HashSet<(Place, usize)> = HashSet::new();
        let mut is_changed = true;
        loop {
            if is_changed {
                for place in self.route.places() {
                    let subscription = (place.clone(), 0);
                    if running.insert(subscription.clone()) {
                        let (sender, changes) = mpsc::unbounded_channel();
                        subscribers.insert(place.clone(), sender);
                        let subscriber = (self.subscriber)(place.clone(), changes);
                        tasks.spawn(async move {
                            subscriber.run().await;
                            subscription
                        });
                    }
                    for (index, writer) in (1..).zip(&self.writers) {
                        let writing = (place.clone(), index);
                        if running.insert(writing.clone()) {
                            let writer = writer.at(place.clone());
                            tasks.spawn(async move {
                                writer.run().await;
                                writing
                            });
                        }
                    }
                }
                self.note_slots();
            }
            is_changed = true;
            tokio::select! {
                change = self.changes.recv() => match change {
                    Some(Change(channel)) => {
                        is_changed = false;
                        // Without a place, it is subscribed to once it has one.
                        if let Some(subscriber) = subscribers.get(&self.route.of(&channel)) {
                            let _ = subscriber.send(Change(channel));
                        }
                    }
                    None => return,
                },
                _ = maps.changed() => {
                    sleep(GATHERING).await;
                    let newest = maps.borrow_and_update().clone();
                    self.queues.iter().for_each(|queue| queue.follow());
                    for channel in self.positions.names() {
                        let slot = self.route.slot(&channel);
                        if map.master(slot) != newest.master(slot)
                            && let Some(subscriber) = subscribers.get(&self.route.of(&channel))
                        {
                            let _ = subscriber.send(Change(channel));
                        }
                    }
                    map = newest;
                }
                Some(ended) = tasks.join_next() => {
                    // One that was aborted, or panicked, has no place to name.
                    let Ok(task) = ended else { continue };
                    running.remove(&task);
                    let (place, index) = task;
                    if index == 0 {
                        subscribers.remove(&place);
                    }
                    if self.route.is_gone(&place) {
                        self.health.forget(&place);
                    }
                }
            }
        }
    }

    fn note_slots(&self) {
        if !self.route.is_cluster() {
            return;
        }
        match self.route.map().served() {
            SLOTS => self.health.recover(&Link::Slots),
            0 => {
                let text = "no server of the cluster has answered yet";
                self.health.fail(Link::Slots, &text);
            }
            some => {
                let text = format!(
                    "{} of {SLOTS} slots of the cluster have no server",
                    SLOTS - some
                );
                self.health.fail(Link::Slots, &text);
            }
        }
    }
}
