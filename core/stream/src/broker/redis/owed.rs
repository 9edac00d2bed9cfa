//! Owed epochs: channels whose subscribers miss a publication that nobody can repeat.
//!
//! A full Redis refuses a publication of an engine, or too many wait already. The engine has stored
//! its event and goes on, and the next publication follows the one before without a hole. Each
//! history channel that lost one is therefore owed a new epoch, of which its subscribers are told by a
//! `gap`. It begins as soon as Redis takes that write, and one epoch is enough for all losses before.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{sync::Notify, task::JoinSet, time::sleep};

use super::{
    catch_up::CatchUp,
    loss_log::{self, Loss, LossLog},
    route::{Place, Route},
};
use crate::{ChannelName, Class, Namespaces, StreamError, broker::LocalDelivery};

/// Channels that are owed an epoch at most, of some hundred bytes each.
const MOST: usize = 65_536;

/// Time between two attempts: a channel begins one epoch a second at most.
const PAUSE: Duration = Duration::from_secs(1);

/// Channels of one server that begin epochs at once. When as many do not begin, the others wait for the
/// next round.
const AT_ONCE: usize = 8;

/// The channels that are owed an epoch.
#[derive(Debug)]
pub(super) struct OwedEpochs {
    namespaces: Arc<Namespaces>,
    route: Route,
    channels: Mutex<HashSet<ChannelName>>,
    added: Notify,
    losses: LossLog,
    superseded: LossLog,
}

impl OwedEpochs {
    pub(super) fn new(namespaces: Arc<Namespaces>, route: Route) -> Arc<Self> {
        Arc::new(Self {
            namespaces,
            route,
            channels: Mutex::default(),
            added: Notify::new(),
            losses: LossLog::new(Loss::Publication),
            superseded: LossLog::new(Loss::Superseded),
        })
    }

    /// Logs and counts a publication without a sender that could repeat it.
    pub(super) fn lose(&self, channel: &ChannelName, error: &StreamError) {
        let class = self.namespaces.get(channel).map(|one| one.class);
        if class == Some(Class::Latest) {
            // The next value takes the place of this one: nobody misses anything.
            metrics::counter!("tidewire_broker_superseded_values_total").increment(1);
            self.superseded.note(channel, error);
            return;
        }
        metrics::counter!("tidewire_broker_lost_publications_total").increment(1);
        self.losses.note(channel, error);
        if class == Some(Class::History) {
            self.add(channel.clone());
        }
    }

    fn add(&self, channel: ChannelName) {
        let mut channels = self.channels.lock();
        if channels.len() >= MOST && !channels.contains(&channel) {
            tracing::error!(%channel, "subscribers miss a publication and are not told: too many channels lost one");
            return;
        }
        channels.insert(channel);
        self.added.notify_one();
    }

    /// Begins the epochs, and logs losses, until it is aborted.
    pub(super) async fn run<D: LocalDelivery>(self: Arc<Self>, catch_up: Arc<CatchUp<D>>) {
        tokio::join!(self.begin_epochs(&catch_up), self.log_losses());
    }

    async fn log_losses(&self) {
        loop {
            sleep(loss_log::PAUSE).await;
            self.losses.log();
            self.superseded.log();
        }
    }

    /// Each server has rounds of its own: those of one that is lost hold up no other.
    async fn begin_epochs<D: LocalDelivery>(self: &Arc<Self>, catch_up: &Arc<CatchUp<D>>) {
        let (mut rounds, mut busy) = (JoinSet::new(), HashSet::new());
        loop {
            tokio::select! {
                () = self.added.notified() => {}
                Some(ended) = rounds.join_next() => match ended {
                    Ok(place) => drop(busy.remove(&place)),
                    Err(error) => tracing::error!(%error, "channels of a server begin no epochs"),
                },
            }
            for (place, owed) in self.take_owed(&busy) {
                busy.insert(place.clone());
                let owed = Arc::new(Mutex::new(owed.into_iter()));
                let mut beginning = JoinSet::new();
                for _ in 0..AT_ONCE {
                    beginning.spawn(self.clone().begin(owed.clone(), catch_up.clone()));
                }
                let owing = self.clone();
                rounds.spawn(async move {
                    while beginning.join_next().await.is_some() {}
                    owed.lock().by_ref().for_each(|channel| owing.add(channel));
                    sleep(PAUSE).await;
                    place
                });
            }
        }
    }

    /// Takes the channels of places without a round.
    fn take_owed(&self, busy: &HashSet<Place>) -> HashMap<Place, Vec<ChannelName>> {
        let mut owed: HashMap<_, Vec<_>> = HashMap::new();
        self.channels.lock().retain(|channel| {
            let place = self.route.of(channel);
            let waits = busy.contains(&place);
            if !waits {
                owed.entry(place).or_default().push(channel.clone());
            }
            waits
        });
        owed
    }

    /// Begins epochs one after the other, until one does not begin.
    async fn begin<D: LocalDelivery>(
        self: Arc<Self>,
        owed: Arc<Mutex<std::vec::IntoIter<ChannelName>>>,
        catch_up: Arc<CatchUp<D>>,
    ) {
        loop {
            let next = owed.lock().next();
            let Some(channel) = next else { return };
            let Some(namespace) = self.namespaces.get(&channel) else {
                continue;
            };
            let begun = catch_up.check(&channel, None, namespace, "renew").await;
            if let Err(error) = begun {
                tracing::debug!(%channel, %error, "a new epoch begins later");
                return self.add(channel);
            }
        }
    }
}
