//! Native gRPC and gRPC-Web, with health and reflection.

use axum::Router as Routes;
use tidewire_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        admin_service_server::AdminServiceServer, price_service_server::PriceServiceServer,
        stream_service_server::StreamServiceServer, watch_service_server::WatchServiceServer,
    },
};
use tonic::Status;
use tonic_reflection::server::Builder;
use tonic_web::GrpcWebLayer;
use tower::Layer as _;

use crate::{Gateway, access::Identified};

/// Routes to all services. What no service answers is for the fallback.
pub(crate) fn routes(gateway: &Gateway) -> Routes {
    let limit = gateway.options.frame_bytes;
    let streams =
        StreamServiceServer::new(gateway.stream_rpc.clone()).max_decoding_message_size(limit);
    let prices =
        PriceServiceServer::new(gateway.price_rpc.clone()).max_decoding_message_size(limit);
    let watches =
        WatchServiceServer::new(gateway.watch_rpc.clone()).max_decoding_message_size(limit);
    let admin = AdminServiceServer::new(gateway.admin_rpc.clone()).max_decoding_message_size(limit);
    let (health, health_service) = tonic_health::server::health_reporter();
    gateway.tasks.spawn(async move {
        health
            .set_serving::<StreamServiceServer<tidewire_service::StreamRpc>>()
            .await;
        health
            .set_serving::<PriceServiceServer<tidewire_service::PriceRpc>>()
            .await;
        health
            .set_serving::<WatchServiceServer<tidewire_service::WatchRpc>>()
            .await;
        health
            .set_serving::<AdminServiceServer<tidewire_service::AdminRpc>>()
            .await;
    });
    let web = GrpcWebLayer::new();
    let mut routes = Routes::new()
        .route_service(
            "/tidewire.v1.StreamService/{*method}",
            web.layer(Identified::new(streams, gateway)),
        )
        .route_service(
            "/tidewire.v1.PriceService/{*method}",
            web.layer(Identified::new(prices, gateway)),
        )
        .route_service(
            "/tidewire.v1.WatchService/{*method}",
            web.layer(Identified::new(watches, gateway)),
        )
        .route_service(
            "/tidewire.v1.AdminService/{*method}",
            web.layer(Identified::new(admin, gateway)),
        )
        .route_service(
            "/grpc.health.v1.Health/{*method}",
            web.layer(health_service),
        );
    for service in ["NotifyService", "AlertService"] {
        routes = routes.route(
            &format!("/tidewire.v1.{service}/{{*method}}"),
            axum::routing::any(move || async move {
                Status::unimplemented(format!("{service} is not built yet"))
                    .into_http::<axum::body::Body>()
            }),
        );
    }
    match reflection().build_v1() {
        Ok(service) => {
            routes = routes.route_service("/grpc.reflection.v1.ServerReflection/{*method}", service)
        }
        Err(error) => tracing::error!(%error, "reflection is not served"),
    }
    match reflection().build_v1alpha() {
        Ok(service) => {
            routes = routes.route_service(
                "/grpc.reflection.v1alpha.ServerReflection/{*method}",
                service,
            )
        }
        Err(error) => tracing::error!(%error, "reflection is not served in its older version"),
    }
    routes
}

/// Describes all that is served.
///
/// Not a closure that takes the builder: rustc before 1.97 lets such a closure
/// change the caller's own copy of an argument (rust-lang/rust#155241), and so
/// the second builder began where the first had ended, in memory given back.
fn reflection() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
