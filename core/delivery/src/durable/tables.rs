//! Tables of the store, and their keys.

use tidewire_store::{Key, Table};
use tidewire_stream::UserId;

use crate::{EndpointId, MessageId, email::AddressHash};

/// Endpoint, message → job.
pub(super) const JOBS: Table = Table("delivery.jobs");
/// User, endpoint, message → job that quiet hours hold back.
pub(super) const HELD: Table = Table("delivery.held");
/// Time, message → dead letter.
pub(super) const DEAD: Table = Table("delivery.dead");
/// Push registration → user and subscription.
pub(super) const REGISTRATIONS: Table = Table("delivery.registrations");
/// User, push registration → time.
pub(super) const REGISTRATIONS_OF: Table = Table("delivery.registrations_of");
/// Hash of a push endpoint → its registration.
pub(super) const PUSH_ENDPOINTS: Table = Table("delivery.push_endpoints");
/// User → mail address.
pub(super) const EMAILS: Table = Table("delivery.emails");
/// User, hash of a mail address → time at which the user unsubscribed it.
pub(super) const UNSUBSCRIBED: Table = Table("delivery.unsubscribed");

/// All tables, in any order.
pub const STORE_TABLES: [Table; 8] = [
    JOBS,
    HELD,
    DEAD,
    REGISTRATIONS,
    REGISTRATIONS_OF,
    PUSH_ENDPOINTS,
    EMAILS,
    UNSUBSCRIBED,
];

/// The tables with what belongs to users, each with its content in words.
pub const USER_TABLES: [(&str, Table); 3] = [
    ("push registrations", REGISTRATIONS),
    ("mail addresses", EMAILS),
    ("dead letters", DEAD),
];

/// First bytes of the keys of an endpoint's jobs. Names of endpoints have no zero byte.
pub(super) fn jobs_of(endpoint: &EndpointId) -> Key {
    let mut key = vec![endpoint.channel as u8];
    key.extend(endpoint.name.as_bytes());
    key.push(0);
    key
}

/// The key after all jobs of an endpoint.
pub(super) fn after_jobs_of(endpoint: &EndpointId) -> Key {
    let mut key = jobs_of(endpoint);
    if let Some(last) = key.last_mut() {
        *last = 1;
    }
    key
}

pub(super) fn job(endpoint: &EndpointId, id: &MessageId) -> Key {
    let mut key = jobs_of(endpoint);
    key.extend(id.as_str().as_bytes());
    key
}

/// First bytes of the keys of a user's held jobs. Ids of users have no zero byte.
pub(super) fn held_of(user: &UserId) -> Key {
    let mut key = user.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

/// The key of a held job: its user, then its key in [`JOBS`].
pub(super) fn held(user: &UserId, endpoint: &EndpointId, id: &MessageId) -> Key {
    let mut key = held_of(user);
    key.extend(job(endpoint, id));
    key
}

pub(super) fn dead(time_ms: i64, id: &str) -> Key {
    let mut key = time_ms.max(0).to_be_bytes().to_vec();
    key.extend(id.as_bytes());
    key
}

/// The message of a key of [`DEAD`].
pub(super) fn message_of_dead(key: &[u8]) -> &[u8] {
    key.get(8..).unwrap_or_default()
}

/// First bytes of the keys of a user's registrations. Ids of users have no zero byte.
pub(super) fn registrations_of(user: &UserId) -> Key {
    let mut key = user.as_str().as_bytes().to_vec();
    key.push(0);
    key
}

pub(super) fn registration_of(user: &UserId, registration: &str) -> Key {
    let mut key = registrations_of(user);
    key.extend(registration.as_bytes());
    key
}

/// First bytes of the keys of a user's unsubscribed addresses.
pub(super) fn unsubscribed_of(user: &UserId) -> Key {
    registrations_of(user)
}

/// The key of an unsubscribed address.
pub(super) fn unsubscribed(user: &UserId, address: &AddressHash) -> Key {
    let mut key = unsubscribed_of(user);
    key.extend(address.as_bytes());
    key
}

/// The user of a key of [`REGISTRATIONS_OF`].
pub(super) fn user_of(key: &[u8]) -> Option<UserId> {
    let end = key.iter().position(|byte| *byte == 0)?;
    let user = std::str::from_utf8(key.get(..end)?).ok()?;
    Some(UserId::new(user))
}
