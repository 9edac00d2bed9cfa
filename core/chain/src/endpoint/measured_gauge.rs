//! Gauge of something that is measured while a chain is followed here.
//!
//! Another node may follow the chain later. A last value that stood on for ever would look like a chain
//! that stands still, and 0 on a node that never followed it like an endpoint without blocks.

use std::sync::OnceLock;

use metrics::{Gauge, Label};

/// A gauge that exists from the first value on, and has none (`NaN`) after it is dropped.
pub(super) struct MeasuredGauge {
    name: &'static str,
    labels: Vec<Label>,
    gauge: OnceLock<Gauge>,
}

impl MeasuredGauge {
    pub(super) fn new(name: &'static str, labels: &[(&'static str, String)]) -> Self {
        let labels = labels.iter();
        Self {
            name,
            labels: labels
                .map(|(name, value)| Label::new(*name, value.clone()))
                .collect(),
            gauge: OnceLock::new(),
        }
    }

    pub(super) fn set(&self, value: f64) {
        let gauge = self
            .gauge
            .get_or_init(|| metrics::gauge!(self.name, self.labels.clone()));
        gauge.set(value);
    }
}

impl Drop for MeasuredGauge {
    fn drop(&mut self) {
        if let Some(gauge) = self.gauge.get() {
            gauge.set(f64::NAN);
        }
    }
}
