//! Set-up check: finds out at the start whether a server of Redis is fit.

use tidewire_proto::v1::ErrorCode;
use tokio::time::timeout;

use super::{
    address::RedisOptions,
    connection::RedisConnection,
    error::RedisError,
    health::{Link, LinkHealth},
    keys::KeyNames,
    nodes::roll_question,
    probe,
    resp::Reply,
    script::Digests,
    versions::Roll,
};
use crate::StreamError;

/// Checks the server. One that does not answer may come later.
pub(super) async fn check(
    options: &RedisOptions,
    keys: &KeyNames,
    node: &str,
    health: &LinkHealth,
) -> Result<(), StreamError> {
    // Each step has the usual time, and a step that has no answer says what may be the reason.
    let longest = 2 * options.timeout;
    let checked = match timeout(longest, check_server(options, keys, node)).await {
        Ok(checked) => checked,
        Err(_) => Err(RedisError::TimedOut(longest.as_millis()).into()),
    };
    match checked {
        Ok(()) => Ok(()),
        Err(Fault::Unfit(text)) => Err(StreamError::new(
            ErrorCode::FailedPrecondition,
            format!("broker.url: {} is not fit: {text}", options.address),
        )),
        // It serves reads, and mends without a change of the configuration.
        Err(Fault::Redis(error)) if error.refuses_writes() => {
            health.fail(Link::Writes, &error);
            Ok(())
        }
        Err(Fault::Redis(error)) if !error.is_transient() => Err(StreamError::new(
            ErrorCode::FailedPrecondition,
            format!("broker.url: {} cannot be used: {error}", options.address),
        )),
        Err(Fault::Redis(error)) => {
            health.fail(Link::Subscriptions, &error);
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

async fn check_server(options: &RedisOptions, keys: &KeyNames, node: &str) -> Result<(), Fault> {
    let mut connection = RedisConnection::open_master(options, None).await?;
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
    let mut pipeline = Vec::new();
    let calls = probe::calls(keys, node, 0);
    for call in &calls {
        digests.encode(&mut pipeline, call);
    }
    for reply in connection.exchange(&pipeline, calls.len()).await? {
        if let Reply::Error(text) = reply {
            return Err(Fault::Redis(RedisError::Refused(text)));
        }
    }
    let mut question = Vec::new();
    digests.encode(&mut question, &roll_question(keys, options.protocol));
    for reply in connection.exchange(&question, 1).await? {
        if let Roll::Refused(stranger) = Roll::read(reply)? {
            return Err(Fault::Unfit(stranger.fault(options.protocol)));
        }
    }
    let name = keys.probe(node);
    connection.call(&[&b"SSUBSCRIBE"[..], &name]).await?;
    Ok(())
}
