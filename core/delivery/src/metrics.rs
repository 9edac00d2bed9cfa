//! Metrics: counts of attempts and ends, by channel. The server turns them into Prometheus.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Channel, JobEnd};

/// A counted event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Count {
    /// A message was accepted by its receiver.
    Delivered,
    /// An attempt failed, and another one follows.
    Retried,
    /// A message became a dead letter.
    Dead,
    /// A message's endpoint was gone, and was removed.
    Gone,
    /// A message expired before it was sent.
    Expired,
    /// A message was not wanted any more.
    Unwanted,
    /// Quiet hours held a message back before another attempt.
    Held,
    /// A job was refused for lack of room. It stays in the store.
    Full,
}

impl Count {
    /// All counts.
    pub const ALL: [Self; 8] = [
        Self::Delivered,
        Self::Retried,
        Self::Dead,
        Self::Gone,
        Self::Expired,
        Self::Unwanted,
        Self::Held,
        Self::Full,
    ];

    /// The value of the label `outcome`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Retried => "retried",
            Self::Dead => "dead",
            Self::Gone => "gone",
            Self::Expired => "expired",
            Self::Unwanted => "unwanted",
            Self::Held => "held",
            Self::Full => "full",
        }
    }

    pub(crate) fn of(channel: Channel, end: &JobEnd) -> Self {
        match end {
            JobEnd::Delivered => Self::Delivered,
            JobEnd::Dead { .. } => Self::Dead,
            // A dead letter each: nobody but the operator can remove a webhook.
            JobEnd::Gone { .. } if channel == Channel::Webhook => Self::Dead,
            JobEnd::Gone { .. } => Self::Gone,
            JobEnd::Expired => Self::Expired,
            JobEnd::Unwanted => Self::Unwanted,
            JobEnd::Held { .. } => Self::Held,
        }
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct DeliveryMetrics {
    counts: [[AtomicU64; Count::ALL.len()]; Channel::ALL.len()],
}

impl DeliveryMetrics {
    pub(crate) fn add(&self, channel: Channel, count: Count) {
        self.counts[channel as usize][count as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// One count of one channel.
    #[must_use]
    pub fn get(&self, channel: Channel, count: Count) -> u64 {
        self.counts[channel as usize][count as usize].load(Ordering::Relaxed)
    }

    /// All counts, for export.
    pub fn all(&self) -> impl Iterator<Item = (Channel, Count, u64)> + '_ {
        let pairs = Channel::ALL
            .into_iter()
            .flat_map(|channel| Count::ALL.map(|count| (channel, count)));
        pairs.map(|(channel, count)| (channel, count, self.get(channel, count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_has_a_counter_of_its_own() {
        let metrics = DeliveryMetrics::default();
        for channel in Channel::ALL {
            for count in Count::ALL {
                metrics.add(channel, count);
            }
        }
        assert_eq!(metrics.all().count(), 24);
        assert!(metrics.all().all(|(_, _, value)| value == 1));
        let mut names: Vec<_> = Count::ALL.map(Count::name).into();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), 8);
    }
}
