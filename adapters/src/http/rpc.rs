//! `POST /v1/rpc/{Service}/{Method}`: every unary RPC as JSON.

use axum::{
    body::Body,
    extract::{Path, State},
    response::Response,
};
use http::{Request, StatusCode};
use tidewire_proto::rpc;
use tidewire_service::from_status;

use super::{
    body,
    reply::{HttpError, json_response},
};
use crate::{Gateway, access};

/// Services of the protocol that this version does not have.
const NOT_BUILT: [&str; 2] = ["NotifyService", "AlertService"];

/// Calls an RPC.
pub(crate) async fn call(
    State(gateway): State<Gateway>,
    Path((service, method)): Path<(String, String)>,
    request: Request<Body>,
) -> Result<Response, HttpError> {
    gateway.origins.admit(request.headers())?;
    let (headers, extensions) = (request.headers(), request.extensions());
    let identity = access::authenticate(&gateway.stream, headers, extensions, None).await?;
    let body = body::read(request.into_body(), gateway.options.frame_bytes).await?;
    let mut asked = tonic::Request::new(body);
    asked.extensions_mut().insert(identity);
    // Services may be named with their package.
    let answer = match service.strip_prefix("tidewire.v1.").unwrap_or(&service) {
        "StreamService" => rpc::stream_service(&gateway.stream_rpc, &method, asked).await,
        "PriceService" => rpc::price_service(&gateway.price_rpc, &method, asked).await,
        "WatchService" => rpc::watch_service(&gateway.watch_rpc, &method, asked).await,
        "AdminService" => rpc::admin_service(&gateway.admin_rpc, &method, asked).await,
        known if NOT_BUILT.contains(&known) => Err(tonic::Status::unimplemented(format!(
            "{known} is not built yet"
        ))),
        unknown => Err(tonic::Status::not_found(format!(
            "there is no service {unknown:?}, expected one of StreamService, PriceService, WatchService, AdminService, {}",
            NOT_BUILT.join(", ")
        ))),
    };
    match answer {
        Ok(answer) => Ok(json_response(StatusCode::OK, answer.into_inner())),
        Err(status) => Err(from_status(&status).into()),
    }
}
