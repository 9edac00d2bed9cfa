//! gRPC and gRPC-Web: the services, health and reflection.

mod admission;
mod deadline;
mod streams;

use std::{sync::Arc, time::Duration};

use axum::Router as Routes;
use tidewire_proto::{
    FILE_DESCRIPTOR_SET,
    v1::{
        admin_service_server::{self, AdminServiceServer},
        alert_service_server::{self, AlertServiceServer},
        notify_service_server::{self, NotifyServiceServer},
        price_service_server::{self, PriceServiceServer},
        stream_service_server::{self, StreamServiceServer},
        watch_service_server::{self, WatchServiceServer},
    },
};
use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};
use tonic_reflection::server::Builder;
use tonic_web::{GrpcWebLayer, GrpcWebService};
use tower::Layer as _;

pub(crate) use self::streams::{opens_session, streams_request};
use self::{admission::AdmissionService, deadline::DeadlineService};
use crate::{Gateway, Probes};

/// Time between two looks at the readiness of the server.
const READINESS_INTERVAL: Duration = Duration::from_secs(1);

/// Names of the services for health checks. The empty name is the server as a whole.
const HEALTH_NAMES: [&str; 7] = [
    "",
    stream_service_server::SERVICE_NAME,
    price_service_server::SERVICE_NAME,
    watch_service_server::SERVICE_NAME,
    alert_service_server::SERVICE_NAME,
    notify_service_server::SERVICE_NAME,
    admin_service_server::SERVICE_NAME,
];

/// Reports that the services are ready whenever the server is, until `stop`.
async fn report_readiness(
    health: HealthReporter,
    probes: Arc<dyn Probes>,
    stop: CancellationToken,
) {
    let mut ticks = tokio::time::interval(READINESS_INTERVAL);
    let mut reported = None;
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let status = match probes.ready() {
            Ok(()) => ServingStatus::Serving,
            Err(_) => ServingStatus::NotServing,
        };
        if reported != Some(status) {
            report_health(&health, status).await;
            reported = Some(status);
        }
    }
    report_health(&health, ServingStatus::NotServing).await;
}

/// Reports the status of all services.
async fn report_health(health: &HealthReporter, status: ServingStatus) {
    for name in HEALTH_NAMES {
        health.set_service_status(name, status).await;
    }
}

/// The routes of all gRPC services, which are not ready any more after `stop`. Other paths go
/// to the fallback of the caller.
pub(crate) fn routes(gateway: &Gateway, stop: &CancellationToken) -> Routes {
    let limit = gateway.options.frame_bytes;
    let streams =
        StreamServiceServer::new(gateway.stream_rpc.clone()).max_decoding_message_size(limit);
    let prices =
        PriceServiceServer::new(gateway.price_rpc.clone()).max_decoding_message_size(limit);
    let watches =
        WatchServiceServer::new(gateway.watch_rpc.clone()).max_decoding_message_size(limit);
    let notify =
        NotifyServiceServer::new(gateway.notify_rpc.clone()).max_decoding_message_size(limit);
    let alerts =
        AlertServiceServer::new(gateway.alert_rpc.clone()).max_decoding_message_size(limit);
    let admin = AdminServiceServer::new(gateway.admin_rpc.clone()).max_decoding_message_size(limit);
    let (health, health_service) = tonic_health::server::health_reporter();
    gateway.tasks.spawn(report_readiness(
        health,
        gateway.probes.clone(),
        stop.clone(),
    ));
    let mut routes = Routes::new()
        .route_service(
            "/tidewire.v1.StreamService/{*method}",
            layered(streams, gateway),
        )
        .route_service(
            "/tidewire.v1.PriceService/{*method}",
            layered(prices, gateway),
        )
        .route_service(
            "/tidewire.v1.WatchService/{*method}",
            layered(watches, gateway),
        )
        .route_service(
            "/tidewire.v1.NotifyService/{*method}",
            layered(notify, gateway),
        )
        .route_service(
            "/tidewire.v1.AlertService/{*method}",
            layered(alerts, gateway),
        )
        .route_service(
            "/tidewire.v1.AdminService/{*method}",
            layered(admin, gateway),
        )
        .route_service(
            "/grpc.health.v1.Health/{*method}",
            layered(health_service, gateway),
        );
    match reflection().build_v1() {
        Ok(service) => {
            routes = routes.route_service(
                "/grpc.reflection.v1.ServerReflection/{*method}",
                layered(service, gateway),
            )
        }
        Err(error) => tracing::error!(%error, "gRPC reflection v1 is not available"),
    }
    match reflection().build_v1alpha() {
        Ok(service) => {
            routes = routes.route_service(
                "/grpc.reflection.v1alpha.ServerReflection/{*method}",
                layered(service, gateway),
            )
        }
        Err(error) => tracing::error!(%error, "gRPC reflection v1alpha is not available"),
    }
    routes
}

/// A service for gRPC and gRPC-Web, whose callers are admitted and whose calls end at their
/// deadlines.
fn layered<S>(
    service: S,
    gateway: &Gateway,
) -> GrpcWebService<DeadlineService<AdmissionService<S>>> {
    let admitted = AdmissionService::new(service, gateway);
    GrpcWebLayer::new().layer(DeadlineService::new(admitted))
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
