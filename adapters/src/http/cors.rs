//! CORS: answers the preflight requests of browsers.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::access::OriginPolicy;

/// A layer that allows the origins of the policy.
pub(crate) fn layer(origins: Arc<OriginPolicy>) -> CorsLayer {
    let exposed =
        ["grpc-status", "grpc-message", "grpc-status-details-bin"].map(HeaderName::from_static);
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, parts| {
            origins.allows_origin(origin, parts.headers.get(header::HOST))
        }))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([
            header::AUTHORIZATION,
            header::CONTENT_TYPE,
            // Polyfills of `EventSource` set these two.
            header::CACHE_CONTROL,
            HeaderName::from_static("last-event-id"),
            // gRPC-Web and Connect.
            HeaderName::from_static("x-grpc-web"),
            HeaderName::from_static("x-user-agent"),
            HeaderName::from_static("grpc-timeout"),
            HeaderName::from_static("connect-protocol-version"),
            HeaderName::from_static("connect-timeout-ms"),
            // W3C Trace Context.
            HeaderName::from_static("traceparent"),
            HeaderName::from_static("tracestate"),
        ])
        .expose_headers(exposed)
        .max_age(Duration::from_secs(600))
}
