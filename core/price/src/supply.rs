//! Supply source: polls the numbers of coins in circulation over HTTP, for market caps.
//!
//! The source answers with a JSON object of assets and numbers, as texts or numbers: `{"BTC":
//! "19841234.375", "ETH": 120500000}`. A response is used as a whole or not at all. While the
//! source fails, the last response stays in use, and the market overview shows its age. An asset
//! that is missing in the response has no market cap.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::BytesMut;
use http::StatusCode;
use http_body_util::BodyExt as _;
use humantime::format_duration;
use metrics::Counter;
use parking_lot::Mutex;
use rustls::ClientConfig;
use serde_json::{Value, value::RawValue};
use tidewire_stream::{SharedClock, redact_url, redacted_url};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    aggregate::Aggregator,
    clock::now_us,
    config::{MAX_SUPPLY, SupplySpec},
    http_client,
    supervisor::restart_on_panic,
    venue::excerpt,
};

/// The pause after a failure, unless the polling interval is shorter.
const RETRY_AFTER: Duration = Duration::from_secs(60);

/// The task that polls the source.
pub(crate) struct SupplyTask {
    pub(crate) spec: SupplySpec,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) aggregator: Arc<Mutex<Aggregator>>,
    pub(crate) clock: SharedClock,
}

/// Bytes of a response that the log may quote from.
const EXCERPT_BYTES: usize = 320;

/// The form of a response.
const EXPECTED: &str = "expected an object of assets and numbers, such as {\"BTC\": \"19800000\"}";

/// The result of the last poll.
#[derive(PartialEq, Eq)]
enum Health {
    Healthy,
    Failing,
}

impl SupplyTask {
    /// Polls until cancelled.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        // Dropping the future leaves no partial update.
        let tasks = restart_on_panic("supply source", || self.poll_forever(), |_| {});
        cancel.run_until_cancelled(tasks).await;
    }

    async fn poll_forever(&self) {
        let failures = metrics::counter!("tidewire_supply_failures_total");
        let mut health = Health::Healthy;
        loop {
            let response = timeout(self.spec.timeout, self.request()).await;
            let supplies = response
                .unwrap_or_else(|_| {
                    Err(format!(
                        "no complete answer came within {}",
                        format_duration(self.spec.timeout)
                    ))
                })
                .and_then(|body| self.read(&body));
            let pause = match supplies {
                Ok(supply) => {
                    if health == Health::Failing {
                        tracing::info!(url = self.address(), "the supply source answers again");
                    }
                    health = Health::Healthy;
                    let now_us = now_us(&*self.clock);
                    self.aggregator.lock().set_supply(supply, now_us);
                    self.spec.interval
                }
                Err(reason) => {
                    self.log_failure(&reason, &mut health, &failures);
                    self.spec.interval.min(RETRY_AFTER)
                }
            };
            sleep(pause).await;
        }
    }

    /// Logs the first failure after a success; all are counted.
    fn log_failure(&self, reason: &str, health: &mut Health, failures: &Counter) {
        failures.increment(1);
        if *health == Health::Healthy {
            let url = self.address();
            tracing::warn!(
                url,
                reason,
                "the supply source failed; its last response stays in use"
            );
        }
        *health = Health::Failing;
    }

    /// The URL without the parts that may hold a key.
    fn address(&self) -> String {
        redacted_url(&self.spec.url)
    }

    /// A text of the source for the log.
    fn redacted(&self, text: &str) -> String {
        excerpt(&redact_url(text, &self.spec.url))
    }

    /// Requests the document and returns its body.
    async fn request(&self) -> Result<BytesMut, String> {
        let got = http_client::get(&self.spec.url, "application/json", self.tls.clone());
        let (response, _connection) = got.await?;
        if response.status() != StatusCode::OK {
            let status = response.status();
            return Err(format!("it answers {status}, expected 200 OK"));
        }
        let most = self.spec.most_bytes;
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                format!("its answer broke off: {}", http_client::explain(&error))
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            if bytes.len() + data.len() > most {
                return Err(format!(
                    "its answer is longer than `most_bytes`, {most} bytes"
                ));
            }
            bytes.extend_from_slice(&data);
        }
        Ok(bytes)
    }

    /// The supplies of the assets that are some symbol's base.
    fn read(&self, body: &[u8]) -> Result<BTreeMap<String, f64>, String> {
        let supplies: BTreeMap<String, &RawValue> =
            serde_json::from_slice(body).map_err(|error| {
                let begin = body.get(..EXCERPT_BYTES).unwrap_or(body);
                let found = self.redacted(&String::from_utf8_lossy(begin));
                match error.is_data() {
                    true => format!("its answer begins with {found:?}, {EXPECTED}"),
                    false => format!(
                        "its answer is not JSON from line {} on, {EXPECTED}",
                        error.line()
                    ),
                }
            })?;
        let bases = self.aggregator.lock().bases();
        let wanted = supplies
            .into_iter()
            .filter(|(asset, _)| bases.contains(asset));
        wanted
            .map(|(asset, value)| match coins(value) {
                Some(coins) => Ok((asset, coins)),
                None => Err(format!(
                    "{asset} is {:?}, expected a number of coins above zero, {MAX_SUPPLY:e} at most",
                    self.redacted(value.get())
                )),
            })
            .collect()
    }
}

/// A number of coins, as a text or a number.
fn coins(value: &RawValue) -> Option<f64> {
    let number = match serde_json::from_str(value.get()).ok()? {
        Value::String(text) => text.parse().ok()?,
        Value::Number(number) => number.as_f64()?,
        _ => return None,
    };
    (number > 0.0 && number <= MAX_SUPPLY).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coins_are_numbers_above_zero() {
        let read = |text: &str| coins(&RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(read("\"19841234.375\""), Some(19_841_234.375));
        assert_eq!(read("120500000"), Some(120_500_000.0));
        for bad in [
            "0", "-1", "\"\"", "\"NaN\"", "\"inf\"", "null", "[]", "true",
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
