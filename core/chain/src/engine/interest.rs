//! Engine methods about interest that outlives a connection: wallets, users' wallets, event
//! filters, and transactions.

use alloy::primitives::{Address, B256};
use tidewire_proto::v1::EventFilter;
use tidewire_stream::{ChannelName, Epoch, UserId};
use tokio::{sync::oneshot, time::timeout};

use super::{REPLY_TIMEOUT, parse_hash};
use crate::{
    ChainEngine, ChainError,
    address::parse_address,
    channel::wallet_channel,
    events::Filter,
    interest::{FilterSpec, InsertOutcome},
    journal::JournalEntry,
    processor::Command,
    transaction::{Interest, RequestOwner},
};

impl ChainEngine {
    /// Links a wallet to a user, and follows it from now on, after a restart too. Returns when
    /// the link is stored. Linking twice changes nothing.
    ///
    /// # Errors
    /// The address is refused, no chain is configured, or a limit is reached.
    pub async fn link_wallet(&self, user: &UserId, address: &str) -> Result<(), ChainError> {
        let address = self.wallet(address)?;
        let refused = |error: &dyn std::fmt::Display| {
            let user = user.as_str();
            ChainError::LimitReached(format!("{address:?} is not linked to {user:?}: {error}"))
        };
        let wallets = &self.0.interest.wallets;
        let linked = wallets.link(address, user);
        linked.map_err(|error| refused(&error))?;
        if let Err(limit) = wallets.follow(address, &RequestOwner::default()) {
            wallets.links.unlink(address, user);
            return Err(refused(&limit));
        }
        self.flush_interest().await
    }

    /// Removes the link of a wallet to a user. Without one nothing changes.
    ///
    /// # Errors
    /// The address is refused, or no chain is configured.
    pub async fn unlink_wallet(&self, user: &UserId, address: &str) -> Result<(), ChainError> {
        let address = self.wallet(address)?;
        self.0.interest.wallets.links.unlink(address, user);
        self.flush_interest().await
    }

    /// Whether the wallet of a `wallet:` channel is linked to this user.
    #[must_use]
    pub fn owns_wallet(&self, user: &UserId, rest: &str) -> bool {
        let address = rest.parse().ok();
        address.is_some_and(|address| self.0.interest.wallets.links.is_linked(&address, user))
    }

    /// The users that a wallet is linked to, for engines that notify them.
    #[must_use]
    pub fn users_of_wallet(&self, address: &Address) -> Vec<UserId> {
        self.0.interest.wallets.links.users(address)
    }

    /// The channel of a wallet.
    ///
    /// # Errors
    /// The address is refused, or no chain is configured.
    pub fn wallet_channel(&self, address: &str) -> Result<ChannelName, ChainError> {
        Ok(wallet_channel(&self.wallet(address)?))
    }

    /// Checks the part of a `wallet:` channel after the colon: an address.
    ///
    /// # Errors
    /// The address is refused, or no chain is configured.
    pub fn check_wallet_channel(&self, rest: &str) -> Result<(), ChainError> {
        self.wallet(rest).map(drop)
    }

    /// Follows the wallet of a `wallet:` channel.
    ///
    /// # Errors
    /// The address is refused, no chain is configured, or the maximum of wallets or the client's
    /// share of them is followed.
    pub fn follow_wallet(&self, rest: &str) -> Result<(), ChainError> {
        let address = self.wallet(rest)?;
        Ok(self.0.interest.wallets.follow(address, &self.1)?)
    }

    /// Follows the events of a filter, and returns their channel.
    ///
    /// # Errors
    /// The chain is not configured or does not answer in time, the filter is refused, or the
    /// maximum of filters or the client's share of them is in use.
    pub async fn watch_events(
        &self,
        chain: u64,
        filter: EventFilter,
    ) -> Result<ChannelName, ChainError> {
        let (reply, channel) = oneshot::channel();
        let watched = self.chain(chain)?;
        let parsed = Filter::parse(&filter)?;
        let requester = watched.requester(&self.1)?;
        let filter = Box::new((parsed, FilterSpec::new(chain, filter)));
        let command = Command::Events(filter, requester, reply);
        watched.request(command, channel).await
    }

    /// Checks the part of a `tx:` channel after the colon: a chain's id and a hash.
    ///
    /// # Errors
    /// States what was expected.
    pub fn check_transaction_channel(&self, rest: &str) -> Result<(), ChainError> {
        self.transaction(rest).map(drop)
    }

    /// Watches the transaction of a `tx:` channel.
    ///
    /// # Errors
    /// The name is not a chain and a hash, the maximum of transactions or the client's share of them
    /// is followed or watched, or the chain does not answer in time.
    pub fn follow_transaction(&self, rest: &str) -> Result<(), ChainError> {
        let key @ (id, hash) = self.transaction(rest)?;
        let transactions = &self.0.interest.transactions;
        match transactions.insert(key, (), &self.1, || {})? {
            InsertOutcome::Known => Ok(()),
            InsertOutcome::New => {
                let followed = self.chain(id).and_then(|chain| chain.follow(hash, &self.1));
                followed.inspect_err(|_| transactions.remove(&key))
            }
        }
    }

    /// Checks the part of an `events:` channel after the colon: the reply to a `watch` named it,
    /// and its filter is still retained.
    ///
    /// # Errors
    /// States what was expected.
    pub fn check_events_channel(&self, rest: &str) -> Result<(), ChainError> {
        let channel = self.events(rest)?;
        match self.0.interest.filters.contains(&channel) {
            true => Ok(()),
            false => Err(unknown_events(rest)),
        }
    }

    /// Retains the filter of an `events:` channel for a subscriber.
    ///
    /// # Errors
    /// The filter is not in the registry, or had no follower and does not fit in the client's share.
    pub fn follow_events(&self, rest: &str) -> Result<(), ChainError> {
        let channel = self.events(rest)?;
        match self.0.interest.filters.touch(&channel, &self.1)? {
            true => Ok(()),
            false => Err(unknown_events(rest)),
        }
    }

    /// The filter of an `events:` channel, while it is retained.
    #[must_use]
    pub fn events_filter(&self, rest: &str) -> Option<EventFilter> {
        let channel = ChannelName::parse(&format!("events:{rest}")).ok()?;
        let filter = self.0.interest.filters.value(&channel);
        filter.map(EventFilter::from)
    }

    /// The epoch of a `wallet:` channel, while its wallet is retained.
    #[must_use]
    pub fn wallet_epoch(&self, rest: &str) -> Option<Epoch> {
        let address = rest.parse().ok()?;
        self.0.interest.wallets.retained.epoch(&address)
    }

    /// The epoch of an `events:` channel, while its filter is retained.
    #[must_use]
    pub fn events_epoch(&self, rest: &str) -> Option<Epoch> {
        let channel = ChannelName::parse(&format!("events:{rest}")).ok()?;
        self.0.interest.filters.epoch(&channel)
    }

    /// Writes changes of the interest registry to the store. Call it about once a second.
    pub async fn store_interest(&self) {
        if self.0.interest.is_dirty() {
            self.append(JournalEntry::default()).await;
        }
    }

    /// Forgets items without a follower for ten minutes. It checks every retained item, so call
    /// it about every ten seconds.
    pub async fn expire_interest(&self, has_subscriber: impl Fn(&ChannelName) -> bool) {
        let now_ms = self.0.clock.now_ms();
        let interest = &self.0.interest;
        let expired = interest.expire_transactions(now_ms, &has_subscriber);
        for (chain, hash) in expired.await {
            let Ok(chain) = self.chain(chain) else {
                continue;
            };
            if let Err(error) = chain.send(Command::Unwatch(hash, Interest::Session)).await {
                tracing::debug!(%hash, %error, "a watch that expired is not ended");
            }
        }
        let forgotten = interest.sweep(now_ms, has_subscriber).await;
        if !forgotten.is_empty() {
            let entry = JournalEntry {
                forgotten,
                ..JournalEntry::default()
            };
            self.append(entry).await;
        }
    }

    /// Reads the name of a `tx:` channel: a configured chain and a hash.
    fn transaction(&self, rest: &str) -> Result<(u64, B256), ChainError> {
        let (id, hash) = rest.split_once(':').ok_or_else(|| ChainError::Channel {
            given: rest.to_owned(),
            expected: "a chain and a hash, as in tx:1:0x…",
        })?;
        self.check_blocks_channel(id)?;
        let hash = parse_hash(hash)?;
        let id = id.parse().map_err(|_| ChainError::NoChain)?;
        Ok((id, hash))
    }

    /// Reads the name of an `events:` channel of a configured chain.
    fn events(&self, rest: &str) -> Result<ChannelName, ChainError> {
        let chain = rest.split(':').next().unwrap_or_default();
        self.check_blocks_channel(chain)?;
        ChannelName::parse(&format!("events:{rest}")).map_err(|_| unknown_events(rest))
    }

    /// Reads the address of a wallet, on a server with a chain to follow it on.
    fn wallet(&self, address: &str) -> Result<Address, ChainError> {
        if self.0.chains.is_empty() {
            return Err(ChainError::NoChain);
        }
        Ok(parse_address(address)?)
    }

    /// Writes changes of the interest registry to the store, and waits for it.
    async fn flush_interest(&self) -> Result<(), ChainError> {
        let written = timeout(
            REPLY_TIMEOUT,
            self.0.journal.append(JournalEntry::default()),
        );
        match written.await {
            Ok(result) => result.map_err(|_| ChainError::NotRunning),
            Err(_) => Err(ChainError::StoreTimeout),
        }
    }

    async fn append(&self, entry: JournalEntry) {
        let appended = timeout(REPLY_TIMEOUT, self.0.journal.append(entry));
        // The next sweep tries again.
        if appended.await.is_err() {
            tracing::warn!("the store does not write wallets and filters in time");
        }
    }
}

fn unknown_events(rest: &str) -> ChainError {
    ChainError::Channel {
        given: rest.to_owned(),
        expected: "the channel that the reply to `watch` named: `watch` first",
    }
}
