//! Health and metrics: `/healthz`, `/readyz` and `/metrics`.

use axum::{
    extract::{Request, State},
    response::Response,
};
use http::{HeaderValue, StatusCode, header};
use tidewire_proto::v1::ErrorCode;
use tidewire_service::AdminAccess;
use tidewire_stream::{Scope, StreamError};

use crate::{Gateway, client, reply::HttpError};

/// Liveness: the process runs.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Readiness: the server accepts clients.
pub(crate) async fn readyz(State(gateway): State<Gateway>) -> Result<&'static str, HttpError> {
    gateway
        .probes
        .ready()
        .map(|()| "ready\n")
        .map_err(|reason| {
            HttpError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                StreamError::new(ErrorCode::Unavailable, reason),
            )
        })
}

/// The metrics in the text format of Prometheus.
pub(crate) async fn metrics(
    State(gateway): State<Gateway>,
    request: Request,
) -> Result<Response, HttpError> {
    if gateway.options.admin == AdminAccess::Scope {
        let (headers, extensions) = (request.headers(), request.extensions());
        client::authenticate(&gateway.stream, headers, extensions, None)
            .await?
            .require(Scope::Admin)?;
    }
    let mut response = Response::new(gateway.probes.metrics().into());
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
