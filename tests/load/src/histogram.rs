//! Histogram of durations with 64 buckets per doubling: a relative error of at most 1.6 %.

/// Bits of precision below the highest bit of a value.
const PRECISION: u32 = 6;
const PER_DOUBLING: usize = 1 << PRECISION;
const BUCKETS: usize = (64 - PRECISION as usize + 1) * PER_DOUBLING;

/// Count of each value.
#[derive(Debug, Clone)]
pub(crate) struct Histogram {
    buckets: Vec<u32>,
    count: u64,
    max: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: vec![0; BUCKETS],
            count: 0,
            max: 0,
        }
    }
}

impl Histogram {
    /// Counts a value.
    pub(crate) fn record(&mut self, value: u64) {
        self.buckets[bucket(value)] += 1;
        self.count += 1;
        self.max = self.max.max(value);
    }

    /// Removes all values.
    pub(crate) fn clear(&mut self) {
        self.buckets.fill(0);
        self.count = 0;
        self.max = 0;
    }

    /// Returns the largest value.
    pub(crate) fn max(&self) -> u64 {
        self.max
    }

    /// Returns the value that this share of all values does not exceed, or 0 without values.
    pub(crate) fn quantile(&self, share: f64) -> u64 {
        let rank = ((self.count as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        for (index, &count) in self.buckets.iter().enumerate() {
            below += u64::from(count);
            if below >= rank {
                return highest(index).min(self.max);
            }
        }
        self.max
    }
}

fn bucket(value: u64) -> usize {
    let bits = 64 - value.leading_zeros();
    let shift = bits.saturating_sub(PRECISION + 1);
    // Below 128 each value has its own bucket. Above, the top seven bits select the bucket.
    shift as usize * PER_DOUBLING + (value >> shift) as usize
}

fn highest(index: usize) -> u64 {
    if index < 2 * PER_DOUBLING {
        return index as u64;
    }
    let shift = index / PER_DOUBLING - 1;
    let top = (index - shift * PER_DOUBLING) as u64;
    ((top + 1) << shift) - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_size() {
        for value in [
            0,
            1,
            63,
            64,
            127,
            128,
            129,
            1_000,
            123_456,
            u64::from(u32::MAX),
        ] {
            let shown = highest(bucket(value));
            assert!(
                shown >= value && shown - value <= value / 64,
                "{value}: {shown}"
            );
        }
        assert!(bucket(u64::MAX) < BUCKETS);
    }

    #[test]
    fn quantiles_are_ranks() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), 0);
        for value in 1..=100 {
            histogram.record(value);
        }
        assert_eq!(
            (
                histogram.quantile(0.5),
                histogram.quantile(0.99),
                histogram.quantile(1.0)
            ),
            (50, 99, 100)
        );
        histogram.clear();
        assert_eq!((histogram.max(), histogram.quantile(1.0)), (0, 0));
    }
}
