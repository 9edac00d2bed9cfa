//! The command line.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::{Args, Parser, Subcommand};
use tidewire_price::{PriceEngine, Recording, ReplaySpeed, ReplayStart};
use tidewire_stream::{Claims, Clock as _, SystemClock};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Config,
    security,
    serve::{self, Feed, Repeat},
    telemetry,
};

/// The real-time backbone of a Web3 product: live prices, transactions,
/// notifications and alerts over WebSocket, SSE and gRPC.
#[derive(Debug, Parser)]
#[command(name = "tidewire", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigFile,
}

#[derive(Debug, Clone, Args)]
struct ConfigFile {
    /// The configuration file; without one, everything has its default.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server. This is what happens without any command.
    Serve,
    /// Print a token for development.
    Token {
        /// Whose token.
        #[arg(long)]
        user: String,
        /// What it allows: `service`, `admin`, or both with a space between.
        #[arg(long)]
        scope: Option<String>,
        /// How long it is valid, for example 30m, 1h or 7d.
        #[arg(long, default_value = "1h", value_parser = parse_ttl)]
        ttl: Duration,
    },
    /// Read the configuration and say what is wrong with it.
    CheckConfig,
    /// Write what the venues say to a compressed file, until interrupted.
    Record {
        /// The file.
        file: PathBuf,
    },
    /// Run the server on a recording instead of the venues.
    Replay {
        /// The recording; without one, the sample that is built in.
        file: Option<PathBuf>,
        /// How many times as fast as recorded, or `max`.
        #[arg(long, default_value = "1", value_parser = parse_speed)]
        speed: ReplaySpeed,
        /// Begin again at the end.
        #[arg(long = "loop")]
        again: bool,
        /// Keep the times of the recording: it says the same each time, to the byte.
        #[arg(long, conflicts_with = "again")]
        recorded_times: bool,
    },
}

/// Reads the command line and does what it says.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("tidewire: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    // Two TLS backends at once would make rustls panic: this is the one.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        bail!("another TLS backend is installed already");
    }
    let config = Config::load(cli.config.config.as_ref())?;
    match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => start(config, Feed::Live),
        Command::Token { user, scope, ttl } => token(&config, user, scope, ttl),
        Command::CheckConfig => {
            for key in config.not_built() {
                complain(&format!(
                    "`{key}` is set, and its part of the server is not built yet"
                ));
            }
            say("the configuration is good");
            Ok(())
        }
        Command::Record { file } => record(&config, &file),
        Command::Replay {
            file,
            speed,
            again,
            recorded_times,
        } => {
            let open = move || match &file {
                Some(file) => Ok(Recording::open(file)?),
                None => Ok(Recording::sample()?),
            };
            let repeat = if again { Repeat::Forever } else { Repeat::Once };
            start(
                config,
                Feed::Replay {
                    open: Box::new(open),
                    speed,
                    start: if recorded_times {
                        ReplayStart::Recorded
                    } else {
                        ReplayStart::Now
                    },
                    repeat,
                },
            )
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn start(config: Config, feed: Feed) -> anyhow::Result<()> {
    telemetry::init_logs(config.log.format);
    runtime()?.block_on(serve::run(config, feed))
}

fn token(
    config: &Config,
    user: String,
    scope: Option<String>,
    ttl: Duration,
) -> anyhow::Result<()> {
    let clock = Arc::new(SystemClock);
    let now_ms = clock.now_ms();
    let ttl = i64::try_from(ttl.as_secs()).context("--ttl is too long")?;
    let claims = Claims {
        sub: user,
        exp: (now_ms / 1_000).saturating_add(ttl),
        jti: Some(format!("{:032x}", rand::random::<u128>())),
        scope,
        iat: Some(now_ms / 1_000),
        iss: config.auth.issuer.first().cloned(),
        aud: config.auth.audience.first().cloned().into_iter().collect(),
        ..Claims::default()
    };
    let (authenticator, _) = security::authenticator(config, clock)?;
    let token = authenticator.sign(&claims)?;
    authenticator
        .verify(&token)
        .context("such a token would be refused")?;
    say(&token);
    Ok(())
}

fn record(config: &Config, file: &Path) -> anyhow::Result<()> {
    telemetry::init_logs(config.log.format);
    runtime()?.block_on(async {
        let engine = PriceEngine::new(&config.prices, Arc::new(Nowhere), Arc::new(SystemClock))?;
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let signal = serve::StopSignal::new()?;
        tokio::spawn(async move {
            signal.received().await;
            stop.cancel();
        });
        tracing::info!(file = %file.display(), "recording; interrupt to end");
        let frames = engine.record(file, cancel).await?;
        tracing::info!(frames, "the recording has ended");
        Ok(())
    })
}

/// A recording needs no publications.
struct Nowhere;

impl tidewire_stream::Publisher for Nowhere {
    fn publish(&self, _channel: &tidewire_stream::ChannelName, _event: tidewire_stream::Event) {}
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err("expected a number and s, m, h or d, for example 1h".to_owned()),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| "expected a number before the unit".to_owned())?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(|| "it is too long".to_owned())
}

fn parse_speed(text: &str) -> Result<ReplaySpeed, String> {
    if text == "max" {
        return Ok(ReplaySpeed::Maximum);
    }
    match text.parse::<f64>() {
        Ok(times) if times.is_finite() && times > 0.0 => Ok(ReplaySpeed::Times(times)),
        _ => Err("expected a number above 0, or `max`".to_owned()),
    }
}

#[expect(
    clippy::print_stdout,
    reason = "what a command was asked for goes to stdout"
)]
fn say(text: &str) {
    println!("{text}");
}

#[expect(
    clippy::print_stderr,
    reason = "before logs are set up, and for commands, errors go to stderr"
)]
fn complain(text: &str) {
    eprintln!("{text}");
}
