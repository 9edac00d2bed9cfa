//! What clients follow and back ends register, as far as it outlives a connection: wallets,
//! users' wallets, filters of events, and transactions.

use alloy::primitives::{Address, B256};
use tidewire_proto::v1::EventFilter;
use tidewire_stream::{ChannelName, Epoch, UserId};
use tokio::{sync::oneshot, time::timeout};

use crate::{
    ChainEngine, ChainError,
    engine::{ANSWER, parse_hash},
    events::Filter,
    interest::{FilterSpec, InsertOutcome},
    journal::JournalEntry,
    processor::Command,
    publish::wallet_channel,
    transaction::Interest,
    wallet::parse_address,
};

/// How many transactions may be followed, on all chains together.
const TRANSACTIONS: usize = 100_000;

impl ChainEngine {
    /// Ties a wallet to a user: it is followed from now on, whoever is connected, and after
    /// a restart too. Done when that is stored. Tied already, nothing changes.
    ///
    /// # Errors
    /// It is no address, no chain is configured, or there are too many.
    pub async fn link_wallet(&self, user: &UserId, address: &str) -> Result<(), ChainError> {
        let address = self.wallet(address)?;
        let too_many = |error: &dyn std::fmt::Display| {
            let user = user.as_str();
            ChainError::TooMany(format!("{address:?} is not tied to {user:?}: {error}"))
        };
        let wallets = &self.interest().wallets;
        let linked = wallets.link(address, user);
        linked.map_err(|refused| too_many(&refused))?;
        if let Err(full) = wallets.follow(address) {
            wallets.links.unlink(address, user);
            return Err(too_many(&full));
        }
        self.stored().await
    }

    /// Unties a wallet from a user. Not tied, nothing changes.
    ///
    /// # Errors
    /// It is no address, or no chain is configured.
    pub async fn unlink_wallet(&self, user: &UserId, address: &str) -> Result<(), ChainError> {
        let address = self.wallet(address)?;
        self.interest().wallets.links.unlink(address, user);
        self.stored().await
    }

    /// Whether the part of a `wallet:` channel after the colon is tied to this user.
    #[must_use]
    pub fn owns_wallet(&self, user: &UserId, rest: &str) -> bool {
        let address = rest.parse().ok();
        address.is_some_and(|address| self.interest().wallets.links.is_linked(&address, user))
    }

    /// Whom a wallet is tied to: for engines that have something to say to its users.
    #[must_use]
    pub fn users_of_wallet(&self, address: &Address) -> Vec<UserId> {
        self.interest().wallets.links.users(address)
    }

    /// The channel of a wallet.
    ///
    /// # Errors
    /// It is no address, or no chain is configured.
    pub fn wallet_channel(&self, address: &str) -> Result<ChannelName, ChainError> {
        let address = self.wallet(address)?;
        let channel = wallet_channel(&address);
        channel.map_err(|error| ChainError::TooMany(error.to_string()))
    }

    /// Checks the part of a `wallet:` channel after the colon.
    ///
    /// # Errors
    /// It is no address, or no chain is configured.
    pub fn check_wallet_channel(&self, rest: &str) -> Result<(), ChainError> {
        self.wallet(rest).map(drop)
    }

    /// Follows the wallet of a `wallet:` channel.
    ///
    /// # Errors
    /// It is no address, no chain is configured, or too many wallets are followed.
    pub fn follow_wallet(&self, rest: &str) -> Result<(), ChainError> {
        let address = self.wallet(rest)?;
        let followed = self.interest().wallets.follow(address);
        followed.map_err(|full| ChainError::TooMany(full.to_string()))
    }

    /// Follows events, and says on which channel they come.
    ///
    /// # Errors
    /// There is no such chain, the filter is refused, or too many are in use.
    pub async fn watch_events(
        &self,
        chain: u64,
        filter: EventFilter,
    ) -> Result<ChannelName, ChainError> {
        let (reply, channel) = oneshot::channel();
        let asked = self.chain(chain)?;
        let parsed = Filter::parse(&filter)?;
        let asked_for = Box::new((parsed, FilterSpec::new(chain, filter)));
        let command = Command::Events(asked_for, reply);
        asked.request(command, channel).await
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
    /// The name is none of a transaction, too many are watched, or the chain is slow.
    pub fn follow_transaction(&self, rest: &str) -> Result<(), ChainError> {
        let key @ (id, hash) = self.transaction(rest)?;
        let transactions = &self.interest().transactions;
        match transactions.insert(key, (), TRANSACTIONS, || {}) {
            InsertOutcome::Known => Ok(()),
            InsertOutcome::Full => Err(ChainError::TooMany(format!(
                "{TRANSACTIONS} transactions are followed, which is the most that may be"
            ))),
            InsertOutcome::New => {
                // Whoever wants to know how it stands asks for that.
                let (reply, _) = oneshot::channel();
                let command = Command::Watch(hash, Interest::Session, Vec::new(), reply);
                self.chain(id)?
                    .try_send(command)
                    .inspect_err(|_| transactions.remove(&key))
            }
        }
    }

    /// Checks the part of an `events:` channel after the colon: it is in the reply to a
    /// `watch`, and its filter is followed or was until lately.
    ///
    /// # Errors
    /// States what was expected.
    pub fn check_events_channel(&self, rest: &str) -> Result<(), ChainError> {
        let channel = self.events(rest)?;
        match self.interest().filters.contains(&channel) {
            true => Ok(()),
            false => Err(unknown_events(rest)),
        }
    }

    /// Keeps the filter of an `events:` channel for a subscriber.
    ///
    /// # Errors
    /// No such filter is followed.
    pub fn follow_events(&self, rest: &str) -> Result<(), ChainError> {
        let channel = self.events(rest)?;
        match self.interest().filters.touch(&channel) {
            true => Ok(()),
            false => Err(unknown_events(rest)),
        }
    }

    /// The epoch of a wallet's channel, while the wallet is followed.
    #[must_use]
    pub fn wallet_epoch(&self, rest: &str) -> Option<Epoch> {
        self.interest().wallets.retained.epoch(&rest.parse().ok()?)
    }

    /// The epoch of a channel of events, while they are followed.
    #[must_use]
    pub fn events_epoch(&self, rest: &str) -> Option<Epoch> {
        let channel = ChannelName::parse(&format!("events:{rest}")).ok()?;
        self.interest().filters.epoch(&channel)
    }

    /// Stores what changed of what is followed. Called about once a second.
    pub async fn store_interest(&self) {
        if self.interest().is_dirty() {
            self.enter(JournalEntry::default()).await;
        }
    }

    /// Forgets what nobody has followed for a while. Looks at all that there is, and so is
    /// called more rarely.
    pub async fn expire_interest(&self, is_followed: impl Fn(&ChannelName) -> bool) {
        let now_ms = self.now_ms();
        let unwatched = self.interest().sweep_transactions(now_ms, &is_followed);
        for (chain, hash) in unwatched.await {
            let Ok(chain) = self.chain(chain) else {
                continue;
            };
            if let Err(error) = chain.send(Command::Unwatch(hash, Interest::Session)).await {
                tracing::debug!(%error, "a watch could not be ended");
            }
        }
        let forgotten = self.interest().sweep(now_ms, is_followed).await;
        if !forgotten.is_empty() {
            let entry = JournalEntry {
                forgotten,
                ..JournalEntry::default()
            };
            self.enter(entry).await;
        }
    }

    /// The chain and the hash that a `tx:` channel names.
    fn transaction(&self, rest: &str) -> Result<(u64, B256), ChainError> {
        let (id, hash) = rest.split_once(':').ok_or_else(|| ChainError::Name {
            asked: rest.to_owned(),
            expected: "a chain and a hash, as in tx:1:0x…",
        })?;
        self.check_blocks_channel(id)?;
        let hash = parse_hash(hash)?;
        let id = id.parse().map_err(|_| ChainError::NoChain)?;
        Ok((id, hash))
    }

    /// An `events:` channel of a configured chain.
    fn events(&self, rest: &str) -> Result<ChannelName, ChainError> {
        let chain = rest.split(':').next().unwrap_or_default();
        self.check_blocks_channel(chain)?;
        ChannelName::parse(&format!("events:{rest}")).map_err(|_| unknown_events(rest))
    }

    /// A wallet, on a server that follows any.
    fn wallet(&self, address: &str) -> Result<Address, ChainError> {
        if !self.has_chains() {
            return Err(ChainError::NoChain);
        }
        parse_address(address)
    }

    /// Waits until what changed is stored.
    async fn stored(&self) -> Result<(), ChainError> {
        let entered = timeout(ANSWER, self.journal().enter(JournalEntry::default()));
        match entered.await {
            Ok(entered) => entered.map_err(|_| ChainError::Ended),
            Err(_) => Err(ChainError::Stuck),
        }
    }

    async fn enter(&self, entry: JournalEntry) {
        // What is not entered now is looked at again.
        if timeout(ANSWER, self.journal().enter(entry)).await.is_err() {
            tracing::warn!("what is followed cannot be stored: the store is slow or stuck");
        }
    }
}

fn unknown_events(rest: &str) -> ChainError {
    ChainError::Name {
        asked: rest.to_owned(),
        expected: "the channel that the reply to `watch` named: `watch` first",
    }
}
