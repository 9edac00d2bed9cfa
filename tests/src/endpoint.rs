//! Endpoint: how to reach a server, directly or over a [`Link`](crate::Link) in front of it.

use std::{net::SocketAddr, sync::Arc};

use serde_json::Value;

use crate::{eventually, http_client, tls::Authority, within};

/// The address of a server, and an HTTP client for it. Clones share the client.
#[derive(Debug, Clone)]
pub struct Endpoint {
    pub(crate) address: SocketAddr,
    http: reqwest::Client,
    authority: Option<Arc<Authority>>,
}

/// An HTTP response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpResponse {
    /// The status.
    pub status: u16,
    /// The media type.
    pub content_type: String,
    /// The body.
    pub body: String,
}

impl HttpResponse {
    /// Parses the body as JSON.
    ///
    /// # Panics
    /// The body is not JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{} is not JSON", self.body))
    }

    /// Reads the body. None if the connection breaks.
    async fn read(response: reqwest::Response) -> Option<Self> {
        let content_type = response.headers().get("content-type");
        let content_type = content_type.and_then(|value| value.to_str().ok());
        Some(Self {
            status: response.status().as_u16(),
            content_type: content_type.unwrap_or_default().to_owned(),
            body: response.text().await.ok()?,
        })
    }
}

impl Endpoint {
    /// An address of a server without TLS.
    #[must_use]
    pub fn at(address: SocketAddr) -> Self {
        Self::new(address, None)
    }

    pub(crate) fn new(address: SocketAddr, authority: Option<Authority>) -> Self {
        Self {
            address,
            http: http_client(authority.as_ref()),
            authority: authority.map(Arc::new),
        }
    }

    /// Returns the address that the server listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the HTTP URL of a path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.authority.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}{path}", self.address)
    }

    /// Returns the authority of the server's certificate, if
    /// [`ServerBuilder::with_tls`](crate::ServerBuilder::with_tls) made one.
    #[must_use]
    pub fn authority(&self) -> Option<&Authority> {
        self.authority.as_deref()
    }

    /// Builds an HTTP client with connections of its own.
    #[must_use]
    pub fn new_http(&self) -> reqwest::Client {
        http_client(self.authority())
    }

    /// Returns the HTTP client.
    #[must_use]
    pub fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// Gets a path.
    ///
    /// # Panics
    /// No response comes.
    pub async fn get(&self, path: &str) -> HttpResponse {
        self.send(self.http.get(self.url(path))).await
    }

    /// Sends a request.
    ///
    /// # Panics
    /// No response comes.
    pub async fn send(&self, request: reqwest::RequestBuilder) -> HttpResponse {
        within("an answer over HTTP", async {
            let response = request.send().await.expect("an answer");
            HttpResponse::read(response).await.expect("a body")
        })
        .await
    }

    /// Calls a unary RPC with JSON. `method` is, for example, `StreamService/Publish`.
    pub async fn call(&self, method: &str, token: Option<&str>, body: &Value) -> HttpResponse {
        self.send(self.request(method, token, body)).await
    }

    /// Calls a unary RPC of a server that may be away. None if no response comes; the caller
    /// decides how long to wait.
    pub async fn try_call(&self, method: &str, token: &str, body: &Value) -> Option<HttpResponse> {
        let request = self.request(method, Some(token), body);
        HttpResponse::read(request.send().await.ok()?).await
    }

    fn request(&self, method: &str, token: Option<&str>, body: &Value) -> reqwest::RequestBuilder {
        let url = self.url(&format!("/v1/rpc/{method}"));
        let request = self.http.post(url).json(body);
        match token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    /// Publishes with the service scope, and returns the JSON response.
    ///
    /// # Panics
    /// The server refuses.
    pub async fn publish(&self, channel: &str, data: Value) -> Value {
        let body = serde_json::json!({"channel": channel, "data": data});
        let answer = self
            .call(
                "StreamService/Publish",
                Some(&crate::Token::service()),
                &body,
            )
            .await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()
    }

    /// Sums a metric over all label sets that contain `label`.
    pub async fn metric(&self, name: &str, label: &str) -> f64 {
        let metrics = self.get("/metrics").await.body;
        let values = metrics.lines().filter(|line| {
            line.strip_prefix(name)
                .is_some_and(|rest| rest.starts_with(['{', ' ']))
                && line.contains(label)
        });
        values
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until a metric, summed as by [`metric`](Self::metric), has a value that
    /// `is_reached` accepts. Returns the value.
    ///
    /// # Panics
    /// No such value comes.
    pub async fn metric_until(
        &self,
        name: &str,
        label: &str,
        is_reached: impl Fn(f64) -> bool,
    ) -> f64 {
        let what = format!("a value of {name}{{{label}}}");
        eventually(what, async || {
            Some(self.metric(name, label).await).filter(|value| is_reached(*value))
        })
        .await
    }
}
