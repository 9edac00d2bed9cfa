//! Broker: what keeps the channels, this server alone or the Redis of several servers.

use std::sync::Arc;

use tidewire_stream::{
    Authenticator, Namespaces, SharedClock, StreamCore, StreamOptions,
    broker::redis::{
        CertificateFiles, Cluster, NodeProtocol, RedisAddress, RedisOptions, RedisTls, Sentinels,
        check_prefix,
    },
};

use crate::{
    config::{BrokerConfig, BrokerKind},
    feed::OpenFeed,
};

/// The faults in `[broker]`, as far as they can be found out without a connection.
pub(crate) fn check(config: &BrokerConfig, problems: &mut Vec<String>) {
    if let Err(problem) = check_prefix(&config.prefix) {
        problems.push(format!("broker.prefix {problem}"));
    }
    let is_redis = config.kind == BrokerKind::Redis;
    let url = match is_redis {
        true => url(config),
        false => config.url.as_deref(),
    };
    let address = url.map(RedisAddress::parse).transpose();
    match (address, is_redis) {
        (Err(problem), _) => problems.push(format!("broker.url {problem}")),
        (Ok(None), true) => problems.push(
            "broker.url is missing, expected the address of Redis, such as redis://localhost:6379"
                .to_owned(),
        ),
        (Ok(Some(_)), false) => problems.push(
            "broker.url is set, and broker.kind is \"memory\", expected broker.kind = \"redis\" or no URL"
                .to_owned(),
        ),
        (Ok(Some(address)), true) if !address.is_encrypted() && has_certificates(config) => {
            problems.push(
                "broker.url is without TLS, and the keys of its certificates are set, expected rediss:// in the URL"
                    .to_owned(),
            );
        }
        (Ok(Some(address)), true) if address.database != 0 && !config.cluster.is_empty() => {
            problems.push(format!(
                "broker.url names the database {}, expected none with broker.cluster: a cluster has no others than 0",
                address.database
            ));
        }
        (Ok(_), _) => {}
    }
    check_cluster(config, problems);
    if !config.sentinels.is_empty() && !is_redis {
        problems.push(
            "broker.sentinels is set, and broker.kind is \"memory\", expected broker.kind = \"redis\" or no sentinels"
                .to_owned(),
        );
    }
    if let Err(problem) = Sentinels::new(&config.sentinels) {
        problems.push(format!("broker.sentinels {problem}"));
    }
    problems.extend(certificate_files(config).err());
    problems.extend(RedisTls::problems(
        config.ca_file.as_deref(),
        config.tls_cert.as_deref(),
        config.tls_key.as_deref(),
    ));
}

/// The faults in `broker.cluster`.
fn check_cluster(config: &BrokerConfig, problems: &mut Vec<String>) {
    if config.cluster.is_empty() {
        return;
    }
    if let Err(problem) = Cluster::new(&config.cluster) {
        problems.push(format!("broker.cluster {problem}"));
    } else if config.kind != BrokerKind::Redis {
        problems.push(
            "broker.cluster is set, and broker.kind is \"memory\", expected broker.kind = \"redis\" or no cluster"
                .to_owned(),
        );
    } else if !config.sentinels.is_empty() {
        problems.push(
            "broker.cluster and broker.sentinels are both set, expected one of them: a cluster fails over by itself"
                .to_owned(),
        );
    }
}

/// The URL of Redis. That of a cluster may be missing, since its host is not used.
fn url(config: &BrokerConfig) -> Option<&str> {
    let url = config.url.as_deref();
    url.or_else(|| (!config.cluster.is_empty()).then_some("redis://cluster"))
}

fn has_certificates(config: &BrokerConfig) -> bool {
    config.ca_file.is_some() || config.tls_cert.is_some() || config.tls_key.is_some()
}

fn certificate_files(config: &BrokerConfig) -> Result<CertificateFiles, String> {
    let identity = match (&config.tls_cert, &config.tls_key) {
        (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => {
            return Err(
                "broker.tls_key is missing, expected the key of broker.tls_cert".to_owned(),
            );
        }
        (None, Some(_)) => {
            return Err(
                "broker.tls_cert is missing, expected the certificate of broker.tls_key".to_owned(),
            );
        }
    };
    Ok(CertificateFiles {
        authorities: config.ca_file.clone(),
        identity,
    })
}

/// The options of a Redis broker.
pub(crate) fn redis_options(config: &BrokerConfig) -> Result<RedisOptions, String> {
    let url = url(config).unwrap_or_default();
    Ok(RedisOptions {
        address: RedisAddress::parse(url).map_err(|problem| format!("broker.url {problem}"))?,
        cluster: Cluster::new(&config.cluster)
            .map_err(|problem| format!("broker.cluster {problem}"))?,
        sentinels: Sentinels::new(&config.sentinels)
            .map_err(|problem| format!("broker.sentinels {problem}"))?,
        tls: RedisTls::new(&certificate_files(config)?)?,
        prefix: config.prefix.clone(),
        timeout: config.timeout,
        buffer_bytes: config.buffer_bytes,
        comparison: RedisOptions::COMPARISON,
        protocol: NodeProtocol::CURRENT,
    })
}

/// Builds the streaming core. A replay shares nothing with other servers: its data are of another
/// time, or made up.
pub(crate) async fn open(
    config: &BrokerConfig,
    feed: &OpenFeed,
    namespaces: Namespaces,
    authenticator: Authenticator,
    clock: SharedClock,
    options: StreamOptions,
) -> anyhow::Result<Arc<StreamCore>> {
    if config.kind == BrokerKind::Memory {
        let core = StreamCore::in_memory(namespaces, authenticator, clock, options);
        return Ok(core);
    }
    if !feed.is_live() {
        tracing::warn!("a replay does not use Redis: its channels are its own");
        let core = StreamCore::in_memory(namespaces, authenticator, clock, options);
        return Ok(core);
    }
    let redis = redis_options(config).map_err(anyhow::Error::msg)?;
    // Under sentinels, the host of the URL is the name of the master.
    let address = match config.sentinels.is_empty() {
        true => redis.address.to_string(),
        false => format!("the master {:?} of the sentinels", redis.address.host),
    };
    let prefix = redis.prefix.clone();
    let opened = StreamCore::with_redis(namespaces, authenticator, clock, options, redis);
    let core = opened.await.map_err(|error| anyhow::anyhow!("{error}"))?;
    match core.broker().link().and_then(|link| link.fault) {
        None => tracing::info!(address, prefix, "channels are shared over Redis"),
        Some(fault) => tracing::warn!(
            address,
            fault,
            "Redis cannot be used yet: the server starts, and shares channels once it can"
        ),
    }
    Ok(core)
}
