//! Endpoint pool: all endpoints of a chain behind one interface, with failover.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{
    Address, Endpoint, Failure, TlsError,
    connection::Tls,
    tls::{http_client, tls_config},
};
use crate::{Call, RpcClient, RpcError};

/// Endpoints that one call is tried on. More would make the caller wait for several timeouts.
const MAX_TRIES: usize = 4;

/// The longest wait for an endpoint that backs off, if all of them do.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// All endpoints of a chain. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EndpointPool {
    chain: u64,
    endpoints: Arc<[Arc<Endpoint>]>,
}

impl EndpointPool {
    /// A pool of endpoints, which connect at their first call. An endpoint with a file of
    /// certificate authorities trusts only these. Each call may take `call_timeout`.
    ///
    /// # Errors
    /// TLS cannot be set up, or a file of certificate authorities cannot be read.
    pub fn new(
        chain: u64,
        addresses: Vec<(Address, Option<PathBuf>)>,
        call_timeout: Duration,
    ) -> Result<Self, TlsError> {
        let public = tls_of(None)?;
        let endpoints = addresses.into_iter().map(|(address, ca_file)| {
            let tls = match ca_file {
                Some(path) => tls_of(Some(&path))?,
                None => public.clone(),
            };
            Ok(Arc::new(Endpoint::new(chain, address, call_timeout, tls)))
        });
        Ok(Self {
            chain,
            endpoints: endpoints.collect::<Result<_, TlsError>>()?,
        })
    }

    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoints in the order in which to call them. Endpoints that back off come last.
    /// Before them come those that have not reported a head of this height.
    pub(crate) fn by_health(&self, height: u64) -> Vec<Arc<Endpoint>> {
        let mut endpoints = self.endpoints.to_vec();
        endpoints.sort_by(|a, b| {
            let rank = |endpoint: &Endpoint| (endpoint.backoff(), endpoint.head() < height);
            let by_rank = rank(a).cmp(&rank(b));
            by_rank.then_with(|| a.cost().total_cmp(&b.cost()))
        });
        endpoints
    }

    /// Calls one endpoint after the other until one returns a result.
    pub(crate) async fn call<T: DeserializeOwned>(
        &self,
        call: Call,
        height: u64,
    ) -> Result<T, Failure> {
        let mut last = no_endpoint();
        for endpoint in self.by_health(height).into_iter().take(MAX_TRIES) {
            tokio::time::sleep(endpoint.backoff().min(MAX_WAIT)).await;
            match endpoint.call(call.clone()).await {
                Ok(result) => return Ok(result),
                Err(failure) if failure.is_local() => last = failure,
                Err(failure) => return Err(failure),
            }
        }
        Err(last)
    }
}

impl RpcClient for EndpointPool {
    async fn call_all(&self, calls: Vec<Call>) -> Vec<Result<Value, RpcError>> {
        let mut results: Vec<Option<Result<Value, Failure>>> = vec![None; calls.len()];
        for endpoint in self.by_health(0).into_iter().take(MAX_TRIES) {
            let open: Vec<usize> = results
                .iter()
                .enumerate()
                .filter(|(_, result)| match result {
                    None => true,
                    Some(Err(failure)) => failure.is_local(),
                    Some(Ok(_)) => false,
                })
                .map(|(index, _)| index)
                .collect();
            if open.is_empty() {
                break;
            }
            tokio::time::sleep(endpoint.backoff().min(MAX_WAIT)).await;
            let open_calls: Vec<Call> = open.iter().map(|index| calls[*index].clone()).collect();
            let responses = endpoint.call_all(&open_calls).await;
            for (index, response) in open.into_iter().zip(responses) {
                results[index] = Some(response.and_then(|result| endpoint.parse(&result)));
            }
        }
        results
            .into_iter()
            .map(|result| {
                let result = result.unwrap_or_else(|| Err(no_endpoint()));
                result.map_err(|failure| failure.into_rpc_error(self.chain))
            })
            .collect()
    }
}

fn no_endpoint() -> Failure {
    Failure::Unreachable("there is no endpoint".to_owned())
}

fn tls_of(ca_file: Option<&Path>) -> Result<Tls, TlsError> {
    let config = tls_config(ca_file)?;
    let http = http_client(&config)?;
    Ok(Tls { config, http })
}
