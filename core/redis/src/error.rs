//! Errors of Redis, with what an operator can do about each.

use crate::tls;

/// Parts of the errors for a user without rights. Those of scripts have no code.
const DENIALS: [&str; 3] = ["NOPERM", "ACL failure", "user executing the script can't"];

/// A failed exchange with Redis.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RedisError {
    /// The connection cannot be opened, or broke.
    #[error("no connection: {0}")]
    Connection(String),
    /// The connection cannot be encrypted.
    #[error("no encrypted connection: {0}")]
    Tls(String),
    /// No answer came in time.
    #[error("no answer within {0} ms")]
    TimedOut(u128),
    /// No answer came in time, for a reason that is known.
    #[error("no answer within {0} ms: {1}")]
    Hindered(u128, String),
    /// The server refused a command.
    #[error("{}", explain(.0))]
    Refused(String),
    /// The answer was not understood.
    #[error("the answer is not understood: {0}")]
    Protocol(String),
}

impl RedisError {
    /// Whether the same command may succeed later without a change by an operator: on a
    /// connection to another server, or once this one has loaded its data.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Connection(_) | Self::TimedOut(_) | Self::Hindered(..) => true,
            Self::Refused(text) => {
                [
                    "READONLY",
                    "LOADING",
                    "MASTERDOWN",
                    "CLUSTERDOWN",
                    "TRYAGAIN",
                    "BUSY",
                    "UNBLOCKED",
                ]
                .contains(&code(text))
                    || self.is_redirection()
            }
            Self::Protocol(_) | Self::Tls(_) => false,
        }
    }

    /// Whether a slot of a cluster has moved, or is moving: nothing is wrong, and the same command
    /// succeeds soon, here or on another server.
    pub fn is_redirection(&self) -> bool {
        let Self::Refused(text) = self else {
            return false;
        };
        ["MOVED", "ASK", "TRYAGAIN"].contains(&code(text))
            // A script in a slot that is moving. What it did before, it does in the same way again.
            || text.contains("attempted to access a non local key in a cluster")
    }

    /// Whether the server serves reads alone: it is full, cannot save, or lacks replicas.
    pub fn refuses_writes(&self) -> bool {
        matches!(self, Self::Refused(text) if ["OOM", "MISCONF", "NOREPLICAS"].contains(&code(text)))
    }

    /// Whether the server has forgotten a script.
    pub fn is_unknown_script(&self) -> bool {
        matches!(self, Self::Refused(text) if code(text) == "NOSCRIPT")
    }
}

impl From<std::io::Error> for RedisError {
    fn from(error: std::io::Error) -> Self {
        tls::fault(&error).unwrap_or_else(|| Self::Connection(error.to_string()))
    }
}

/// The first word of an error, which names its kind.
fn code(text: &str) -> &str {
    text.split([' ', ':']).next().unwrap_or_default()
}

/// Marks an error as that of a sentinel.
const SENTINEL: &str = ", from the sentinel ";

/// The error of a server that `broker.sentinels` names.
pub(crate) fn of_sentinel(error: RedisError, address: &str) -> RedisError {
    match error {
        RedisError::Refused(text) => {
            // Another note may say the same.
            let text = text.split(", from ").next().unwrap_or_default();
            RedisError::Refused(format!("{text}{SENTINEL}{address}"))
        }
        error => error,
    }
}

/// Advice on an error of a sentinel that is another one than of servers: `broker.url` is not where it is
/// named.
fn explain_sentinel(text: &str) -> Option<&'static str> {
    if !text.contains(SENTINEL) {
        return None;
    }
    match code(text) {
        "NOAUTH" => Some(
            "it wants a password: set it in `broker.sentinels`, as redis://:PASSWORD@HOST:PORT or redis://USER:PASSWORD@HOST:PORT",
        ),
        "WRONGPASS" => Some("it refuses the user or the password in `broker.sentinels`"),
        "ERR" if text.contains("unknown command") => Some(
            "it is no sentinel: `broker.sentinels` must name sentinels, usually at port 26379, and a Redis without them is named in `broker.url` alone",
        ),
        "ERR" if text.contains("without any password configured") => {
            Some("it has no password: remove the one in `broker.sentinels`")
        }
        _ if DENIALS.iter().any(|denial| text.contains(denial)) => Some(
            "its ACL refuses the user of `broker.sentinels`: allow `+sentinel|master`, and `+subscribe` with `&*`",
        ),
        _ => None,
    }
}

/// The text of an error with what to set.
fn explain(text: &str) -> String {
    if let Some(advice) = explain_sentinel(text) {
        return format!("{advice} ({text})");
    }
    let advice = match code(text) {
        "OOM" => {
            "it has no memory left: raise its `maxmemory`, or lower history_size and history_ttl of the namespaces"
        }
        "READONLY" => {
            "it is a replica: `broker.url` must name the master, unless `broker.sentinels` or `broker.cluster` find it"
        }
        "MISCONF" => {
            "it cannot write its snapshot and refuses writes: free its disk, or set `stop-writes-on-bgsave-error no`"
        }
        "NOAUTH" => {
            "it wants a password: set it in `broker.url`, as redis://:PASSWORD@HOST:PORT or redis://USER:PASSWORD@HOST:PORT"
        }
        "WRONGPASS" => "it refuses the user or the password in `broker.url`",
        _ if DENIALS.iter().any(|denial| text.contains(denial)) => {
            "its ACL refuses the user of `broker.url`: allow keys and channels with the prefix, `~tidewire:* &tidewire:*` for the usual one, and `+@read +@write +@scripting +@pubsub +@connection +time`, in a cluster also `+cluster|slots +cluster|info +cluster|myid`"
        }
        "NOREPLICAS" => {
            "it has fewer replicas than its `min-replicas-to-write`, or they lag: start them, or mend their connection"
        }
        "LOADING" => "it loads its data",
        "MOVED" | "ASK" | "CROSSSLOT" => {
            "it is a server of a Redis Cluster, and was used as a single one: name some of its servers in `broker.cluster`"
        }
        "CLUSTERDOWN" => {
            "a slot of the cluster has no server: start it again, or promote its replica; with `cluster-require-full-coverage no` the other slots go on"
        }
        "ERR" if text.contains("cluster support disabled") => {
            "it is a single server, and was used as one of a Redis Cluster: name it in `broker.url`, without `broker.cluster`"
        }
        "ERR" if text.contains("No such master with that name") => {
            "the sentinels of `broker.sentinels` watch no master under the name that is the host of `broker.url`"
        }
        "ERR" if text.contains("without any password configured") => {
            "it has no password: remove the one in `broker.url`"
        }
        "ERR" if text.contains("unknown command") => {
            "it does not know the command: Redis 7.0 or later is needed, without renamed commands, and sentinels belong into `broker.sentinels`"
        }
        _ => return text.to_owned(),
    };
    format!("{advice} ({text})")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_to_set() {
        let refused = |text: &str| RedisError::Refused(text.to_owned());
        let oom = refused("OOM command not allowed when used memory > 'maxmemory'.");
        assert!(oom.to_string().contains("raise its `maxmemory`"));
        assert!(!oom.is_transient());
        assert!(refused("READONLY You can't write against a read only replica.").is_transient());
        assert!(!refused("NOAUTH Authentication required.").is_transient());
        assert!(refused("NOSCRIPT No matching script.").is_unknown_script());
        for text in [
            "MOVED 1 a:1",
            "ASK 1 a:1",
            "TRYAGAIN Multiple keys request during rehashing of slot",
            "ERR Script attempted to access a non local key in a cluster node script: 1, on @user_script:2.",
        ] {
            let error = refused(text);
            assert!(error.is_redirection() && error.is_transient(), "{text}");
        }
        assert!(!refused("CLUSTERDOWN The cluster is down").is_redirection());
    }

    #[test]
    fn an_error_names_the_key_of_the_server() {
        let unknown = "ERR unknown command 'SENTINEL', with args beginning with: 'MASTER' 'm' ";
        for (text, part) in [
            (unknown, "it is no sentinel: `broker.sentinels`"),
            (
                "NOAUTH Authentication required., from a:1",
                "set it in `broker.sentinels`",
            ),
            ("WRONGPASS invalid", "the password in `broker.sentinels`"),
            ("NOPERM no", "the user of `broker.sentinels`"),
            (
                "ERR No such master with that name",
                "watch no master under the name",
            ),
        ] {
            let error = of_sentinel(RedisError::Refused(text.to_owned()), "redis://a:26379");
            let error = error.to_string();
            assert!(error.contains(part), "{error}");
            assert_eq!(error.matches("from").count(), 1, "{error}");
            assert!(
                error.contains("from the sentinel redis://a:26379"),
                "{error}"
            );
        }
        for (text, part) in [
            ("NOAUTH Authentication required.", "set it in `broker.url`"),
            (
                "MOVED 1 a:1",
                "name some of its servers in `broker.cluster`",
            ),
            (
                "ERR This instance has cluster support disabled",
                "name it in `broker.url`, without `broker.cluster`",
            ),
        ] {
            let error = RedisError::Refused(text.to_owned()).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
