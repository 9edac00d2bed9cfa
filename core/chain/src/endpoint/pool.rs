//! All endpoints of a chain as one.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Address, Endpoint, Failure,
    connection::Tls,
    tls::{http_client, trust},
};
use crate::{Call, ConfigError, RpcClient, RpcError};

/// How many endpoints are asked about one thing at most.
const TRIES: usize = 4;

/// For how long an endpoint that is to be left alone is waited for, where there is no
/// other.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// All endpoints of a chain. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EndpointPool {
    chain: u64,
    endpoints: Arc<[Arc<Endpoint>]>,
}

impl EndpointPool {
    /// The endpoints of a chain, each with the file of whom alone it trusts, if there is one;
    /// none is connected to yet. Each call gets `time_limit`.
    ///
    /// # Errors
    /// TLS cannot be set up, or such a file cannot be read.
    pub fn new(
        chain: u64,
        addresses: Vec<(Address, Option<PathBuf>)>,
        time_limit: Duration,
    ) -> Result<Self, ConfigError> {
        let public = trust_of(None)?;
        let endpoints = addresses.into_iter().map(|(address, ca_file)| {
            let trust = match ca_file {
                Some(path) => trust_of(Some(&path))?,
                None => public.clone(),
            };
            Ok(Arc::new(Endpoint::new(chain, address, time_limit, trust)))
        });
        Ok(Self {
            chain,
            endpoints: endpoints.collect::<Result<_, ConfigError>>()?,
        })
    }

    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoints, the best first. Those that have told of no head as high as `height`
    /// come after those that have, those that are to be left alone last.
    pub(crate) fn by_health(&self, height: u64) -> Vec<Arc<Endpoint>> {
        let mut endpoints = self.endpoints.to_vec();
        endpoints.sort_by(|a, b| {
            let rank = |endpoint: &Endpoint| (endpoint.rest(), endpoint.head() < height);
            let by_rank = rank(a).cmp(&rank(b));
            by_rank.then_with(|| a.cost().total_cmp(&b.cost()))
        });
        endpoints
    }

    /// Asks one endpoint after the other until one answers something.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        call: Call,
        height: u64,
    ) -> Result<T, Failure> {
        let mut last = Failure::Unreachable("there is no endpoint".to_owned());
        for endpoint in self.by_health(height).into_iter().take(TRIES) {
            tokio::time::sleep(endpoint.rest().min(LONGEST_WAIT)).await;
            match endpoint.ask(call.clone()).await {
                Ok(answer) => return Ok(answer),
                Err(failure) if failure.is_local() => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }
}

impl RpcClient for EndpointPool {
    async fn call_all(&self, calls: Vec<Call>) -> Vec<Result<Value, RpcError>> {
        let mut answers: Vec<Option<Result<Value, Failure>>> = vec![None; calls.len()];
        for endpoint in self.by_health(0).into_iter().take(TRIES) {
            let open: Vec<usize> = answers
                .iter()
                .enumerate()
                .filter(|(_, answer)| match answer {
                    None => true,
                    Some(Err(failure)) => failure.is_local(),
                    Some(Ok(_)) => false,
                })
                .map(|(place, _)| place)
                .collect();
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(endpoint.rest().min(LONGEST_WAIT)).await;
            let asked: Vec<Call> = open.iter().map(|place| calls[*place].clone()).collect();
            for (place, answer) in open.into_iter().zip(endpoint.ask_all(&asked).await) {
                answers[place] = Some(answer.and_then(|answer| endpoint.read(&answer)));
            }
        }
        answers
            .into_iter()
            .map(|answer| {
                let none = || Err(Failure::Unreachable("there is no endpoint".to_owned()));
                let answer = answer.unwrap_or_else(none);
                answer.map_err(|failure| failure.into_read_error(self.chain))
            })
            .collect()
    }
}

fn trust_of(ca_file: Option<&Path>) -> Result<Tls, ConfigError> {
    let tls = trust(ca_file)?;
    let http = http_client(&tls)?;
    Ok(Tls { tls, http })
}
