//! Set-up check: finds out at the start whether the servers of Redis are fit.

use std::time::Duration;

use tidewire_proto::v1::ErrorCode;
use tidewire_redis::{
    cluster::{ServerMode, mode},
    slots::SLOTS,
};
use tokio::time::{error::Elapsed, timeout};

use super::{
    address::RedisOptions,
    connection::RedisConnection,
    error::RedisError,
    health::{Link, LinkHealth},
    keys::KeyNames,
    nodes::roll_question,
    probe,
    resp::Reply,
    route::{Place, Route},
    script::Digests,
    versions::Roll,
};
use crate::StreamError;

/// Checks the servers. One that does not answer may come later.
pub(super) async fn check(
    options: &RedisOptions,
    keys: &KeyNames,
    node: &str,
    route: &Route,
    health: &LinkHealth,
) -> Result<(), StreamError> {
    // Each step has the usual time, and a step that has no answer says what may be the reason.
    let longest = 2 * options.timeout;
    if route.is_cluster() {
        let checked = timeout(longest, check_cluster(options)).await;
        let name = "broker.cluster: the cluster".to_owned();
        judge(checked, longest, &name, health, Link::Slots)?;
    }
    for place in route.places() {
        let name = match place.master() {
            Some(master) => format!("broker.cluster: {master}"),
            None if !options.sentinels.is_empty() => {
                format!("broker.sentinels: the master {:?}", options.address.host)
            }
            None => format!("broker.url: {}", options.address),
        };
        let checked = timeout(longest, check_server(options, keys, node, route, &place)).await;
        judge(checked, longest, &name, health, Link::Subscriptions(place))?;
    }
    Ok(())
}

/// Judges the outcome of a check of what has this name.
fn judge(
    checked: Result<Result<(), Fault>, Elapsed>,
    longest: Duration,
    name: &str,
    health: &LinkHealth,
    link: Link,
) -> Result<(), StreamError> {
    let late = |_| Err(RedisError::TimedOut(longest.as_millis()).into());
    let unfit = |text| Err(StreamError::new(ErrorCode::FailedPrecondition, text));
    match checked.unwrap_or_else(late) {
        Ok(()) => Ok(()),
        Err(Fault::Unfit(text)) => unfit(format!("{name} is not fit: {text}")),
        // It serves reads, and mends without a change of the configuration.
        Err(Fault::Redis(error)) if error.refuses_writes() => {
            let link = match link {
                Link::Subscriptions(place) => Link::Writes(place),
                other => other,
            };
            health.fail(link, &error);
            Ok(())
        }
        Err(Fault::Redis(error)) if !error.is_transient() => {
            unfit(format!("{name} cannot be used: {error}"))
        }
        Err(Fault::Redis(error)) => {
            health.fail(link, &error);
            Ok(())
        }
    }
}

enum Fault {
    /// The server works otherwise than it must.
    Unfit(String),
    Redis(RedisError),
}

impl From<RedisError> for Fault {
    fn from(error: RedisError) -> Self {
        Self::Redis(error)
    }
}

/// Checks that all slots have a server.
async fn check_cluster(options: &RedisOptions) -> Result<(), Fault> {
    options.cluster.refresh(options).await?;
    match options.cluster.map().served() {
        SLOTS => Ok(()),
        served => Err(Fault::Unfit(format!(
            "{served} of its {SLOTS} slots have a server, expected all: see `redis-cli --cluster check`"
        ))),
    }
}

async fn check_server(
    options: &RedisOptions,
    keys: &KeyNames,
    node: &str,
    route: &Route,
    place: &Place,
) -> Result<(), Fault> {
    let mut connection = RedisConnection::open_master(options, place.master()).await?;
    // A user who may not ask finds out at the first write.
    let hello = connection.call(&["HELLO"]).await.ok();
    let unfit = match (hello.and_then(mode), route.is_cluster()) {
        (Some(ServerMode::Sentinel), _) => Some(
            "it is a sentinel: name it in `broker.sentinels`, and in `broker.url` the name of the master, as redis://MASTER",
        ),
        (Some(ServerMode::Single), true) => {
            Some("it is in no cluster: name it in `broker.url`, without `broker.cluster`")
        }
        (Some(ServerMode::Cluster), false) => {
            Some("it is a server of a Redis Cluster: name some of its servers in `broker.cluster`")
        }
        _ => None,
    };
    if let Some(unfit) = unfit {
        return Err(Fault::Unfit(unfit.to_owned()));
    }
    let digests = Digests::load(&mut connection)
        .await
        .map_err(|error| match &error {
            RedisError::Refused(text) if text.contains("shebang") || text.contains("compiling") => {
                Fault::Unfit(format!("Redis 7.0 or later is needed ({text})"))
            }
            _ => Fault::Redis(error),
        })?;
    let answer = connection.call(&probe::eviction_question()).await;
    if let Err(RedisError::Refused(reason)) = &answer {
        tracing::info!(
            reason,
            "the eviction policy of Redis cannot be read: it must be noeviction"
        );
    }
    if let Some(fault) = probe::eviction_fault(answer)? {
        return Err(Fault::Unfit(fault));
    }
    let Some(prober) = probe::name(keys, node, route, place) else {
        return Ok(());
    };
    let mut pipeline = Vec::new();
    let calls = probe::calls(keys, &prober, 0);
    for call in &calls {
        digests.encode(&mut pipeline, call);
    }
    for reply in connection.exchange(&pipeline, calls.len()).await? {
        if let Reply::Error(text) = reply {
            return Err(Fault::Redis(RedisError::Refused(text)));
        }
    }
    // One server alone has the nodes.
    let question = roll_question(keys, options.protocol);
    if route.of_key(&keys.nodes()) == *place {
        let mut pipeline = Vec::new();
        digests.encode(&mut pipeline, &question);
        for reply in connection.exchange(&pipeline, 1).await? {
            if let Roll::Refused(stranger) = Roll::read(reply)? {
                return Err(Fault::Unfit(stranger.fault(options.protocol)));
            }
        }
    }
    let name = keys.probe(&prober);
    connection.call(&[&b"SSUBSCRIBE"[..], &name]).await?;
    Ok(())
}
