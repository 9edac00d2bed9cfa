//! Contacts: the browsers and the mail address that reach a user outside of the application.
//!
//! A user who unsubscribes an address stays so, whatever addresses are set afterwards, until the
//! back end says that the user subscribed again.
//!
//! A push endpoint belongs to one user: who registers it last has it. The end of a registration
//! ends the messages that wait for it. The same user may register it again at any time: its id
//! and its messages stay.

use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use tidewire_store::{Batch, Key, SharedStore, StoreError};
use tidewire_stream::{SharedClock, UserId};

use super::{
    record::{self, StoredEmail, StoredRegistration},
    tables,
};
use crate::{
    Channel, DeliveryError, EndpointId, Target,
    email::{AddressHash, EmailAddress, UnsubscribeLink},
    guard::{Guard, Networks},
    web_push::PushSubscription,
};

/// Push registrations of a user at most. A further one ends the oldest.
pub const MAX_REGISTRATIONS: usize = 20;

/// Unsubscribed addresses of a user at most. A further one forgets the oldest.
pub const MAX_UNSUBSCRIBED: usize = 100;

/// Rows of one read.
const PAGE: usize = 1_000;

/// A user's mail address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmailContact {
    /// The address.
    pub address: String,
    /// Whether the user unsubscribed it: no mail is sent to it.
    pub is_unsubscribed: bool,
}

/// The contacts of all users.
#[derive(Clone)]
pub struct Contacts {
    store: SharedStore,
    clock: SharedClock,
    /// Held while a contact is changed: an endpoint has one user, and who unsubscribes stays so.
    changing: Arc<tokio::sync::Mutex<()>>,
}

impl std::fmt::Debug for Contacts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contacts").finish_non_exhaustive()
    }
}

impl Contacts {
    /// The contacts in a store.
    #[must_use]
    pub fn new(store: SharedStore, clock: SharedClock) -> Self {
        Self {
            store,
            clock,
            changing: Arc::default(),
        }
    }

    /// Registers a browser for a user, and returns the registration's id. One that the user has
    /// of the same endpoint gets the new keys, and keeps its id and its messages; one of another
    /// user ends. `json` is the document that `subscription` was read from.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn register(
        &self,
        user: &UserId,
        json: &[u8],
        subscription: &PushSubscription,
    ) -> Result<String, StoreError> {
        let _changing = self.changing.lock().await;
        let mut batch = Batch::new();
        let endpoint_hash = Sha256::digest(subscription.endpoint()).to_vec();
        let known = self
            .store
            .get(tables::PUSH_ENDPOINTS, endpoint_hash.clone())
            .await?;
        let known = known.and_then(|id| String::from_utf8(id).ok());
        let mut own = self.registrations(user).await?;
        let is_own = own.iter().any(|(_, id)| Some(id) == known.as_ref());
        own.retain(|(_, id)| Some(id) != known.as_ref());
        own.sort();
        // After the others, also where a clock that was ahead wrote these: the oldest make room.
        let newest_ms = own.last().map_or(0, |(created_ms, _)| *created_ms);
        let created_ms = self.clock.now_ms().max(newest_ms.saturating_add(1));
        let surplus = (own.len() + 1).saturating_sub(MAX_REGISTRATIONS);
        let surplus = own.drain(..surplus).map(|(_, id)| id);
        let (same, ended) = match is_own {
            true => (known, None),
            false => (None, known),
        };
        for id in ended.into_iter().chain(surplus) {
            if let Some(registration) = self.registration(&id).await? {
                end(&mut batch, &id, &registration);
            }
        }
        let id = same.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>()));
        let registration = StoredRegistration {
            user: user.as_str().to_owned(),
            subscription: json.to_vec(),
            endpoint_hash: endpoint_hash.clone(),
            created_ms,
        };
        batch.put(
            tables::REGISTRATIONS,
            id.as_str(),
            record::encode(&registration),
        );
        batch.put(
            tables::REGISTRATIONS_OF,
            tables::registration_of(user, &id),
            created_ms.to_be_bytes(),
        );
        batch.put(tables::PUSH_ENDPOINTS, endpoint_hash, id.as_str());
        self.store.commit(batch).await?;
        Ok(id)
    }

    /// Ends a registration of a user, with the messages that wait for it. Returns whether the
    /// user had it.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn unregister(&self, user: &UserId, id: &str) -> Result<bool, StoreError> {
        let _changing = self.changing.lock().await;
        let found = self.registration(id).await?;
        let Some(registration) = found.filter(|found| found.user == user.as_str()) else {
            return Ok(false);
        };
        let mut batch = Batch::new();
        end(&mut batch, id, &registration);
        self.store.commit(batch).await?;
        Ok(true)
    }

    /// Ends a registration whose push service says that it is gone.
    pub(super) async fn remove(&self, id: &str) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let Some(registration) = self.registration(id).await? else {
            return Ok(());
        };
        let mut batch = Batch::new();
        end(&mut batch, id, &registration);
        self.store.commit(batch).await
    }

    /// Sets a user's mail address, or removes it. An address that the user unsubscribed at any
    /// time stays so.
    ///
    /// # Errors
    /// The address is none, or the store cannot be read or written.
    pub async fn set_email(
        &self,
        user: &UserId,
        address: Option<&str>,
    ) -> Result<Result<(), DeliveryError>, StoreError> {
        let _changing = self.changing.lock().await;
        let mut batch = Batch::new();
        let known = self.stored_email(user).await?;
        if let Some(known) = known.as_ref().filter(|known| known.is_unsubscribed) {
            // One of an earlier version has no row yet.
            let address = AddressHash::of(&known.address);
            self.forbid(&mut batch, user, &address).await?;
        }
        match address {
            None => batch.delete(tables::EMAILS, user.as_str()),
            Some(text) => {
                let address = match text.parse::<EmailAddress>() {
                    Ok(address) => address.to_string(),
                    Err(error) => {
                        let problem = format!("{text:?}, expected a mail address: {error}");
                        return Ok(Err(DeliveryError::invalid("address", problem)));
                    }
                };
                let is_same = |known: &StoredEmail| {
                    AddressHash::of(&known.address) == AddressHash::of(&address)
                };
                let email = StoredEmail {
                    // Mails of an earlier version may have gone to an address that stays.
                    has_own_links: known
                        .filter(is_same)
                        .is_none_or(|known| known.has_own_links),
                    address,
                    is_unsubscribed: false,
                };
                batch.put(tables::EMAILS, user.as_str(), record::encode(&email));
            }
        }
        self.store.commit(batch).await?;
        Ok(Ok(()))
    }

    /// Sends a user no mails to the address of a link any more. It need not be the present one. A
    /// link of an earlier version names no address: it unsubscribes the present one, if the mail
    /// may have gone to it.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn unsubscribe(&self, link: &UnsubscribeLink) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let address = match link.address {
            Some(address) => address,
            None => match self.stored_email(&link.user).await? {
                Some(email) if !email.has_own_links => AddressHash::of(&email.address),
                _ => return Ok(()),
            },
        };
        let mut batch = Batch::new();
        self.forbid(&mut batch, &link.user, &address).await?;
        self.store.commit(batch).await
    }

    /// Sends a user mails to the present address again: the user subscribed anew.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub async fn subscribe(&self, user: &UserId) -> Result<(), StoreError> {
        let _changing = self.changing.lock().await;
        let Some(email) = self.stored_email(user).await? else {
            return Ok(());
        };
        let mut batch = Batch::new();
        let address = AddressHash::of(&email.address);
        batch.delete(tables::UNSUBSCRIBED, tables::unsubscribed(user, &address));
        let email = StoredEmail {
            is_unsubscribed: false,
            ..email
        };
        batch.put(tables::EMAILS, user.as_str(), record::encode(&email));
        self.store.commit(batch).await
    }

    /// A user's mail address, and whether the user unsubscribed it.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn email_contact(&self, user: &UserId) -> Result<Option<EmailContact>, StoreError> {
        let Some(email) = self.stored_email(user).await? else {
            return Ok(None);
        };
        let key = tables::unsubscribed(user, &AddressHash::of(&email.address));
        let row = self.store.get(tables::UNSUBSCRIBED, key).await?;
        Ok(Some(EmailContact {
            is_unsubscribed: email.is_unsubscribed || row.is_some(),
            address: email.address,
        }))
    }

    /// Stages that a user unsubscribed an address.
    async fn forbid(
        &self,
        batch: &mut Batch,
        user: &UserId,
        address: &AddressHash,
    ) -> Result<(), StoreError> {
        let key = tables::unsubscribed(user, address);
        let prefix = tables::unsubscribed_of(user);
        let rows = self
            .store
            .scan(tables::UNSUBSCRIBED, prefix, None, PAGE)
            .await?;
        let mut others: Vec<_> = rows
            .into_iter()
            .filter(|(other, _)| *other != key)
            .collect();
        others.sort_unstable_by(|(_, one), (_, other)| one.cmp(other));
        // After the others, as with registrations.
        let newest = others.last().and_then(|(_, time)| time.first_chunk());
        let newest_ms = newest.map_or(0, |time| i64::from_be_bytes(*time));
        let now_ms = self.clock.now_ms().max(newest_ms.saturating_add(1));
        let surplus = (others.len() + 1).saturating_sub(MAX_UNSUBSCRIBED);
        for (key, _) in others.drain(..surplus) {
            batch.delete(tables::UNSUBSCRIBED, key);
        }
        batch.put(tables::UNSUBSCRIBED, key, now_ms.max(0).to_be_bytes());
        Ok(())
    }

    /// A user's mail address, if mails may be sent to it.
    pub(super) async fn email(&self, user: &UserId) -> Result<Option<EmailAddress>, StoreError> {
        let email = self.email_contact(user).await?;
        let email = email.filter(|email| !email.is_unsubscribed);
        // It was checked when it was set.
        Ok(email.and_then(|email| email.address.parse().ok()))
    }

    async fn stored_email(&self, user: &UserId) -> Result<Option<StoredEmail>, StoreError> {
        let value = self.store.get(tables::EMAILS, user.as_str().into()).await?;
        value
            .map(|value| record::decode("mail address", &value))
            .transpose()
    }

    /// The ids of a user's registrations, each with its time.
    pub(super) async fn registrations(
        &self,
        user: &UserId,
    ) -> Result<Vec<(i64, String)>, StoreError> {
        let prefix = tables::registrations_of(user);
        let rows = self
            .store
            .scan(tables::REGISTRATIONS_OF, prefix.clone(), None, PAGE)
            .await?;
        let rows = rows.into_iter().filter_map(|(key, value)| {
            let id = key.get(prefix.len()..)?.to_vec();
            let created_ms = value
                .first_chunk()
                .map(|bytes| i64::from_be_bytes(*bytes))?;
            Some((created_ms, String::from_utf8(id).ok()?))
        });
        Ok(rows.collect())
    }

    /// The target of a registration. None if it has ended.
    pub(super) async fn push_target(&self, id: &str) -> Result<Option<Target>, StoreError> {
        let Some(registration) = self.registration(id).await? else {
            return Ok(None);
        };
        // The guard was passed at registration, and each connection checks its address.
        let read = PushSubscription::read(&registration.subscription, Guard::new(Networks::Any));
        Ok(read.ok().map(|subscription| Target::Push {
            registration: id.into(),
            subscription,
        }))
    }

    /// The users of a page who have a contact, after a user, in their order.
    pub(super) async fn users_after(
        &self,
        after: Option<&UserId>,
        limit: usize,
    ) -> Result<Vec<UserId>, StoreError> {
        let pushed = self
            .users_in(
                tables::REGISTRATIONS_OF,
                after.map(after_registrations),
                limit,
            )
            .await?;
        let mailed = self
            .users_in(
                tables::EMAILS,
                after.map(|user| user.as_str().into()),
                limit,
            )
            .await?;
        let mut users: Vec<_> = pushed.into_iter().chain(mailed).collect();
        users.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        users.dedup();
        users.truncate(limit);
        Ok(users)
    }

    async fn users_in(
        &self,
        table: tidewire_store::Table,
        after: Option<Key>,
        limit: usize,
    ) -> Result<Vec<UserId>, StoreError> {
        let mut users: Vec<UserId> = Vec::new();
        let mut after = after;
        while users.len() < limit {
            let rows = self.store.scan(table, Key::new(), after, limit).await?;
            let Some((last, _)) = rows.last() else { break };
            after = Some(last.clone());
            for (key, _) in &rows {
                let user = match table == tables::EMAILS {
                    true => std::str::from_utf8(key).ok().map(UserId::new),
                    false => tables::user_of(key),
                };
                if let Some(user) = user
                    && users.last() != Some(&user)
                {
                    users.push(user);
                }
            }
            if rows.len() < limit {
                break;
            }
        }
        Ok(users)
    }

    async fn registration(&self, id: &str) -> Result<Option<StoredRegistration>, StoreError> {
        let value = self.store.get(tables::REGISTRATIONS, id.into()).await?;
        value
            .map(|value| record::decode("push registration", &value))
            .transpose()
    }
}

/// The key after a user's registrations.
fn after_registrations(user: &UserId) -> Key {
    let mut key = tables::registrations_of(user);
    key.push(0xff);
    key
}

/// Stages the end of a registration, and of its jobs.
fn end(batch: &mut Batch, id: &str, registration: &StoredRegistration) {
    let user = UserId::new(&registration.user);
    let endpoint = EndpointId {
        channel: Channel::Push,
        name: id.into(),
    };
    batch.delete(tables::REGISTRATIONS, id);
    batch.delete(tables::REGISTRATIONS_OF, tables::registration_of(&user, id));
    batch.delete(tables::PUSH_ENDPOINTS, registration.endpoint_hash.clone());
    batch.delete_range(
        tables::JOBS,
        tables::jobs_of(&endpoint),
        tables::after_jobs_of(&endpoint),
    );
}
