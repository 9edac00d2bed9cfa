//! Server series: the figures of the last hour, one sample each ten seconds, in memory.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_proto::v1::{GetServerSeriesResponse, ServerSample};

/// Samples of the series: one hour.
const SAMPLES: usize = 360;

/// The samples of the last hour. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ServerSeries {
    samples: Arc<Mutex<VecDeque<ServerSample>>>,
    config_file: Option<Arc<str>>,
}

impl ServerSeries {
    /// Time between two samples.
    pub const STEP: Duration = Duration::from_secs(10);

    /// No samples yet, of a server with this configuration file.
    #[must_use]
    pub fn of_server(config_file: Option<&str>) -> Self {
        Self {
            config_file: config_file.map(Arc::from),
            ..Self::default()
        }
    }

    /// Adds a sample. The oldest leaves.
    pub fn push(&self, sample: ServerSample) {
        let mut samples = self.samples.lock();
        if samples.len() == SAMPLES {
            samples.pop_front();
        }
        samples.push_back(sample);
    }

    /// All samples, oldest first.
    pub(crate) fn read(&self) -> GetServerSeriesResponse {
        let samples = self.samples.lock();
        GetServerSeriesResponse {
            step_ms: u32::try_from(Self::STEP.as_millis()).unwrap_or(u32::MAX),
            samples: samples.iter().cloned().collect(),
            config_file: self.config_file.as_deref().map(str::to_owned),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_series_holds_an_hour() {
        let series = ServerSeries::default();
        for timestamp in 0..1_000 {
            series.push(ServerSample {
                timestamp,
                ..ServerSample::default()
            });
        }
        let response = series.read();
        assert_eq!(response.step_ms, 10_000);
        let times: Vec<_> = response.samples.iter().map(|one| one.timestamp).collect();
        assert_eq!(times, (640..1_000).collect::<Vec<_>>());
    }
}
