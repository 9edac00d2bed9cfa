//! Routes: the paths of the one port and their adapters.

use axum::{
    Router as Routes, middleware,
    routing::{get, post},
};
use http::{Method, StatusCode, Uri};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::StreamError;
use tokio_util::sync::CancellationToken;

use crate::{
    Gateway,
    access::check_origin,
    grpc_web,
    http::{console, cors, health, rpc, unsubscribe},
    reply::HttpError,
    sse, websocket,
};

/// All routes of a gateway, whose server begins to stop with `stop`.
pub(crate) fn routes(gateway: &Gateway, stop: &CancellationToken) -> Routes {
    let http = Routes::new()
        .route("/", get(console::page))
        .route("/favicon.ico", get(console::icon))
        .route("/healthz", get(health::healthz))
        .route("/readyz", get(health::readyz))
        .route("/metrics", get(health::metrics))
        .route("/v1/ws", get(websocket::upgrade))
        .route(sse::PATH, get(sse::stream))
        .route("/v1/sse/{connection}", post(sse::command))
        .route("/v1/rpc/{service}/{method}", post(rpc::call))
        .route(
            "/v1/unsubscribe",
            get(unsubscribe::handle).post(unsubscribe::handle),
        )
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(gateway.clone());
    grpc_web::routes(gateway, stop)
        .fallback_service(http)
        .layer(middleware::from_fn_with_state(
            gateway.origins.clone(),
            check_origin,
        ))
        .layer(cors::layer(gateway.origins.clone()))
}

/// The paths that clients use.
const PATHS: [&str; 6] = [
    "/v1/ws",
    sse::PATH,
    "/v1/rpc/{Service}/{Method}",
    "/healthz",
    "/readyz",
    "/metrics",
];

/// Answers an unknown path.
async fn not_found(uri: Uri) -> HttpError {
    let paths = PATHS.join(", ");
    StreamError::new(
        ErrorCode::NotFound,
        format!(
            "there is nothing at {}, expected one of {paths}",
            uri.path()
        ),
    )
    .into()
}

/// Answers a known path with the wrong method.
async fn method_not_allowed(method: Method, uri: Uri) -> HttpError {
    let expected = match uri.path().starts_with("/v1/rpc/") {
        true => "POST",
        false => "the method that `Allow` names",
    };
    HttpError::new(
        StatusCode::METHOD_NOT_ALLOWED,
        StreamError::new(
            ErrorCode::Unimplemented,
            format!("{} does not take {method}, expected {expected}", uri.path()),
        ),
    )
}
