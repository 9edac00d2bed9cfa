//! Endpoint pool: all endpoints of a chain behind one interface, with failover.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use serde_json::{
    Value,
    value::{RawValue, to_raw_value},
};

use super::{
    Address, Endpoint, Failure, TlsError,
    connection::Tls,
    tls::{http_client, tls_config},
};
use crate::{
    Call, ExpectedResult, RpcClient, RpcError,
    proof::{self, ProofError, ProofPolicy},
    rpc_client::ResultMatch,
};

/// Endpoints that one call is tried on. More would make the caller wait for several timeouts.
const MAX_TRIES: usize = 4;

/// The longest wait for an endpoint that backs off, if all of them do.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// All endpoints of a chain. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EndpointPool {
    chain: u64,
    /// The proofs that a transaction must pass. None: its hash field is believed.
    proofs: Option<ProofPolicy>,
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
            proofs: None,
            endpoints: endpoints.collect::<Result<_, TlsError>>()?,
        })
    }

    /// The same pool, in which a transaction must hash to the hash that is asked for, as far as the
    /// proofs of the chain demand it.
    #[must_use]
    pub fn with_proofs(mut self, proofs: ProofPolicy) -> Self {
        self.proofs = Some(proofs);
        self
    }

    pub(crate) fn chain(&self) -> u64 {
        self.chain
    }

    /// Checks a transaction that a node returned outside of its block against its hash.
    pub(crate) fn check_transaction(&self, raw: &RawValue) -> Result<(), ProofError> {
        let proofs = self.proofs;
        proofs.map_or(Ok(()), |proofs| proof::single_transaction(raw, proofs))
    }

    pub(crate) fn endpoints(&self) -> &[Arc<Endpoint>] {
        &self.endpoints
    }

    /// The endpoints in the order in which to call them. Endpoints that back off come last.
    /// Before them come those that have not reported a head of this height.
    pub(crate) fn by_health(&self, height: u64) -> Vec<Arc<Endpoint>> {
        self.by_health_for(height, &[])
    }

    /// The same order for these methods. Endpoints that rest for one of them come last.
    pub(crate) fn by_health_for(
        &self,
        height: u64,
        methods: &[&'static str],
    ) -> Vec<Arc<Endpoint>> {
        // Ranked once each, as their pauses pass while they are sorted.
        let ranked = self.endpoints.iter().map(|endpoint| {
            let pauses = methods.iter().map(|method| endpoint.method_pause(method));
            let is_lagging = endpoint.head() < height;
            let rank = (endpoint.backoff(), pauses.max(), is_lagging);
            (rank, endpoint.cost(), endpoint)
        });
        let mut ranked: Vec<_> = ranked.collect();
        ranked.sort_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.total_cmp(&b.1)));
        let endpoints = ranked.into_iter();
        endpoints.map(|(_, _, endpoint)| endpoint.clone()).collect()
    }

    /// The time since which every endpoint is in trouble, and the reason of each: it returns no
    /// result, or has the trouble that is known of the endpoint with an index. None while one works.
    pub(crate) fn outage(
        &self,
        known: impl Fn(usize) -> Option<(Duration, String)>,
    ) -> Option<(Duration, String)> {
        let mut shortest = Duration::MAX;
        let mut reasons = Vec::with_capacity(self.endpoints.len());
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            // Calls may have results while none of them is a head: the longer trouble counts.
            let troubles = endpoint.trouble().into_iter().chain(known(index));
            let (age, reason) = troubles.max_by_key(|(age, _)| *age)?;
            shortest = shortest.min(age);
            reasons.push(format!("{}: {reason}", endpoint.address()));
        }
        (!reasons.is_empty()).then(|| (shortest, reasons.join("; ")))
    }

    /// Whether every endpoint returned an invalid response lately: a result of such an endpoint
    /// is no sign that its blocks can be used.
    pub(crate) fn is_distrusted(&self) -> bool {
        self.endpoints.iter().all(|one| one.is_distrusted())
    }
}

impl EndpointPool {
    /// Checks that a result is the expected one. Null if the endpoint does not have it.
    fn check(&self, endpoint: &Endpoint, call: &Call, result: Value) -> Result<Value, Failure> {
        let reason = match call.expected.compare(&result) {
            ResultMatch::Expected => match self.prove(call, &result) {
                Ok(()) => return Ok(result),
                Err(error) => format!("{}: {error}", call.method),
            },
            ResultMatch::Missing => return Ok(Value::Null),
            ResultMatch::Invalid => {
                format!("{} returned another result than asked for", call.method)
            }
        };
        endpoint.report_invalid(&reason);
        Err(Failure::Invalid(endpoint.redact(&reason)))
    }

    fn prove(&self, call: &Call, result: &Value) -> Result<(), ProofError> {
        match (call.expected, to_raw_value(result)) {
            (ExpectedResult::Transaction(_), Ok(raw)) => self.check_transaction(&raw),
            _ => Ok(()),
        }
    }
}

impl RpcClient for EndpointPool {
    async fn call_all(&self, calls: Vec<Call>) -> Vec<Result<Value, RpcError>> {
        // Null is kept while no endpoint has the result.
        let mut results: Vec<Option<Result<Value, Failure>>> = vec![None; calls.len()];
        let mut methods: Vec<_> = calls.iter().map(|call| call.method).collect();
        methods.dedup();
        let order = self.by_health_for(0, &methods);
        for endpoint in order.into_iter().take(MAX_TRIES) {
            let open: Vec<usize> = results
                .iter()
                .enumerate()
                .filter(|(_, result)| match result {
                    None => true,
                    Some(Err(failure)) => failure.is_local(),
                    Some(Ok(result)) => result.is_null(),
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
                let result = response.and_then(|result| endpoint.parse(&result));
                let result = result.and_then(|result| self.check(&endpoint, &calls[index], result));
                let is_missing = matches!(&results[index], Some(Ok(_)));
                if !is_missing || result.as_ref().is_ok_and(|result| !result.is_null()) {
                    results[index] = Some(result);
                }
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
