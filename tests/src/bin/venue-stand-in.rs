//! Venue stand-in: a program that plays recorded frames to subscribers.
//!
//! ```text
//! venue-stand-in --kind binance --listen 127.0.0.1:9001 --file frames.gz --speed max
//! ```

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use tidewire_tests::{
    VenueKind, VenueStandIn,
    venue::{Capture, PlaybackSpeed, Repeat, Script},
};

/// Plays recorded frames of a venue to its subscribers, limited to their subscriptions. The
/// connection stays open after the last frame.
#[derive(Debug, Parser)]
struct Arguments {
    /// Venue to imitate.
    #[arg(long)]
    kind: VenueKind,
    /// Address to listen on.
    #[arg(long)]
    listen: SocketAddr,
    /// File with lines of `NANOSECONDS FRAME` or `SECONDS: FRAME`, optionally gzip-compressed.
    #[arg(long)]
    file: PathBuf,
    /// Playback speed: a factor of the recorded pace, or `max` for as fast as the peer reads.
    #[arg(long, value_enum, default_value = "1")]
    speed: Speed,
    /// Start over after the last frame.
    #[arg(long = "loop")]
    again: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Speed {
    #[value(name = "1")]
    Recorded,
    Max,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments = Arguments::parse();
    let speed = match arguments.speed {
        Speed::Recorded => PlaybackSpeed::Recorded,
        Speed::Max => PlaybackSpeed::Maximum,
    };
    let repeat = if arguments.again {
        Repeat::Forever
    } else {
        Repeat::Once
    };
    let script = Script::new(Capture::open(&arguments.file)?, speed, repeat);
    let frames = script.len();
    let stand_in = VenueStandIn::listen(arguments.kind, arguments.listen, Some(script)).await?;
    #[expect(clippy::print_stdout, reason = "prints the address for the caller")]
    {
        println!("{frames} frames at {}", stand_in.url());
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
