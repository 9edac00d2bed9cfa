//! HTTP client: one POST to a checked address, with bounded time and a bounded response.
//!
//! It differs from a plain client in four ways:
//! - It connects to addresses that the [`Guard`] permits, and to no other one.
//! - It follows no redirect: the target was never checked.
//! - It ignores the proxies of the environment: a proxy would resolve the name by itself.
//! - Its errors never have the URL, which may hold a key.

use std::{error::Error, io, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use http::{HeaderMap, StatusCode};
use reqwest::{
    Client, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    redirect::Policy,
};
use rustls::ClientConfig;

use crate::{
    Outcome,
    guard::{Guard, GuardError, Networks},
    retry_after::retry_after,
    text::one_line,
};

/// Bytes of a response that are read. Only its beginning is of use: a retry time, or a reason.
const MAX_RESPONSE_BYTES: usize = 16 << 10;

/// Characters of a response that a reason quotes.
const MAX_QUOTE: usize = 200;

/// Time in which a connection must be open, TLS included.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for which a connection is kept for the next request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Idle connections to one host that are kept.
const IDLE_PER_HOST: usize = 2;

/// Resolves host names. Tests use their own.
pub trait Lookup: std::fmt::Debug + Send + Sync + 'static {
    /// The addresses of a host name, with any port.
    ///
    /// # Errors
    /// The name cannot be resolved.
    fn lookup(&self, host: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>>;
}

/// The system's resolver.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, host: String) -> BoxFuture<'static, io::Result<Vec<SocketAddr>>> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, 0)).await?.collect()) })
    }
}

/// Gives the HTTP client permitted addresses only.
#[derive(Debug)]
struct GuardedResolver {
    guard: Guard,
    lookup: Arc<dyn Lookup>,
}

impl Resolve for GuardedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let guard = self.guard;
        let lookup = self.lookup.lookup(name.as_str().to_owned());
        Box::pin(async move {
            let mut refusal = None;
            let mut permitted = lookup.await?;
            permitted.retain(|address| match guard.check_address(address.ip()) {
                Ok(()) => true,
                Err(error) => {
                    refusal = Some(error);
                    false
                }
            });
            match (permitted.is_empty(), refusal) {
                (true, Some(error)) => Err(error.into()),
                (true, None) => Err("the host has no address".into()),
                (false, _) => Ok(Box::new(permitted.into_iter()) as Addrs),
            }
        })
    }
}

/// A response, up to the bound.
#[derive(Debug)]
pub(crate) struct HttpAnswer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

/// Why no response came.
#[derive(Debug)]
pub(crate) enum HttpFailure {
    /// The URL or its address is refused.
    Refused(GuardError),
    /// The network, the name service or TLS failed, or time is up.
    Network(String),
}

/// The client of the endpoints in some networks.
#[derive(Debug, Clone)]
pub(crate) struct HttpClient {
    guard: Guard,
    client: Client,
}

impl HttpClient {
    /// A client whose requests end after `timeout`.
    pub(crate) fn new(
        networks: Networks,
        tls: &ClientConfig,
        lookup: Arc<dyn Lookup>,
        timeout: Duration,
    ) -> Result<Self, String> {
        let guard = Guard::new(networks);
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let client = Client::builder()
            .tls_backend_preconfigured(tls)
            .dns_resolver(Arc::new(GuardedResolver { guard, lookup }))
            .redirect(Policy::none())
            .no_proxy()
            .referer(false)
            .user_agent(concat!("tidewire/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT_TIMEOUT.min(timeout))
            .timeout(timeout)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(IDLE_PER_HOST)
            .build()
            .map_err(|error| explain(&error.without_url()))?;
        Ok(Self { guard, client })
    }

    /// Sends a POST request.
    pub(crate) async fn post(
        &self,
        url: &Url,
        headers: HeaderMap,
        body: Vec<u8>,
    ) -> Result<HttpAnswer, HttpFailure> {
        // An address in the URL does not pass through the resolver.
        self.guard.check(url).map_err(HttpFailure::Refused)?;
        let request = self.client.post(url.clone()).headers(headers).body(body);
        let response = request.send().await.map_err(failure)?;
        Ok(HttpAnswer {
            status: response.status(),
            headers: response.headers().clone(),
            body: read(response).await,
        })
    }
}

/// The beginning of a response's body. The connection closes if there is more. A body that breaks
/// off changes nothing: the receiver has decided by the status.
async fn read(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        let room = MAX_RESPONSE_BYTES - body.len();
        body.extend_from_slice(&part[..part.len().min(room)]);
        if body.len() == MAX_RESPONSE_BYTES {
            break;
        }
    }
    body
}

fn failure(error: reqwest::Error) -> HttpFailure {
    let error = error.without_url();
    let mut cause: Option<&(dyn Error + 'static)> = error.source();
    while let Some(inner) = cause {
        if let Some(refusal) = inner.downcast_ref::<GuardError>() {
            return HttpFailure::Refused(refusal.clone());
        }
        cause = inner.source();
    }
    match error.is_timeout() {
        true => HttpFailure::Network("no response in time".to_owned()),
        false => HttpFailure::Network(explain(&error)),
    }
}

/// The text of an error with its causes.
fn explain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl HttpAnswer {
    /// The reason in a dead letter: the status, and the beginning of the body.
    pub(crate) fn reason(&self) -> String {
        let body = String::from_utf8_lossy(&self.body);
        let quote: String = one_line(body.trim()).chars().take(MAX_QUOTE).collect();
        let status = self.status.as_u16();
        match quote.is_empty() {
            true => format!("HTTP status {status}"),
            false => format!("HTTP status {status}: {quote}"),
        }
    }

    /// The outcome by the status alone, as HTTP defines it. Channels decide some statuses before.
    pub(crate) fn outcome(&self, now_ms: i64) -> Outcome {
        let reason = self.reason();
        match self.status.as_u16() {
            200..=299 => Outcome::Delivered,
            300..=399 => Outcome::Permanent {
                reason: format!(
                    "HTTP status {}, a redirect, which is not followed: expected the final URL in the configuration",
                    self.status.as_u16()
                ),
            },
            410 => Outcome::Gone { reason },
            408 | 425 | 429 | 500.. => Outcome::Retry {
                after: retry_after(&self.headers, &self.body, now_ms),
                reason,
            },
            _ => Outcome::Permanent { reason },
        }
    }
}

impl HttpFailure {
    /// The outcome of an attempt without a response.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::Refused(error) => Outcome::permanent(format!("the URL is refused: {error}")),
            Self::Network(reason) => Outcome::retry(reason),
        }
    }
}
