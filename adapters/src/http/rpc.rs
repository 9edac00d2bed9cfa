//! JSON RPC: `POST /v1/rpc/{Service}/{Method}` calls a unary RPC.

use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use http::{Request, StatusCode};
use tidewire_proto::rpc;
use tidewire_service::from_status;

use crate::{
    Gateway, client,
    reply::{HttpError, json_response, read_body},
};

/// Calls an RPC.
pub(crate) async fn call(
    State(gateway): State<Gateway>,
    Path((service, method)): Path<(String, String)>,
    request: Request<Body>,
) -> Result<Response, HttpError> {
    let (headers, extensions) = (request.headers(), request.extensions());
    let caller = client::caller(&gateway, headers, extensions, None).await?;
    let body = read_body(request.into_body(), gateway.options.frame_bytes).await?;
    let quota = client::charge(&gateway, &caller, body.len())?;
    let mut rpc_request = tonic::Request::new(body);
    rpc_request.extensions_mut().insert(quota);
    rpc_request.extensions_mut().insert(caller);
    // The package of a service is optional.
    let answer = match service.strip_prefix("tidewire.v1.").unwrap_or(&service) {
        "StreamService" => rpc::stream_service(&gateway.stream_rpc, &method, rpc_request).await,
        "PriceService" => rpc::price_service(&gateway.price_rpc, &method, rpc_request).await,
        "WatchService" => rpc::watch_service(&gateway.watch_rpc, &method, rpc_request).await,
        "NotifyService" => rpc::notify_service(&gateway.notify_rpc, &method, rpc_request).await,
        "AdminService" => rpc::admin_service(&gateway.admin_rpc, &method, rpc_request).await,
        "AlertService" => rpc::alert_service(&gateway.alert_rpc, &method, rpc_request).await,
        unknown => Err(tonic::Status::not_found(format!(
            "there is no service {unknown:?}, expected one of StreamService, PriceService, WatchService, NotifyService, AlertService, AdminService"
        ))),
    };
    match answer {
        Ok(answer) => Ok(json_response(StatusCode::OK, answer.into_inner())),
        Err(status) => Err(from_status(&status).into()),
    }
}
