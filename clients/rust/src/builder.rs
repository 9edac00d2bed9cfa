//! Builder of a client.

use std::{future::Future, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::runtime::Handle;
use tonic::{
    codegen::http::Uri,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

use crate::{
    client::{Client, Options},
    error::{BoxError, Error, ErrorKind},
    token::TokenSource,
};

/// Silence after which a connection is tested with an HTTP/2 ping.
const KEEP_ALIVE: Duration = Duration::from_secs(2);

/// Time for the answer. With [`KEEP_ALIVE`] and the first delay, a link that drops everything is
/// replaced within 5 s. [`ClientBuilder::keep_alive`] changes both.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_millis(1_500);

/// Options of a client, all with a default except the URL. Made by [`Client::builder`].
#[derive(Clone)]
#[must_use = "a builder does nothing until `build`"]
pub struct ClientBuilder {
    url: String,
    token: TokenSource,
    token_deadline: Duration,
    authorities: Vec<String>,
    server_name: Option<String>,
    /// Silence before a ping, and the time for its answer.
    keep_alive: (Duration, Duration),
    options: Options,
}

impl std::fmt::Debug for ClientBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Without the token.
        let mut debug = f.debug_struct("ClientBuilder");
        debug.field("url", &self.url).finish_non_exhaustive()
    }
}

impl ClientBuilder {
    pub(crate) fn new(url: String) -> Self {
        Self {
            url,
            token: TokenSource::Anonymous,
            token_deadline: Duration::from_secs(10),
            authorities: Vec::new(),
            server_name: None,
            keep_alive: (KEEP_ALIVE, KEEP_ALIVE_TIMEOUT),
            options: Options {
                connect_timeout: Duration::from_secs(5),
                call_timeout: Duration::from_secs(10),
                queue_capacity: 1_024,
            },
        }
    }

    /// Uses one token for all connections and calls.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = TokenSource::Fixed(token.into().into());
        self
    }

    /// Fetches tokens with a function. It is called before the first connection or call, when a
    /// token is about to expire, and when the server refuses a token: each time for one that was
    /// fetched earlier, once for one that was fetched for the same attempt. All that need a token
    /// at the same time share one call. A panic, or a text that is no token, counts as an error:
    /// the connection calls it again.
    pub fn token_source<F, R, E>(mut self, fetch: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<String, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        self.token = TokenSource::Fetched(Arc::new(move || {
            let token = fetch();
            async move { token.await.map_err(Into::into) }.boxed()
        }));
        self
    }

    /// Sets the time in which the token source must give a token. The default is 10 s.
    pub fn token_deadline(mut self, deadline: Duration) -> Self {
        self.token_deadline = deadline;
        self
    }

    /// Trusts an authority's certificate, in PEM, beside those of the web. For `https` URLs.
    pub fn ca_certificate(mut self, pem: impl Into<String>) -> Self {
        self.authorities.push(pem.into());
        self
    }

    /// Sets the name that the server's certificate must have. The default is the URL's host.
    pub fn server_name(mut self, name: impl Into<String>) -> Self {
        self.server_name = Some(name.into());
        self
    }

    /// Sets the time from opening a connection to its `welcome`. The default is 5 s.
    pub fn connect_timeout(mut self, limit: Duration) -> Self {
        self.options.connect_timeout = limit;
        self
    }

    /// Sets the time of a call with all its attempts. The default is 10 s.
    pub fn call_timeout(mut self, limit: Duration) -> Self {
        self.options.call_timeout = limit;
        self
    }

    /// Sets the silence after which a connection is tested with an HTTP/2 ping, and the time for its
    /// answer. The defaults are 2 s and 1.5 s. Shorter ones, such as 300 ms and 400 ms, find a server
    /// that hangs sooner. Each ping costs a device without mains a wake-up.
    pub fn keep_alive(mut self, silence: Duration, answer: Duration) -> Self {
        self.keep_alive = (silence, answer);
        self
    }

    /// Sets the number of events that a subscription to a history channel queues before it drops
    /// its oldest and yields a gap. The default is 1,024. A latest channel queues one value.
    pub fn queue_capacity(mut self, events: usize) -> Self {
        self.options.queue_capacity = events;
        self
    }

    /// Builds the client. It connects when it is first used.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidOptions`]: an option cannot work, or no Tokio runtime runs.
    pub fn build(self) -> Result<Client, Error> {
        let invalid = |text: String| Error::new(ErrorKind::InvalidOptions, text);
        let runtime = Handle::try_current()
            .map_err(|_| invalid("no Tokio runtime runs here, expected one".to_owned()))?;
        if self.options.queue_capacity == 0 {
            return Err(invalid(
                "`queue_capacity` is 0, expected 1 or more".to_owned(),
            ));
        }
        for (name, value) in [
            ("token_deadline", self.token_deadline),
            ("connect_timeout", self.options.connect_timeout),
            ("call_timeout", self.options.call_timeout),
            ("keep_alive", self.keep_alive.0.min(self.keep_alive.1)),
        ] {
            if value.is_zero() {
                return Err(invalid(format!("`{name}` is 0, expected more")));
            }
        }
        let endpoint = self.endpoint()?;
        Ok(Client::from_parts(
            endpoint,
            self.token,
            self.token_deadline,
            self.options,
            &runtime,
        ))
    }

    fn endpoint(&self) -> Result<Endpoint, Error> {
        let url = &self.url;
        let invalid = |expected: &str| {
            let text = format!("the URL {url:?} cannot be used, expected {expected}");
            Error::new(ErrorKind::InvalidOptions, text)
        };
        let uri: Uri = url
            .parse()
            .map_err(|_| invalid("for example http://127.0.0.1:8080"))?;
        let is_encrypted = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(invalid("it to begin with http:// or https://")),
        };
        if !matches!(uri.path(), "" | "/") || uri.query().is_some() {
            return Err(invalid("no path: gRPC has paths of its own"));
        }
        let endpoint = Endpoint::from(uri)
            .connect_timeout(self.options.connect_timeout)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(self.keep_alive.0)
            .keep_alive_timeout(self.keep_alive.1)
            .keep_alive_while_idle(true);
        if !is_encrypted {
            if !self.authorities.is_empty() || self.server_name.is_some() {
                return Err(invalid(
                    "it to begin with https://, for its certificate options",
                ));
            }
            return Ok(endpoint);
        }
        let authorities = self.authorities.iter().map(Certificate::from_pem);
        let mut tls = ClientTlsConfig::new()
            .with_webpki_roots()
            .ca_certificates(authorities);
        if let Some(name) = &self.server_name {
            tls = tls.domain_name(name);
        }
        endpoint.tls_config(tls).map_err(|source| {
            let text = format!("TLS cannot be used: {source}");
            Error::new(ErrorKind::InvalidOptions, text).with_source(source)
        })
    }
}
