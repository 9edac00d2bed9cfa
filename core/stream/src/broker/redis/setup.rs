//! Set-up check: finds out at the start whether a server of Redis is fit.

use tidewire_proto::v1::ErrorCode;

use super::{
    address::RedisOptions, connection::RedisConnection, error::RedisError, health::LinkHealth,
    keys::KeyNames, lossy, resp::Reply, script::Digests,
};
use crate::StreamError;

/// Checks the server. One that does not answer may come later.
pub(super) async fn check(
    options: &RedisOptions,
    keys: &KeyNames,
    node: &str,
    health: &LinkHealth,
) -> Result<(), StreamError> {
    match check_server(options, keys, node).await {
        Ok(()) => Ok(()),
        Err(Fault::Unfit(text)) => Err(StreamError::new(
            ErrorCode::FailedPrecondition,
            format!("broker.url: {} is not fit: {text}", options.address),
        )),
        Err(Fault::Redis(error @ (RedisError::Refused(_) | RedisError::Protocol(_))))
            if !error.is_transient() =>
        {
            Err(StreamError::new(
                ErrorCode::FailedPrecondition,
                format!("broker.url: {} refuses: {error}", options.address),
            ))
        }
        Err(Fault::Redis(error)) => {
            health.fail("subscriptions", &error);
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
    let mut connection = RedisConnection::open(options).await?;
    Digests::load(&mut connection)
        .await
        .map_err(|error| match &error {
            RedisError::Refused(text) if text.contains("shebang") || text.contains("compiling") => {
                Fault::Unfit(format!("Redis 7.0 or later is needed ({text})"))
            }
            _ => Fault::Redis(error),
        })?;
    // KeyNames and channels with the prefix, as an ACL may allow them.
    let probe = keys.probe(node);
    let key = [&probe[..], b":check"].concat();
    connection
        .call(&[&b"SET"[..], &key, b"1", b"PX", b"1000"])
        .await?;
    connection.call(&[&b"SPUBLISH"[..], &probe, b"1"]).await?;
    check_eviction(&mut connection).await?;
    connection.call(&[&b"SSUBSCRIBE"[..], &probe]).await?;
    Ok(())
}

/// Refuses a server that drops keys when its memory is full. A user who may not read the
/// configuration is trusted.
async fn check_eviction(connection: &mut RedisConnection) -> Result<(), Fault> {
    let reply = match connection
        .call(&["CONFIG", "GET", "maxmemory-policy"])
        .await
    {
        Ok(Reply::Array(reply)) => reply,
        Ok(_) => return Ok(()),
        Err(RedisError::Refused(text)) => {
            tracing::info!(
                reason = text,
                "the eviction policy of Redis cannot be read: it must be noeviction"
            );
            return Ok(());
        }
        Err(error) => return Err(error.into()),
    };
    let policy = match reply.into_iter().nth(1) {
        Some(Reply::Text(policy)) => lossy(&policy).into_owned(),
        _ => return Ok(()),
    };
    match &*policy {
        "noeviction" => Ok(()),
        policy => Err(Fault::Unfit(format!(
            "its maxmemory-policy is {policy}, which drops histories and positions when memory is full: set `maxmemory-policy noeviction`"
        ))),
    }
}
