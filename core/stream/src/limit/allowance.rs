//! What one session may do: the places it holds and the rates it keeps to.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use parking_lot::Mutex;

use super::{
    LimitError, LimitOptions, NetworkKey,
    addresses::RETRY_COUNT_MS,
    bucket::{Bucket, Rate},
    count::{Counts, Place},
};
use crate::{Identity, Scope, SharedClock, UserId};

/// A session is closed when so many seconds' worth was refused, and not sooner
/// than after [`MIN_PATIENCE`] messages.
const PATIENCE_SECONDS: u32 = 10;

/// So many refused messages are always borne.
const MIN_PATIENCE: u32 = 100;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is answered.
    Pass,
    /// It came too fast: answer `resource_exhausted`.
    Refuse {
        /// When the next may come, in milliseconds.
        retry_after_ms: u32,
    },
    /// So much was refused that the session ends with 4004.
    Close,
}

/// What one session may do. Cheap to clone; the clones are one allowance.
#[derive(Clone)]
pub struct Allowance(Arc<Core>);

struct Core {
    clock: SharedClock,
    meters: Mutex<Meters>,
    /// Bytes that came in and are not charged yet.
    received: AtomicU64,
    is_exempt: AtomicBool,
    users: Counts<UserId>,
    connections_per_user: u32,
    places: Mutex<Places>,
}

#[derive(Default)]
struct Places {
    /// Held, and given back by being dropped.
    _network: Option<Place<NetworkKey>>,
    user: Option<(UserId, Place<UserId>)>,
    connection: Option<Arc<dyn Any + Send + Sync>>,
    is_released: bool,
}

#[derive(Default)]
struct Meters {
    messages: Option<Box<Meter>>,
    bytes: Option<Box<Meter>>,
}

/// A rate, and how much of what goes beyond it is borne.
///
/// Refused messages are taken from a second bucket, which holds ten seconds' worth
/// and fills at the same rate: so a client that is a little too fast is refused for
/// ever, and one that sends at twice the rate or more is closed after a while.
struct Meter {
    rate: Rate,
    bucket: Bucket,
    patience_rate: Rate,
    patience: Bucket,
}

impl Meter {
    fn new(per_second: u32, min_patience: u32) -> Option<Box<Self>> {
        let patience = per_second
            .saturating_mul(PATIENCE_SECONDS)
            .max(min_patience);
        (per_second > 0).then(|| {
            Box::new(Self {
                rate: Rate::per_second(per_second, per_second),
                bucket: Bucket::default(),
                patience_rate: Rate::per_second(per_second, patience),
                patience: Bucket::default(),
            })
        })
    }

    fn charge(&mut self, now_ms: i64, amount: u64) -> Verdict {
        let Err(retry_after_ms) = self.bucket.take(self.rate, now_ms, amount) else {
            return Verdict::Pass;
        };
        match self.patience.take(self.patience_rate, now_ms, amount) {
            Ok(()) => Verdict::Refuse { retry_after_ms },
            Err(_) => Verdict::Close,
        }
    }
}

impl std::fmt::Debug for Allowance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Allowance").finish_non_exhaustive()
    }
}

impl Allowance {
    pub(super) fn new(
        clock: SharedClock,
        options: &LimitOptions,
        users: Counts<UserId>,
        network: Option<Place<NetworkKey>>,
    ) -> Self {
        Self(Arc::new(Core {
            clock,
            meters: Mutex::new(Meters {
                messages: Meter::new(options.messages_per_second, MIN_PATIENCE),
                bytes: Meter::new(options.bytes_per_second, 0),
            }),
            received: AtomicU64::new(0),
            is_exempt: AtomicBool::new(false),
            users,
            connections_per_user: options.connections_per_user,
            places: Mutex::new(Places {
                _network: network,
                ..Places::default()
            }),
        }))
    }

    /// An allowance without any limit.
    #[must_use]
    pub fn unlimited(clock: SharedClock) -> Self {
        Self::new(clock, &LimitOptions::default(), Counts::default(), None)
    }

    /// Notes what came in. It is charged with the next message.
    pub fn received(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Charges one message, and the bytes that were noted.
    #[must_use]
    pub fn charge(&self) -> Verdict {
        let bytes = self.0.received.swap(0, Ordering::Relaxed);
        if self.0.is_exempt.load(Ordering::Relaxed) {
            return Verdict::Pass;
        }
        let mut meters = self.0.meters.lock();
        let Meters {
            messages,
            bytes: byte_meter,
        } = &mut *meters;
        if messages.is_none() && byte_meter.is_none() {
            return Verdict::Pass;
        }
        let now_ms = self.0.clock.now_ms();
        let by_messages = messages
            .as_mut()
            .map_or(Verdict::Pass, |meter| meter.charge(now_ms, 1));
        if by_messages != Verdict::Pass {
            return by_messages;
        }
        byte_meter
            .as_mut()
            .map_or(Verdict::Pass, |meter| meter.charge(now_ms, bytes))
    }

    /// Counts the session as this identity's. For a session that begins, and for
    /// one whose client gave a token: before it takes the identity over.
    ///
    /// # Errors
    /// The user has as many sessions as it may have.
    pub fn assign(&self, identity: &Identity) -> Result<(), LimitError> {
        if let Some(user) = identity.user() {
            let mut places = self.0.places.lock();
            let is_counted = places.user.as_ref().is_some_and(|(own, _)| own == user);
            // A session that is over counts for nobody.
            if !is_counted && !places.is_released {
                let limit = self.0.connections_per_user;
                let place = self.0.users.take(user, limit).ok_or_else(|| {
                    LimitError::new(
                        format!("this user has {limit} connections already, and may not have more"),
                        RETRY_COUNT_MS,
                    )
                })?;
                places.user = Some((user.clone(), place));
            }
        }
        let is_exempt = identity.has(Scope::Service);
        self.0.is_exempt.store(is_exempt, Ordering::Relaxed);
        Ok(())
    }

    /// Keeps the place of the session's connection until the session is over.
    pub fn keep(&self, place: Arc<dyn Any + Send + Sync>) {
        let mut places = self.0.places.lock();
        if !places.is_released {
            places.connection = Some(place);
        }
    }

    /// The session is over: gives its places back. Dropping the last clone does
    /// the same.
    pub fn release(&self) {
        let places = std::mem::replace(
            &mut *self.0.places.lock(),
            Places {
                is_released: true,
                ..Places::default()
            },
        );
        // Outside of the lock: what it held has locks of its own.
        drop(places);
    }
}
