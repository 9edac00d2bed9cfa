//! Probe: a publication of this node to itself, which uses all that publications need.
//!
//! It finds out whether Redis takes writes, runs the scripts, and allows this user the keys and
//! channels with the prefix. Once it has arrived over pub/sub, all of a publication's way works.
//! Its keys expire within a minute.

use bytes::Bytes;

use super::{
    error::RedisError,
    keys::KeyNames,
    resp::Reply,
    route::{Place, Route},
    script::{Script, ScriptCall},
};
use crate::Epoch;

/// How long the keys of a probe are stored, in milliseconds.
const LIFETIME: Bytes = Bytes::from_static(b"60000");

/// Names that are tried for a probe: so many that one is in any given slot, but for one time in a hundred
/// thousand.
const NAMES: usize = 200_000;

/// A name in the keys of the probe by which they are at a place. None if it has no slot, or bad luck.
pub(super) fn name(keys: &KeyNames, node: &str, route: &Route, place: &Place) -> Option<String> {
    let mut names = (0..NAMES).map(|number| match number {
        0 => node.to_owned(),
        _ => format!("{node}-{number}"),
    });
    names.find(|name| route.of_key(&keys.probe(name)) == *place)
}

/// The calls of all scripts on the probe's own channel. The first one publishes.
pub(super) fn calls(keys: &KeyNames, node: &str, number: u64) -> [ScriptCall; 3] {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let epoch = || Bytes::copy_from_slice(Epoch::random().as_str().as_bytes());
    let channel = keys.probe(node);
    let call = |script, arguments: Vec<Bytes>| ScriptCall {
        script,
        keys: 3,
        arguments: [Vec::from(keys.of_probe(node)), arguments].concat(),
    };
    let publish = vec![
        channel.clone(),
        text("probe"),
        number.to_string().into(),
        // Nothing was seen.
        text(""),
        text("0"),
        epoch(),
        // A history of one.
        text("1"),
        LIFETIME,
        LIFETIME,
        LIFETIME,
        LIFETIME,
        text("any"),
        // The first slot, after no other write.
        text("0"),
        text(""),
        text(""),
        // No engine, and no fresh epoch among the arguments.
        text(""),
        text(""),
        // No server is named.
        text(""),
        // One publication.
        text("1"),
        text("1"),
    ];
    let check = vec![
        channel,
        text(""),
        text("0"),
        text(""),
        epoch(),
        LIFETIME,
        LIFETIME,
        text("create"),
        text(""),
    ];
    let history = vec![
        text("0"),
        text("1"),
        text("1"),
        epoch(),
        LIFETIME,
        text(""),
        text(""),
    ];
    [
        call(Script::Publish, publish),
        call(Script::Check, check),
        call(Script::History, history),
    ]
}

/// The fault in the answer to a question for the eviction policy: a server that drops keys when its
/// memory is full loses histories and positions. None if the policy is right, or if this user may
/// not read the configuration.
pub(super) fn eviction_fault(
    answer: Result<Reply, RedisError>,
) -> Result<Option<String>, RedisError> {
    let reply = match answer {
        Ok(Reply::Array(reply)) => reply,
        Ok(_) => return Ok(None),
        Err(error @ RedisError::Refused(_)) if !error.is_transient() => return Ok(None),
        Err(error) => return Err(error),
    };
    let Some(Reply::Text(policy)) = reply.into_iter().nth(1) else {
        return Ok(None);
    };
    Ok((&*policy != b"noeviction").then(|| {
        format!(
            "its maxmemory-policy is {}, which drops histories and positions when memory is full: set `maxmemory-policy noeviction`",
            String::from_utf8_lossy(&policy)
        )
    }))
}

/// The question for the eviction policy.
pub(super) fn eviction_question() -> Vec<Bytes> {
    ["CONFIG", "GET", "maxmemory-policy"]
        .map(|word| Bytes::from_static(word.as_bytes()))
        .into()
}
