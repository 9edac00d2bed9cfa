//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::Transport;

/// Measures Tidewire over sockets, beside servers that only write bytes.
#[derive(Debug, Parser)]
#[command(name = "tidewire-load", version)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What all measurements have in common.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The binary under test. Without it, the one that lies beside this tool.
    #[arg(long, env = "TIDEWIRE_BIN", global = true)]
    pub(crate) server: Option<PathBuf>,
    /// `bun`, for uWebSockets beside it.
    #[arg(long, env = "BUN_BIN", global = true)]
    pub(crate) bun: Option<PathBuf>,
    /// Let the scheduler choose CPUs.
    #[arg(long, global = true)]
    pub(crate) no_pin: bool,
    /// The CPUs of the servers.
    #[arg(long, value_delimiter = ',', default_value = "0", global = true)]
    pub(crate) server_cpus: Vec<usize>,
    /// The CPU of this tool.
    #[arg(long, default_value_t = 1, global = true)]
    pub(crate) own_cpu: usize,
    /// A variable of the binary's environment, `NAME=VALUE`; several are possible.
    #[arg(long = "env", value_parser = pair, global = true)]
    pub(crate) environment: Vec<(String, String)>,
    /// Append what was measured to this file, as lines of JSON.
    #[arg(long, global = true)]
    pub(crate) out: Option<PathBuf>,
    /// Measure the binary under test alone.
    #[arg(long, global = true)]
    pub(crate) alone: bool,
    /// How long what was sent may still arrive after a window, in seconds.
    #[arg(long, default_value_t = 2.0, global = true)]
    pub(crate) grace: f64,
    /// How often each is measured; the table shows medians.
    #[arg(long, default_value_t = 3, global = true)]
    pub(crate) reps: usize,
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("expected NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// A fixed rate of messages to many subscribers.
    Fanout(Fanout),
    /// The highest rate that is kept up with.
    Ramp(Ramp),
    /// Memory of connections that nothing happens on.
    Idle(Idle),
    /// How fast connections are taken.
    Storm(Idle),
    /// What subscribers that never read cost the others.
    Slow(Slow),
    /// SIGTERM with many connections: who is told, when, and what can be recovered.
    Drain(Drain),
    /// A steady load for minutes: whether memory stays flat.
    Soak(Soak),
    /// Bytes on the wire for a price update.
    Bytes(Bytes),
    /// The whole set, with the bars that have to be met.
    Bars(Bars),
    /// The bare loop, as a server. The other commands start it themselves.
    #[command(hide = true)]
    Bare {
        /// All messages of one read share a write.
        #[arg(long)]
        gather: bool,
    },
}

/// Who subscribes to what.
#[derive(Debug, Clone, Args)]
pub(crate) struct Subscribers {
    /// How many connections.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) connections: usize,
    /// How the clients of the binary under test are connected; several are possible.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "ws-json")]
    pub(crate) transport: Vec<Transport>,
    /// How many channels there are.
    #[arg(long, default_value_t = 1)]
    pub(crate) channels: usize,
    /// How many of them each connection follows.
    #[arg(long, default_value_t = 1)]
    pub(crate) per_conn: usize,
    /// Each message goes to any channel, not to one after the other.
    #[arg(long)]
    pub(crate) random: bool,
    /// The payload, in bytes.
    #[arg(long, default_value_t = 200)]
    pub(crate) size: usize,
    /// A venue trades, and the connections follow `prices:*`.
    #[arg(long)]
    pub(crate) prices: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Fanout {
    #[command(flatten)]
    pub(crate) subscribers: Subscribers,
    /// Messages a second.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// How long a window is.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Ramp {
    #[command(flatten)]
    pub(crate) subscribers: Subscribers,
    /// The first rate, in messages a second.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) from: f64,
    /// How long a window is.
    #[arg(long, default_value_t = 1.5)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Idle {
    /// How many connections, all WebSockets.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) connections: usize,
    /// Follow nothing, instead of one channel each.
    #[arg(long)]
    pub(crate) no_channel: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Slow {
    /// How many connections.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) connections: usize,
    /// One in so many never reads.
    #[arg(long, default_value_t = 100)]
    pub(crate) every: usize,
    /// Messages a second.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// The payload, in bytes: large ones fill the kernel's buffers sooner.
    #[arg(long, default_value_t = 2_000)]
    pub(crate) size: usize,
    /// How long a window is.
    #[arg(long, default_value_t = 6.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Drain {
    /// How many connections.
    #[arg(long, default_value_t = 5_000)]
    pub(crate) connections: usize,
    /// `server.drain`, in seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) window: f64,
    /// Messages a second, published until the server goes.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) rate: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Soak {
    #[command(flatten)]
    pub(crate) subscribers: Subscribers,
    /// Messages a second.
    #[arg(long, default_value_t = 50.0)]
    pub(crate) rate: f64,
    /// How long.
    #[arg(long, default_value_t = 5.0)]
    pub(crate) minutes: f64,
    /// How long between two looks at the memory, in seconds.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) sample: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Bytes {
    /// How many symbols there are.
    #[arg(long, default_value_t = 200)]
    pub(crate) symbols: usize,
    /// How many of them a connection follows.
    #[arg(long, default_value_t = 50)]
    pub(crate) per_conn: usize,
    /// Trades a second, over all symbols.
    #[arg(long, default_value_t = 200.0)]
    pub(crate) rate: f64,
    /// How long a window is.
    #[arg(long, default_value_t = 4.0)]
    pub(crate) seconds: f64,
}

#[derive(Debug, Args)]
pub(crate) struct Bars {
    /// How long a window is.
    #[arg(long, default_value_t = 2.5)]
    pub(crate) seconds: f64,
    /// How many idle connections.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) idle: usize,
}
