//! What all adapters share, and the routes of the one port.

use std::sync::Arc;

use axum::{
    Router as Routes,
    routing::{get, post},
};
use tidewire_service::{AdminAccess, AdminRpc, PriceRpc, Router, StreamRpc, WatchRpc};
use tidewire_stream::StreamCore;
use tokio_util::task::TaskTracker;

use crate::{Admission, OriginPolicy, grpc, http, sse, websocket, websocket::deflate::Compressor};

/// What the operator decides about the adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayOptions {
    /// The largest message of a client, in bytes.
    pub frame_bytes: usize,
    /// Who may read `/metrics` and call `AdminService`.
    pub admin: AdminAccess,
    /// How messages are compressed for WebSocket clients that take it; not at all if
    /// this is none.
    pub compression: Option<Compressor>,
}

/// The services that clients call.
#[derive(Debug, Clone)]
pub struct Services {
    /// Channels.
    pub stream: StreamRpc,
    /// Prices.
    pub price: PriceRpc,
    /// Chains.
    pub watch: WatchRpc,
    /// Connections and tokens, for operators.
    pub admin: AdminRpc,
}

/// Who is let in.
#[derive(Debug, Clone)]
pub struct Doors {
    /// Which browser pages.
    pub origins: OriginPolicy,
    /// How many clients, and how fast.
    pub admission: Arc<Admission>,
}

/// What the server says of itself.
pub trait Probes: Send + Sync + 'static {
    /// Whether clients should be sent here, and if not, why.
    ///
    /// # Errors
    /// The reason.
    fn ready(&self) -> Result<(), String>;

    /// The metrics in the text format of Prometheus.
    fn metrics(&self) -> String;
}

/// What all adapters share. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) stream: Arc<StreamCore>,
    pub(crate) router: Router,
    pub(crate) stream_rpc: StreamRpc,
    pub(crate) price_rpc: PriceRpc,
    pub(crate) watch_rpc: WatchRpc,
    pub(crate) admin_rpc: AdminRpc,
    pub(crate) origins: Arc<OriginPolicy>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) options: GatewayOptions,
    pub(crate) probes: Arc<dyn Probes>,
    pub(crate) tasks: TaskTracker,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway to these services. Its connections run in `tasks`.
    #[must_use]
    pub fn new(
        stream: Arc<StreamCore>,
        services: Services,
        doors: Doors,
        options: GatewayOptions,
        probes: Arc<dyn Probes>,
        tasks: TaskTracker,
    ) -> Self {
        let Services {
            stream: stream_rpc,
            price: price_rpc,
            watch: watch_rpc,
            admin: admin_rpc,
        } = services;
        let router = Router::new(&stream_rpc, &price_rpc, &watch_rpc);
        stream_rpc.route_with(router.clone());
        Self {
            admin_rpc,
            stream,
            router,
            stream_rpc,
            price_rpc,
            watch_rpc,
            origins: Arc::new(doors.origins),
            admission: doors.admission,
            options,
            probes,
            tasks,
        }
    }

    /// The routes of the one port.
    pub fn routes(&self) -> Routes {
        let http = Routes::new()
            .route("/", get(http::console::page))
            .route("/healthz", get(http::health::healthz))
            .route("/readyz", get(http::health::readyz))
            .route("/metrics", get(http::health::metrics))
            .route("/v1/ws", get(websocket::upgrade))
            .route("/v1/sse", get(sse::stream))
            .route("/v1/sse/{connection}", post(sse::command))
            .route("/v1/rpc/{service}/{method}", post(http::rpc::call))
            .fallback(http::reply::not_found)
            .method_not_allowed_fallback(http::reply::method_not_allowed)
            .with_state(self.clone());
        grpc::routes(self)
            .fallback_service(http)
            .layer(http::cors::layer(self.origins.clone()))
    }

    /// How many connections are open.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.stream.stats().connections()
    }
}
