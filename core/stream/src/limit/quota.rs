//! Session quota: the rate limits of one session, and the permits that it holds.

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
    bucket::{Rate, TokenBucket},
    semaphore::{KeyedPermit, KeyedSemaphore},
};
use crate::{Identity, Scope, SharedClock, UserId};

/// Seconds' worth of refused messages after which a session is closed.
const TOLERANCE_SECONDS: u32 = 10;

/// Refused messages that every session is allowed, so that a low rate does not close a
/// client for one burst.
const MIN_TOLERANCE: u32 = 100;

/// The decision on one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The message is within the rates.
    Pass,
    /// The message exceeds a rate: answer `resource_exhausted`.
    Refuse {
        /// Milliseconds until the next message may pass.
        retry_after_ms: u32,
    },
    /// The session exceeded its rate for too long: close it with 4004.
    Close,
}

/// The settings that all sessions of a server share.
pub(super) struct QuotaSettings {
    clock: SharedClock,
    messages: Option<RateLimit>,
    bytes: Option<RateLimit>,
    connections_per_user: u32,
    users: KeyedSemaphore<UserId>,
}

impl QuotaSettings {
    pub(super) fn new(
        options: &LimitOptions,
        users: KeyedSemaphore<UserId>,
        clock: SharedClock,
    ) -> Arc<Self> {
        Arc::new(Self {
            clock,
            messages: RateLimit::new(options.messages_per_second, MIN_TOLERANCE),
            bytes: RateLimit::new(options.bytes_per_second, 0),
            connections_per_user: options.connections_per_user,
            users,
        })
    }
}

/// A rate, and how far a session may exceed it.
///
/// A message that finds its bucket empty is refused and charged to a second bucket. That
/// one holds ten seconds' worth and fills at the same rate. A client that is slightly too
/// fast is therefore refused, but never closed. At twice the rate or more, it is closed.
#[derive(Debug, Clone, Copy)]
struct RateLimit {
    rate: Rate,
    tolerance: Rate,
}

impl RateLimit {
    /// `None` when `per_second` is 0, which means no limit.
    fn new(per_second: u32, min_tolerance: u32) -> Option<Self> {
        let tolerance = per_second
            .saturating_mul(TOLERANCE_SECONDS)
            .max(min_tolerance);
        (per_second > 0).then(|| Self {
            rate: Rate::per_second(per_second, per_second),
            tolerance: Rate::per_second(per_second, tolerance),
        })
    }
}

/// The buckets of one session for one [`RateLimit`].
#[derive(Default)]
struct RateLimiter {
    bucket: TokenBucket,
    tolerance: TokenBucket,
}

impl RateLimiter {
    fn charge(&mut self, limit: RateLimit, now_ms: i64, amount: u64) -> Verdict {
        let Err(retry_after_ms) = self.bucket.take(limit.rate, now_ms, amount) else {
            return Verdict::Pass;
        };
        match self.tolerance.take(limit.tolerance, now_ms, amount) {
            Ok(()) => Verdict::Refuse { retry_after_ms },
            Err(_) => Verdict::Close,
        }
    }
}

/// The quota of one session. Cheap to clone; the clones share one quota.
#[derive(Clone)]
pub struct SessionQuota(Arc<SharedQuota>);

struct SharedQuota {
    settings: Arc<QuotaSettings>,
    limiters: Mutex<RateLimiters>,
    /// Received bytes that no message was charged with yet.
    received: AtomicU64,
    is_exempt: AtomicBool,
    permits: Mutex<SessionPermits>,
}

/// Boxed, so that a session without limits does not hold the buckets.
#[derive(Default)]
struct RateLimiters {
    messages: Option<Box<RateLimiter>>,
    bytes: Option<Box<RateLimiter>>,
}

#[derive(Default)]
struct SessionPermits {
    /// Never read: dropping it gives the permit back.
    _network: Option<KeyedPermit<NetworkKey>>,
    user: Option<(UserId, KeyedPermit<UserId>)>,
    connection: Option<Arc<dyn Any + Send + Sync>>,
    is_released: bool,
}

impl std::fmt::Debug for SessionQuota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionQuota").finish_non_exhaustive()
    }
}

impl SessionQuota {
    pub(super) fn new(
        settings: Arc<QuotaSettings>,
        network: Option<KeyedPermit<NetworkKey>>,
    ) -> Self {
        Self(Arc::new(SharedQuota {
            limiters: Mutex::new(RateLimiters {
                messages: settings.messages.map(|_| Box::default()),
                bytes: settings.bytes.map(|_| Box::default()),
            }),
            settings,
            received: AtomicU64::new(0),
            is_exempt: AtomicBool::new(false),
            permits: Mutex::new(SessionPermits {
                _network: network,
                ..SessionPermits::default()
            }),
        }))
    }

    /// A quota without any limit.
    #[must_use]
    pub fn unlimited(clock: SharedClock) -> Self {
        let options = LimitOptions::default();
        let settings = QuotaSettings::new(&options, KeyedSemaphore::default(), clock);
        Self::new(settings, None)
    }

    /// Records received bytes. The next [`charge`](Self::charge) charges them.
    pub fn record_received(&self, bytes: usize) {
        self.0.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Charges one message and the bytes that were recorded since the last charge.
    #[must_use]
    pub fn charge(&self) -> Verdict {
        let received = self.0.received.swap(0, Ordering::Relaxed);
        if self.0.is_exempt.load(Ordering::Relaxed) {
            return Verdict::Pass;
        }
        let settings = &*self.0.settings;
        if settings.messages.is_none() && settings.bytes.is_none() {
            return Verdict::Pass;
        }
        let mut limiters = self.0.limiters.lock();
        let RateLimiters { messages, bytes } = &mut *limiters;
        let now_ms = settings.clock.now_ms();
        let charge = |limiter: &mut Option<Box<RateLimiter>>, limit, amount| match (limiter, limit)
        {
            (Some(limiter), Some(limit)) => limiter.charge(limit, now_ms, amount),
            _ => Verdict::Pass,
        };
        match charge(messages, settings.messages, 1) {
            Verdict::Pass => charge(bytes, settings.bytes, received),
            exceeded => exceeded,
        }
    }

    /// Counts the session for the user of `identity`, and exempts the `service` scope
    /// from the rates. Call it before a session adopts an identity.
    ///
    /// # Errors
    /// The user has as many sessions as it may have.
    pub fn assign(&self, identity: &Identity) -> Result<(), LimitError> {
        if let Some(user) = identity.user() {
            let mut permits = self.0.permits.lock();
            let is_counted = permits.user.as_ref().is_some_and(|(own, _)| own == user);
            // A session that has ended counts for no user.
            if !is_counted && !permits.is_released {
                let limit = self.0.settings.connections_per_user;
                let permit = self.0.settings.users.try_acquire(user, limit);
                let permit = permit.ok_or_else(|| {
                    LimitError::new(
                        format!("this user has {limit} connections already, and may not have more"),
                        RETRY_COUNT_MS,
                    )
                })?;
                permits.user = Some((user.clone(), permit));
            }
        }
        let is_exempt = identity.has(Scope::Service);
        self.0.is_exempt.store(is_exempt, Ordering::Relaxed);
        Ok(())
    }

    /// Holds the guard of the session's connection until the session ends.
    pub fn hold(&self, connection: Arc<dyn Any + Send + Sync>) {
        let mut permits = self.0.permits.lock();
        if !permits.is_released {
            permits.connection = Some(connection);
        }
    }

    /// Gives all permits back, because the session has ended. Dropping the last clone
    /// does the same.
    pub fn release(&self) {
        let permits = std::mem::replace(
            &mut *self.0.permits.lock(),
            SessionPermits {
                is_released: true,
                ..SessionPermits::default()
            },
        );
        // Dropped outside of the lock, because the permits take locks of their own.
        drop(permits);
    }
}
