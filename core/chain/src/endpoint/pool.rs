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
    Call, ChainOutage, ExpectedResult, RpcClient, RpcError,
    proof::{self, ProofError, ProofPolicy},
    rpc_client::ResultMatch,
};

/// Endpoints that one call is tried on. More would make the caller wait for several timeouts.
const MAX_TRIES: usize = 4;

/// The longest wait for an endpoint that backs off, if all of them do.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// A time in which too few endpoints of a chain are of use.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct PoolOutage {
    pub(crate) age: Duration,
    /// The state of each endpoint.
    pub(crate) reason: String,
    pub(crate) outage: ChainOutage,
}

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

    /// The time since which too few endpoints are of use, and the state of each: none returns
    /// results, or fewer than `required` have a head that can be followed. None while enough do.
    ///
    /// `known` is the trouble of an endpoint's head by its index. A failed call of an endpoint whose
    /// head can be followed keeps no other one from agreeing with it: few calls go to an endpoint
    /// while another one is better.
    pub(crate) fn outage(
        &self,
        required: usize,
        known: impl Fn(usize) -> Option<(Duration, String)>,
    ) -> Option<PoolOutage> {
        let mut headless = Vec::with_capacity(self.endpoints.len());
        let mut troubled = Vec::with_capacity(self.endpoints.len());
        for (index, endpoint) in self.endpoints.iter().enumerate() {
            let head = known(index);
            headless.push(head.as_ref().map(|(age, _)| *age));
            // Calls may have results while none of them is a head: the longer trouble counts.
            let troubles = endpoint.trouble().into_iter().chain(head);
            troubled.push(troubles.max_by_key(|(age, _)| *age));
        }
        let ages = troubled.iter().map(|trouble| Some(trouble.as_ref()?.0));
        let none_works = ages.min().flatten();
        let mut by_age = headless.clone();
        by_age.sort_by_key(|age| std::cmp::Reverse(*age));
        let too_few = by_age.get(by_age.len().saturating_sub(required));
        let too_few = too_few.copied().flatten();
        let age = none_works.max(too_few)?;
        let of_use = |headless: &Option<Duration>| headless.is_none() && none_works.is_none();
        let states = self.endpoints.iter().zip(&headless).zip(troubled);
        let states = states.map(|((endpoint, headless), trouble)| {
            let reason = match trouble {
                Some((_, reason)) if !of_use(headless) => reason,
                _ => "responds".to_owned(),
            };
            format!("{}: {reason}", endpoint.address())
        });
        let reason = states.collect::<Vec<_>>().join("; ");
        let responding = headless.iter().filter(|one| of_use(one)).count();
        let outage = ChainOutage {
            responding,
            required,
        };
        Some(PoolOutage {
            age,
            reason,
            outage,
        })
    }

    /// Whether fewer than `required` endpoints returned no invalid response lately: a result of any
    /// other one is no sign that its blocks can be used.
    pub(crate) fn is_distrusted(&self, required: usize) -> bool {
        let trusted = self.endpoints.iter().filter(|one| !one.is_distrusted());
        trusted.count() < required
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

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTS: [&str; 3] = ["http://a.test", "http://b.test", "http://c.test"];

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    /// A pool of endpoints whose calls have results.
    fn pool() -> EndpointPool {
        let addresses = HOSTS.map(|host| (host.parse().unwrap(), None));
        let pool = EndpointPool::new(1, addresses.to_vec(), seconds(1)).unwrap();
        for endpoint in pool.endpoints() {
            *endpoint.trouble.lock() = None;
        }
        pool
    }

    /// The outage of endpoints with these times without a head: its age, and the endpoints that
    /// respond.
    fn outage(
        pool: &EndpointPool,
        required: usize,
        ages: [Option<u64>; 3],
    ) -> Option<(u64, usize)> {
        let known = |index: usize| Some((seconds(ages[index]?), "gone".to_owned()));
        let outage = pool.outage(required, known)?;
        let (responding, gone) = (
            outage.reason.matches("responds").count(),
            outage.reason.matches("gone").count(),
        );
        assert_eq!(responding, outage.outage.responding, "{}", outage.reason);
        assert_eq!(responding + gone, 3, "each is named: {}", outage.reason);
        Some((outage.age.as_secs(), responding))
    }

    #[test]
    fn an_outage_lasts_while_fewer_endpoints_than_must_agree_have_a_head() {
        let pool = pool();
        for (ages, expected) in [
            ([None, None, None], [None, None, None]),
            ([None, Some(9), None], [None, None, Some((9, 2))]),
            ([Some(4), None, Some(9)], [None, Some((4, 1)), Some((9, 1))]),
            (
                [Some(4), Some(1), Some(9)],
                [Some((1, 0)), Some((4, 0)), Some((9, 0))],
            ),
        ] {
            for (required, expected) in (1..).zip(expected) {
                let found = outage(&pool, required, ages);
                assert_eq!(found, expected, "{required} of {ages:?}");
            }
        }
    }

    #[test]
    fn a_failed_call_of_an_endpoint_that_reports_heads_is_no_outage() {
        let pool = pool();
        *pool.endpoints()[0].trouble.lock() = Some(super::super::Trouble {
            since: tokio::time::Instant::now(),
            reason: "timed out".to_owned(),
        });
        assert_eq!(outage(&pool, 3, [None, None, None]), None);
        assert_eq!(outage(&pool, 2, [None, Some(9), None]), None);
    }
}
