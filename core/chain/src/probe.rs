//! Probe: whether this node could follow a chain, found out with one call to each of its endpoints.
//!
//! A node that shares chains with others probes before it takes one over.

use std::{fmt, time::Duration};

use alloy::primitives::U64;
use futures::{StreamExt as _, stream::FuturesUnordered};
use serde_json::json;
use tokio::time::timeout;

use crate::{Call, ChainConfig, ConfigError, endpoint::EndpointPool};

/// Longest wait for the endpoints.
const LONGEST: Duration = Duration::from_secs(3);

/// Asks the endpoints of a chain for its height.
#[derive(Debug)]
pub struct ChainProbe {
    pool: EndpointPool,
    /// Endpoints that have to answer: as many as must agree.
    required: usize,
}

/// Why a chain could not be followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProbeFailure {
    answered: usize,
    required: usize,
    /// The endpoints that did not answer, each with the reason.
    reasons: Vec<String>,
}

impl fmt::Display for ProbeFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (answered, required) = (self.answered, self.required);
        write!(
            f,
            "{answered} of its endpoints answered, expected {required}: "
        )?;
        f.write_str(&self.reasons.join("; "))
    }
}

impl ChainProbe {
    /// A probe of a chain. It connects when it runs.
    ///
    /// # Errors
    /// An address or a certificate cannot be used.
    pub fn new(config: &ChainConfig) -> Result<Self, ConfigError> {
        let pool = EndpointPool::new(config.id, config.addresses()?, config.call_timeout);
        Ok(Self {
            pool: pool.map_err(|error| config.tls_error(error))?,
            required: config.agreement,
        })
    }

    /// Asks all endpoints at once. Ends with the answer of as many as must agree, each with the id of the
    /// chain and a height, and closes the connections.
    ///
    /// # Errors
    /// Fewer answered, within 3 s.
    pub async fn run(&self) -> Result<(), ProbeFailure> {
        let endpoints = self.pool.endpoints();
        let mut asked: FuturesUnordered<_> = endpoints
            .iter()
            .enumerate()
            .map(|(index, endpoint)| async move {
                let height = endpoint.call::<U64>(Call::new("eth_blockNumber", json!([])));
                let answer = match timeout(LONGEST, height).await {
                    Ok(height) => height.map(|_| ()).map_err(|failure| failure.to_string()),
                    Err(_) => Err("no answer in time".to_owned()),
                };
                (index, answer)
            })
            .collect();
        let mut answered = 0;
        let mut failed = Vec::new();
        while answered < self.required
            && let Some((index, answer)) = asked.next().await
        {
            match answer {
                Ok(()) => answered += 1,
                Err(reason) => {
                    failed.push((index, format!("{}: {reason}", endpoints[index].address())));
                }
            }
        }
        drop(asked);
        // The next probe finds out anew which chain is behind an address.
        endpoints.iter().for_each(|one| one.drop_connection());
        if answered >= self.required {
            return Ok(());
        }
        failed.sort();
        Err(ProbeFailure {
            answered,
            required: self.required,
            reasons: failed.into_iter().map(|(_, reason)| reason).collect(),
        })
    }
}
