//! Scripts: the Lua scripts that run in Redis, and their calls.

use std::borrow::Cow;

use super::{connection::RedisConnection, error::RedisError, resp};

/// A script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Script {
    /// Publishes a batch of one channel.
    Publish,
    /// Compares the newest position of a channel with what a node has seen.
    Check,
    /// The same, where Redis refuses writes. It fails if it would have to write.
    CheckReadOnly,
    /// Reads a page of a history.
    History,
    /// The same, where Redis refuses writes.
    HistoryReadOnly,
    /// Spreads a revocation to all nodes.
    Control,
    /// Extends the lease of a node.
    Lease,
    /// Sends a question to nodes.
    Ask,
    /// Raises the fence of a lease in a partition.
    Fence,
    /// Tells a lease that fences are of a later term.
    Late,
}

impl Script {
    const ALL: [Self; 10] = [
        Self::Publish,
        Self::Check,
        Self::CheckReadOnly,
        Self::History,
        Self::HistoryReadOnly,
        Self::Control,
        Self::Lease,
        Self::Ask,
        Self::Fence,
        Self::Late,
    ];

    fn source(self) -> Cow<'static, str> {
        let source = match self {
            Self::Publish => include_str!("scripts/publish.lua"),
            Self::Check | Self::CheckReadOnly => include_str!("scripts/check.lua"),
            Self::History | Self::HistoryReadOnly => include_str!("scripts/history.lua"),
            Self::Control => include_str!("scripts/control.lua"),
            Self::Lease => include_str!("scripts/lease.lua"),
            Self::Ask => include_str!("scripts/ask.lua"),
            Self::Fence => include_str!("scripts/fence.lua"),
            Self::Late => include_str!("scripts/late.lua"),
        };
        match self {
            // Redis refuses all other scripts where it refuses writes.
            Self::CheckReadOnly | Self::HistoryReadOnly => source
                .replacen("flags=allow-oom", "flags=no-writes", 1)
                .into(),
            _ => source.into(),
        }
    }

    /// The script that does the same without writing.
    fn read_only(self) -> Option<Self> {
        match self {
            Self::Check => Some(Self::CheckReadOnly),
            Self::History => Some(Self::HistoryReadOnly),
            _ => None,
        }
    }
}

/// The digests by which a server knows the scripts.
#[derive(Debug, Clone, Default)]
pub(super) struct Digests([String; Script::ALL.len()]);

impl Digests {
    /// Loads all scripts into a server.
    ///
    /// # Errors
    /// The connection broke, or the server refuses scripts.
    pub(super) async fn load(connection: &mut RedisConnection) -> Result<Self, RedisError> {
        let mut digests = Self::default();
        for script in Script::ALL {
            let loaded = connection
                .call(&["SCRIPT", "LOAD", &*script.source()])
                .await?;
            digests.0[script as usize] = loaded.string()?;
        }
        Ok(digests)
    }

    /// Appends a call of a script to a pipeline.
    pub(super) fn encode(&self, out: &mut Vec<u8>, call: &ScriptCall) {
        resp::begin(out, 3 + call.arguments.len());
        resp::push(out, b"EVALSHA");
        resp::push(out, self.0[call.script as usize].as_bytes());
        resp::push(out, call.keys.to_string().as_bytes());
        for argument in &call.arguments {
            resp::push(out, argument);
        }
    }
}

/// A call of a script.
#[derive(Debug, Clone)]
pub(super) struct ScriptCall {
    pub(super) script: Script,
    /// How many of the arguments are keys. They come first.
    pub(super) keys: usize,
    pub(super) arguments: Vec<bytes::Bytes>,
}

impl ScriptCall {
    /// The call that does the same without writing.
    pub(super) fn read_only(mut self) -> Option<Self> {
        self.script = self.script.read_only()?;
        Some(self)
    }
}
