//! gRPC and gRPC-Web: the services, health and reflection.

mod authentication;

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

use self::authentication::AuthenticationService;
use crate::Gateway;

/// The routes of all gRPC services. Other paths go to the fallback of the caller.
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
            web.layer(AuthenticationService::new(streams, gateway)),
        )
        .route_service(
            "/tidewire.v1.PriceService/{*method}",
            web.layer(AuthenticationService::new(prices, gateway)),
        )
        .route_service(
            "/tidewire.v1.WatchService/{*method}",
            web.layer(AuthenticationService::new(watches, gateway)),
        )
        .route_service(
            "/tidewire.v1.AdminService/{*method}",
            web.layer(AuthenticationService::new(admin, gateway)),
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
        Err(error) => tracing::error!(%error, "gRPC reflection v1 is not available"),
    }
    match reflection().build_v1alpha() {
        Ok(service) => {
            routes = routes.route_service(
                "/grpc.reflection.v1alpha.ServerReflection/{*method}",
                service,
            )
        }
        Err(error) => tracing::error!(%error, "gRPC reflection v1alpha is not available"),
    }
    routes
}

/// A builder with the descriptors of all services.
///
/// Each caller gets its own builder. Until rustc 1.97 a closure that takes a builder can
/// change the caller's copy (rust-lang/rust#155241), which led to a use after free.
fn reflection() -> Builder<'static> {
    Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}
