//! Answers: who is the master, as sentinels say, and whether a server says the same of itself.

use crate::{
    address::{RedisAddress, RedisOptions},
    connection::RedisConnection,
    error::{RedisError, of_sentinel},
    resp::Reply,
    sentinels::Master,
    succession::Announcement,
};

/// Whether a server is a master, on a connection that is kept.
pub(crate) async fn role_of(
    kept: &mut Option<RedisConnection>,
    options: &RedisOptions,
    server: &Master,
) -> Result<bool, RedisError> {
    let connection = match kept {
        Some(connection) => connection,
        None => {
            let opened = RedisConnection::open_to(options, &options.address, Some(server)).await?;
            kept.insert(opened)
        }
    };
    let role = connection.call(&["ROLE"]).await?.array()?;
    Ok(is_master(role.first()))
}

/// The event in a message of a sentinel, if it is about the master with this name.
pub(crate) fn announcement(message: Reply, name: &str) -> Option<Announcement> {
    let mut parts = message.array().ok()?.into_iter();
    let (kind, event, text) = (parts.next()?, parts.next()?, parts.next()?);
    // The answer to the subscription has a number in the place of a text.
    let (event, text) = (event.string().ok()?, text.string().ok()?);
    (kind.string().ok()? == "message")
        .then(|| Announcement::parse(&event, &text, name))
        .flatten()
}

/// Asks one sentinel.
pub(crate) async fn ask(
    options: &RedisOptions,
    sentinel: &RedisAddress,
) -> Result<Master, RedisError> {
    let asked = ask_for_master(options, sentinel).await;
    asked.map_err(|error| of_sentinel(error, &sentinel.to_string()))
}

async fn ask_for_master(
    options: &RedisOptions,
    sentinel: &RedisAddress,
) -> Result<Master, RedisError> {
    let mut connection = RedisConnection::open_to(options, sentinel, None).await?;
    let name = &options.address.host;
    let fields = connection
        .call(&["SENTINEL", "MASTER", name])
        .await?
        .array()?;
    let mut fields = fields.into_iter();
    let (mut host, mut port, mut failover, mut is_replaced) = (None, None, 0, false);
    while let (Some(name), Some(value)) = (fields.next(), fields.next()) {
        let (name, value) = (name.string()?, value.string()?);
        match &*name {
            "ip" => host = Some(value),
            "port" => port = value.parse().ok(),
            "config-epoch" => failover = value.parse().unwrap_or_default(),
            "flags" => is_replaced = value.split(',').any(|flag| flag == "failover_in_progress"),
            _ => {}
        }
    }
    match (host, port) {
        (Some(host), Some(port)) => Ok(Master {
            host,
            port,
            failover,
            is_replaced,
            version: 0,
        }),
        _ => Err(RedisError::Protocol(
            "a sentinel names no address of the master".to_owned(),
        )),
    }
}

/// Checks the answer of a server to the question for its role.
pub(crate) fn check_role(answer: Result<Reply, RedisError>) -> Result<(), RedisError> {
    let role = match answer {
        Ok(reply) => reply.array()?.into_iter().next(),
        // This user may not ask: a write finds out.
        Err(RedisError::Refused(_)) => return Ok(()),
        Err(error) => return Err(error),
    };
    match is_master(role.as_ref()) {
        true => Ok(()),
        false => Err(RedisError::Connection(
            "the server that the sentinels name is not the master yet".to_owned(),
        )),
    }
}

fn is_master(role: Option<&Reply>) -> bool {
    matches!(role, Some(Reply::Text(role)) if &**role == b"master")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_master_is_used() {
        let role = |text: &'static str| Ok(Reply::Array(vec![Reply::Text(text.into())]));
        assert!(check_role(role("master")).is_ok());
        assert!(check_role(role("slave")).is_err_and(|error| error.is_transient()));
        let denied = RedisError::Refused("NOPERM no".to_owned());
        assert!(check_role(Err(denied)).is_ok());
    }
}
