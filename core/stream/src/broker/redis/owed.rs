//! Owed epochs: channels whose subscribers miss a publication that nobody can repeat.
//!
//! A full Redis refuses a publication of an engine, or too many wait already. The engine has stored
//! its event and goes on, and the next publication follows the one before without a hole. Each
//! history channel that lost one is therefore owed a new epoch, of which its subscribers are told by a
//! `gap`. It begins as soon as Redis takes that write, and one epoch is enough for all losses before.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tokio::{sync::Notify, time::sleep};

use super::{
    catch_up::CatchUp,
    loss_log::{self, Loss, LossLog},
};
use crate::{ChannelName, Class, Namespaces, StreamError, broker::LocalDelivery};

/// Channels that are owed an epoch at most, of some hundred bytes each.
const MOST: usize = 65_536;

/// Time between two attempts: a channel begins one epoch a second at most.
const PAUSE: Duration = Duration::from_secs(1);

/// The channels that are owed an epoch.
#[derive(Debug)]
pub(super) struct OwedEpochs {
    namespaces: Arc<Namespaces>,
    channels: Mutex<HashSet<ChannelName>>,
    added: Notify,
    losses: LossLog,
    superseded: LossLog,
}

impl OwedEpochs {
    pub(super) fn new(namespaces: Arc<Namespaces>) -> Arc<Self> {
        Arc::new(Self {
            namespaces,
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

    async fn begin_epochs<D: LocalDelivery>(&self, catch_up: &CatchUp<D>) {
        loop {
            self.added.notified().await;
            let owed = std::mem::take(&mut *self.channels.lock());
            let mut owed = owed.into_iter();
            for channel in owed.by_ref() {
                let Some(namespace) = self.namespaces.get(&channel) else {
                    continue;
                };
                let begun = catch_up.check(&channel, None, namespace, "renew").await;
                if let Err(error) = begun {
                    tracing::debug!(%channel, %error, "a new epoch begins later");
                    self.add(channel);
                    break;
                }
            }
            for channel in owed {
                self.add(channel);
            }
            sleep(PAUSE).await;
        }
    }
}
