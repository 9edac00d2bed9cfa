//! Gateway: the services, access policy and options that all adapters share.

use std::sync::{Arc, Weak};

use tidewire_service::{AdminRpc, AlertRpc, NotifyRpc, PriceRpc, Router, StreamRpc, WatchRpc};
use tidewire_stream::{HealthFault, StreamCore};
use tokio_util::task::TaskTracker;

use crate::{
    access::{AccessPolicy, Admission, LocalityPolicy, OriginPolicy},
    compression::CompressionOptions,
    sse::Posts,
};

/// The options of the adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GatewayOptions {
    /// The largest message that a client may send, in bytes.
    pub frame_bytes: usize,
    /// How messages are compressed for WebSocket clients that support it. `None` turns
    /// compression off.
    pub compression: Option<CompressionOptions>,
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
    /// Notifications.
    pub notify: NotifyRpc,
    /// Rules and fires.
    pub alert: AlertRpc,
    /// Connections and tokens, for operators.
    pub admin: AdminRpc,
}

/// How much of its data a server has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct DataState {
    /// Venues whose data arrives, and those that are configured.
    pub venues: DataCount,
    /// Chains whose newest block is known and that do not stand still, and those configured.
    pub chains: DataCount,
    /// Whether the data is made up.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sample: bool,
    /// Venues that were tried before the sample was played, and that are tried still.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tried: Option<usize>,
}

/// A part of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct DataCount {
    /// Those that deliver.
    pub live: usize,
    /// All.
    pub all: usize,
}

/// The health and metrics of the server.
pub trait Probes: Send + Sync + 'static {
    /// Whether the server is ready for clients.
    ///
    /// # Errors
    /// The reason why it is not ready.
    fn ready(&self) -> Result<(), HealthFault>;

    /// How much of its data the server has. It is ready for clients without any.
    fn data(&self) -> DataState;

    /// The metrics in the text format of Prometheus.
    fn metrics(&self) -> String;
}

/// The shared state of all adapters. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) stream: Arc<StreamCore>,
    pub(crate) router: Router,
    pub(crate) stream_rpc: StreamRpc,
    pub(crate) price_rpc: PriceRpc,
    pub(crate) watch_rpc: WatchRpc,
    pub(crate) notify_rpc: NotifyRpc,
    pub(crate) alert_rpc: AlertRpc,
    pub(crate) admin_rpc: AdminRpc,
    pub(crate) origins: Arc<OriginPolicy>,
    pub(crate) locality: LocalityPolicy,
    pub(crate) admission: Arc<Admission>,
    pub(crate) options: GatewayOptions,
    pub(crate) probes: Arc<dyn Probes>,
    pub(crate) tasks: TaskTracker,
    /// The core refers to it weakly.
    _posts: Arc<Posts>,
}

impl std::fmt::Debug for Gateway {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gateway")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl Gateway {
    /// A gateway to `services`. Its connections run in `tasks`.
    #[must_use]
    pub fn new(
        stream: Arc<StreamCore>,
        services: Services,
        access: AccessPolicy,
        options: GatewayOptions,
        probes: Arc<dyn Probes>,
        tasks: TaskTracker,
    ) -> Self {
        let Services {
            stream: stream_rpc,
            price: price_rpc,
            watch: watch_rpc,
            notify: notify_rpc,
            alert: alert_rpc,
            admin: admin_rpc,
        } = services;
        let posts = Arc::new(Posts::new(stream_rpc.router().clone()));
        let handler: Weak<Posts> = Arc::downgrade(&posts);
        stream.register_post_handler(handler);
        Self {
            router: stream_rpc.router().clone(),
            stream,
            _posts: posts,
            stream_rpc,
            price_rpc,
            watch_rpc,
            notify_rpc,
            alert_rpc,
            admin_rpc,
            origins: Arc::new(access.origins),
            locality: access.locality,
            admission: access.admission,
            options,
            probes,
            tasks,
        }
    }

    /// The number of open connections.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.stream.registry_sizes().connections
    }
}
