//! Command: an encoded command of Redis, most of them scripts.
//!
//! Scripts are sent as text each time. They are short, and a server that was restarted needs no
//! care.

use tidewire_redis::resp;

/// The text of a script, and whether it only reads.
#[derive(Debug, Clone, Copy)]
pub(super) struct Script {
    text: &'static str,
    is_read: bool,
}

pub(super) const LEASE: Script = Script {
    text: include_str!("scripts/lease.lua"),
    is_read: false,
};

pub(super) const CANDIDATES: Script = Script {
    text: include_str!("scripts/candidates.lua"),
    is_read: false,
};

pub(super) const COMMIT: Script = Script {
    text: include_str!("scripts/commit.lua"),
    is_read: false,
};

pub(super) const GET: Script = Script {
    text: include_str!("scripts/get.lua"),
    is_read: true,
};

pub(super) const FLOOR: Script = Script {
    text: include_str!("scripts/floor.lua"),
    is_read: true,
};

pub(super) const SCAN: Script = Script {
    text: include_str!("scripts/scan.lua"),
    is_read: true,
};

/// Encodes the call of a script.
pub(super) fn call<K: AsRef<[u8]>, A: AsRef<[u8]>>(
    script: Script,
    keys: &[K],
    arguments: &[A],
) -> Vec<u8> {
    let mut out = Vec::new();
    let name: &[u8] = match script.is_read {
        true => b"EVAL_RO",
        false => b"EVAL",
    };
    resp::begin(&mut out, 3 + keys.len() + arguments.len());
    resp::push(&mut out, name);
    resp::push(&mut out, script.text.as_bytes());
    resp::push(&mut out, keys.len().to_string().as_bytes());
    for key in keys {
        resp::push(&mut out, key.as_ref());
    }
    for argument in arguments {
        resp::push(&mut out, argument.as_ref());
    }
    out
}

/// Encodes a command that waits until `replicas` have all that this connection wrote before.
pub(super) fn wait(replicas: u32, longest: std::time::Duration) -> Vec<u8> {
    let mut out = Vec::new();
    let (replicas, longest) = (replicas.to_string(), longest.as_millis().to_string());
    resp::encode(&mut out, &["WAIT", &replicas, &longest]);
    out
}
