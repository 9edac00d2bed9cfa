//! Command line: parses arguments and runs one command.

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
    config::{Config, Overrides, Reading, check_log_filter, unknown_variables},
    feed::{Feed, Repeat, Replay},
    secret, security, serve, store_move, telemetry,
};

/// The usual name of a configuration file. The server reads none without `--config`.
const CONFIG_FILE: &str = "tidewire.toml";

/// The longest life of a token, so that its expiry is a date: 100 years of 366 days.
const LONGEST_TTL: Duration = Duration::from_secs(100 * 366 * 24 * 60 * 60);

/// A server for real-time data: live prices, chains and messages over
/// WebSocket, SSE and gRPC.
#[derive(Debug, Parser)]
#[command(name = "tidewire", version)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    config: ConfigArgs,
    #[command(flatten)]
    address: AddressArgs,
}

#[derive(Debug, Clone, Args)]
struct ConfigArgs {
    /// The configuration file. Without one, every key has its default.
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Treat the server as one that nobody configured: for tests of sample data.
    #[arg(long, global = true, hide = true)]
    unconfigured: bool,
}

/// The address of a server: options of the commands that run or check one.
#[derive(Debug, Clone, Default, Args)]
struct AddressArgs {
    /// The address to listen on, for example 127.0.0.1:9000 or localhost:9000.
    #[arg(long, value_name = "ADDRESS")]
    listen: Option<String>,
    /// The port to listen on, at the configured address. 0 takes a free one.
    #[arg(long, value_name = "PORT", conflicts_with = "listen", value_parser = parse_port)]
    port: Option<u16>,
}

impl AddressArgs {
    /// The settings of the command line: these, or else those before the command.
    fn overrides(&self, before: Self) -> Overrides {
        let chosen = match (&self.listen, self.port) {
            (None, None) => before,
            _ => self.clone(),
        };
        Overrides {
            listen: chosen.listen,
            port: chosen.port,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server. The default command.
    Serve {
        #[command(flatten)]
        address: AddressArgs,
    },
    /// Print a token for development.
    Token {
        /// The user of the token.
        #[arg(long, value_parser = parse_user)]
        user: String,
        /// The scopes of the token: `service`, `admin`, or both with a space between.
        #[arg(long, value_parser = parse_scope)]
        scope: Option<String>,
        /// The time until the token expires, for example 30m, 1h or 7d. At most 100 years.
        #[arg(long, default_value = "1h", value_parser = parse_ttl)]
        ttl: Duration,
    },
    /// Check the configuration and print all of its faults.
    CheckConfig {
        #[command(flatten)]
        address: AddressArgs,
        /// A file without `--config` before it, which is refused with a hint.
        #[arg(hide = true)]
        file: Option<PathBuf>,
    },
    /// Move notifications, alert rules and contacts from the folder of a server (`store.path`) into
    /// the store that nodes share in Redis. All nodes have to be stopped.
    MoveStore,
    /// Record the venues' messages in a compressed file, until interrupted.
    Record {
        /// The file.
        file: PathBuf,
        /// Overwrite the file if it exists.
        #[arg(long)]
        force: bool,
    },
    /// Run the server on a recording instead of the venues.
    Replay {
        /// The recording. Without one, the built-in sample.
        file: Option<PathBuf>,
        /// Speed as a multiple of the recorded one, or `max`.
        #[arg(long, default_value = "1", value_parser = parse_speed)]
        speed: ReplaySpeed,
        /// Play the recording again and again.
        #[arg(long = "loop")]
        again: bool,
        /// Publish the recorded times: each replay publishes the same bytes.
        #[arg(long, conflicts_with = "again")]
        recorded_times: bool,
        #[command(flatten)]
        address: AddressArgs,
    },
}

/// The treatment of a recording's file that exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Existing {
    Keep,
    Overwrite,
}

impl Command {
    /// The address options of the command, if it runs or checks a server.
    fn address(&self) -> Option<&AddressArgs> {
        match self {
            Self::Serve { address }
            | Self::CheckConfig { address, .. }
            | Self::Replay { address, .. } => Some(address),
            Self::Token { .. } | Self::MoveStore | Self::Record { .. } => None,
        }
    }
}

/// Runs the command that the command line names.
pub(crate) fn run() -> ExitCode {
    let cli = Cli::parse();
    match execute(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = format!("{error:#}");
            // Several faults have a line each.
            let lines: Vec<_> = text
                .lines()
                .map(|line| format!("tidewire: {line}"))
                .collect();
            print_error(&lines.join("\n"));
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: Cli) -> anyhow::Result<()> {
    // rustls panics at the first connection if two TLS backends are linked and none is chosen.
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        bail!("another TLS backend is installed already, expected none");
    }
    let ConfigArgs {
        config,
        unconfigured,
    } = cli.config;
    let command = cli.command.unwrap_or(Command::Serve {
        address: AddressArgs::default(),
    });
    if let Command::CheckConfig {
        file: Some(file), ..
    } = &command
    {
        bail!(
            "unexpected argument {file:?}, expected `tidewire check-config --config {}`",
            file.display()
        );
    }
    let address = command.address().cloned().unwrap_or_default();
    let unread_file = unread_file(config.as_deref());
    let mut reading = Reading::of(config.as_deref(), &address.overrides(cli.address));
    if let Some(config) = reading.config.as_mut().filter(|_| unconfigured) {
        config.is_configured = false;
    }
    match command {
        Command::Serve { .. } => start(whole(reading, Checks::Start)?, unread_file, Feed::Live),
        Command::Token { user, scope, ttl } => {
            if let Some(hint) = &unread_file {
                print_hint(hint);
            }
            token(&reading.into_config()?, user, scope, ttl)
        }
        Command::CheckConfig { .. } => {
            if let Some(hint) = &unread_file {
                print_hint(hint);
            }
            let hints = reading.config.as_ref().map(Config::contradictions);
            let hints = hints.into_iter().flatten();
            let hints: Vec<_> = hints.map(|hint| reading.with_place(&hint)).collect();
            whole(reading, Checks::All)?;
            hints.iter().for_each(|hint| print_error(hint));
            print("the configuration is good");
            Ok(())
        }
        Command::MoveStore => {
            if let Some(hint) = &unread_file {
                print_hint(hint);
            }
            let config = whole(reading, Checks::Start)?;
            telemetry::init_logs(config.log.format);
            let moved = runtime()?.block_on(store_move::run(&config))?;
            print(&moved);
            Ok(())
        }
        Command::Record { file, force } => {
            let existing = if force {
                Existing::Overwrite
            } else {
                Existing::Keep
            };
            record(&reading.into_config()?, &file, existing)
        }
        Command::Replay {
            file,
            speed,
            again,
            recorded_times,
            address: _,
        } => {
            let open = move || match &file {
                Some(file) if !file.exists() => {
                    bail!("there is no recording {}", file.display())
                }
                Some(file) => Ok(Recording::open(file)?),
                None => Ok(Recording::sample()?),
            };
            let repeat = if again { Repeat::Forever } else { Repeat::Once };
            let start_time = match recorded_times {
                true => ReplayStart::Recorded,
                false => ReplayStart::Now,
            };
            let replay = Replay {
                open: Box::new(open),
                speed,
                start: start_time,
                repeat,
            };
            let config = whole(reading, Checks::Start)?;
            start(config, unread_file, Feed::Replay(replay))
        }
    }
}

/// Faults that a command looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checks {
    /// All that a server refuses.
    Start,
    /// Also environment variables that set nothing.
    All,
}

/// The configuration, with the parts that it names checked too.
///
/// # Errors
/// All that is wrong, one a line.
fn whole(mut reading: Reading, checks: Checks) -> anyhow::Result<Config> {
    let of_parts = reading.config.as_ref().map(serve::problems);
    for problem in of_parts.into_iter().flatten() {
        reading.add(&problem);
    }
    if let Ok(filter) = std::env::var(telemetry::LOG_VARIABLE)
        && let Err(problem) = check_log_filter(&filter)
    {
        reading.add(&problem);
    }
    for problem in variables_without_effect() {
        match checks {
            Checks::All => reading.add(&problem),
            // A variable of somebody else's must not keep a server from starting.
            Checks::Start => print_hint(&problem),
        }
    }
    reading.into_config()
}

/// A hint about a configuration file that is in the folder of the command and is not read.
fn unread_file(config: Option<&Path>) -> Option<String> {
    (config.is_none() && Path::new(CONFIG_FILE).is_file()).then(|| {
        format!(
            "{CONFIG_FILE} in this folder is not read: expected `--config {CONFIG_FILE}` after the command"
        )
    })
}

/// The faults of environment variables that set nothing.
fn variables_without_effect() -> Vec<String> {
    let variables: Vec<_> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    let pairs = variables.iter();
    unknown_variables(pairs.map(|(name, value)| (name.as_str(), value.as_str())))
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

fn start(config: Config, unread_file: Option<String>, feed: Feed) -> anyhow::Result<()> {
    telemetry::init_logs(config.log.format);
    if let Some(hint) = unread_file {
        tracing::warn!("{hint}");
    }
    let runtime = runtime()?;
    let served = runtime.block_on(serve::run(config, feed));
    // What is stuck by now must not keep the process.
    runtime.shutdown_background();
    served
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
    let is_own = config.auth.hmac_secret.is_none() && !config.auth.has_public_keys();
    if is_own && secret::own_secret(&config.store.path)?.is_new {
        let folder = &config.store.path;
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.clone());
        print_error(&format!(
            "tidewire: made a new secret in {}. A server that runs in another folder, or with another store.path, has another secret and refuses this token",
            folder.display()
        ));
    }
    let (authenticator, _) = security::authenticator(config, clock)?;
    let token = authenticator.sign(&claims)?;
    authenticator
        .verify(&token)
        .context("such a token would be refused")?;
    print(&token);
    Ok(())
}

fn record(config: &Config, file: &Path, existing: Existing) -> anyhow::Result<()> {
    if existing == Existing::Keep && file.exists() {
        bail!(
            "{} exists already, expected a new file, or --force to overwrite it",
            file.display()
        );
    }
    let folder = file
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty());
    if let Some(folder) = folder.filter(|folder| !folder.is_dir()) {
        bail!(
            "{} cannot be written: there is no folder {}",
            file.display(),
            folder.display()
        );
    }
    telemetry::init_logs(config.log.format);
    runtime()?.block_on(async {
        let engine = PriceEngine::new(
            &config.prices,
            Arc::new(NullPublisher),
            Arc::new(SystemClock),
        )?;
        let cancel = CancellationToken::new();
        let stop = cancel.clone();
        let mut signal = serve::StopSignal::new()?;
        tokio::spawn(async move {
            signal.received().await;
            stop.cancel();
        });
        let recording = engine.recording(file)?;
        tracing::info!(file = %file.display(), "recording; interrupt to end");
        let frames = engine.record(recording, cancel).await?;
        tracing::info!(frames, "the recording has ended");
        if frames == 0 {
            tracing::warn!(
                file = %file.display(),
                "the recording is empty: no venue sent anything"
            );
        }
        Ok(())
    })
}

/// Discards publications: a recording needs none.
pub(crate) struct NullPublisher;

impl tidewire_stream::Publisher for NullPublisher {
    fn publish(&self, _channel: &tidewire_stream::ChannelName, _event: tidewire_stream::Event) {}
}

/// The scopes of a token. The server ignores scopes that it does not know, and a token with one
/// would not do what its user expects.
fn parse_scope(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected `service`, `admin`, or both with a space between";
    let words: Vec<_> = text.split_whitespace().collect();
    let mut unknown = words
        .iter()
        .filter(|word| !["service", "admin"].contains(word));
    if let Some(unknown) = unknown.next() {
        return Err(format!("{unknown:?} is no scope, {EXPECTED}"));
    }
    if words.is_empty() {
        return Err(EXPECTED.to_owned());
    }
    Ok(words.join(" "))
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| "expected a whole number from 0 to 65535".to_owned())
}

fn parse_user(text: &str) -> Result<String, String> {
    match text.is_empty() {
        true => Err("expected the id of a user, which is not empty".to_owned()),
        false => Ok(text.to_owned()),
    }
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    let ttl = humantime::parse_duration(text)
        .map_err(|error| format!("{error}, expected a duration such as 30m, 1h or 7d"))?;
    match ttl > LONGEST_TTL {
        true => Err("expected 100 years at most".to_owned()),
        false => Ok(ttl),
    }
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
    reason = "the result of a command goes to stdout"
)]
fn print(text: &str) {
    println!("{text}");
}

/// Prints something that does not keep a command from its work.
fn print_hint(text: &str) {
    print_error(&format!("tidewire: {text}"));
}

#[expect(
    clippy::print_stderr,
    reason = "errors go to stderr, before logs are set up and for commands"
)]
fn print_error(text: &str) {
    eprintln!("{text}");
}
