//! Command line of the load tool.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::Transport;

/// Measures Tidewire over sockets, beside reference servers that only write bytes.
#[derive(Debug, Parser)]
#[command(name = "tidewire-load", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every measurement.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// Binary under test. Default: the one beside this tool.
    #[arg(long, env = "TIDEWIRE_BIN", global = true)]
    pub(crate) server: Option<PathBuf>,
    /// Path of `bun`, which runs the uWebSockets reference server.
    #[arg(long, env = "BUN_BIN", global = true)]
    pub(crate) bun: Option<PathBuf>,
    /// Let the scheduler choose CPUs.
    #[arg(long, global = true)]
    pub(crate) no_pin: bool,
    /// CPUs of the servers.
    #[arg(long, value_delimiter = ',', default_value = "0", global = true)]
    pub(crate) server_cpus: Vec<usize>,
    /// CPU of this tool.
    #[arg(long, default_value_t = 1, global = true)]
    pub(crate) own_cpu: usize,
    /// Environment variable of the binary, as `NAME=VALUE`. Can be repeated.
    #[arg(long = "env", value_parser = pair, global = true)]
    pub(crate) environment: Vec<(String, String)>,
    /// Append every row to this file, as lines of JSON.
    #[arg(long, global = true)]
    pub(crate) out: Option<PathBuf>,
    /// Measure over TLS. The bare loops, which have none, are left out.
    #[arg(long, global = true)]
    pub(crate) tls: bool,
    /// Measure the binary under test alone.
    #[arg(long, global = true)]
    pub(crate) alone: bool,
    /// Time after a window in which its messages may still arrive, in seconds.
    #[arg(long, default_value_t = 2.0, global = true)]
    pub(crate) grace: f64,
    /// Repetitions. The table shows medians.
    #[arg(long, default_value_t = 3, global = true)]
    pub(crate) reps: usize,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Send at a fixed rate to many subscribers.
    Fanout(Fanout),
    /// Find the highest sustained rate.
    Ramp(Ramp),
    /// Measure the memory of idle connections.
    Idle(Idle),
    /// Measure how many connections are accepted per second.
    Storm(Idle),
    /// Measure the cost that non-reading subscribers impose on the others.
    Slow(Slow),
    /// Send SIGTERM with many connections open, and check notices, timing and recovery.
    Drain(Drain),
    /// Run a steady load for minutes, and check that memory stays flat.
    Soak(Soak),
    /// Measure bytes on the wire per price update.
    Bytes(Bytes),
    /// Run the whole set, and check it against the required bars.
    Bars(Bars),
    /// Runs the bare-loop reference server. The other commands start it themselves.
    #[command(hide = true)]
    Bare {
        /// Write all messages of one read with one call.
        #[arg(long)]
        gather: bool,
    },
}

/// Subscribers, channels and payloads.
#[derive(Debug, Clone, Args)]
pub(crate) struct Subscribers {
    /// Connections.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) connections: usize,
    /// Transports of the clients of the binary under test, separated by commas.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ws-json")]
    pub(crate) transport: Vec<Transport>,
    /// Channels.
    #[arg(long, default_value_t = 1)]
    pub(crate) channels: usize,
    /// Channels per connection.
    #[arg(long, default_value_t = 1)]
    pub(crate) per_conn: usize,
    /// Pick the channel of each message at random, not in rotation.
    #[arg(long)]
    pub(crate) random: bool,
    /// Payload, in bytes.
    #[arg(long, default_value_t = 200)]
    pub(crate) size: usize,
    /// Feed trades from a venue stand-in, and subscribe to `prices:*`.
    #[arg(long)]
    pub(crate) prices: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) subscribers: Subscribers,
    /// Messages per second.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// Length of a window, in seconds.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Ramp {
    #[command(flatten)]
    pub(crate) subscribers: Subscribers,
    /// First rate, in messages per second.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) from: f64,
    /// Length of a window, in seconds.
    #[arg(long, default_value_t = 1.5)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// Connections, all WebSockets.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: usize,
    /// Subscribe to nothing, instead of one channel each.
    #[arg(long)]
    pub(crate) no_channel: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Slow {
    /// Connections.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) connections: usize,
    /// One in this number of connections never reads.
    #[arg(long, default_value_t = 100)]
    pub(crate) every: usize,
    /// Messages per second.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// Payload, in bytes. Large payloads fill the kernel's buffers sooner.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) size: usize,
    /// Length of a window, in seconds.
    #[arg(long, default_value_t = 6.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// Connections.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) connections: usize,
    /// Value of `server.drain`, in seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) window: f64,
    /// Messages per second, published until the server exits.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) rate: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Soak {
    #[command(flatten)]
    pub(crate) subscribers: Subscribers,
    /// Messages per second.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// Duration, in minutes.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) minutes: f64,
    /// Interval between memory samples, in seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) sample: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Bytes {
    /// Symbols.
    #[arg(long, default_value_t = 200)]
    pub(crate) symbols: usize,
    /// Symbols per connection.
    #[arg(long, default_value_t = 50)]
    pub(crate) per_conn: usize,
    /// Trades per second, over all symbols.
    #[arg(long, default_value_t = 200.0)]
    pub(crate) rate: f64,
    /// Length of a window, in seconds.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Bars {
    /// Length of a window, in seconds.
    #[arg(long, default_value_t = 2.5)]
    pub(crate) seconds: f64,
    /// Idle connections.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) idle: usize,
}
