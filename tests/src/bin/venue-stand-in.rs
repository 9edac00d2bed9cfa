//! A venue's stand-in as a program: plays recorded frames to whoever subscribes.
//!
//! ```text
//! venue-stand-in --kind binance --listen 127.0.0.1:9001 --file frames.gz --speed max
//! ```

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};
use tidewire_tests::{
    VenueKind, VenueStandIn,
    venue::{Capture, Pace, Repeat, Script},
};

/// Plays recorded frames of a venue to whoever subscribes, and only what they
/// subscribed to. At the end of the file the connection stays.
#[derive(Debug, Parser)]
struct Arguments {
    /// The venue.
    #[arg(long)]
    kind: VenueKind,
    /// Where to listen.
    #[arg(long)]
    listen: SocketAddr,
    /// Lines of `NANOSECONDS FRAME` or `SECONDS: FRAME`, compressed with gzip or not.
    #[arg(long)]
    file: PathBuf,
    /// As recorded, or as fast as the peer reads.
    #[arg(long, value_enum, default_value = "1")]
    speed: Speed,
    /// Begin again at the end.
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
    let pace = match arguments.speed {
        Speed::Recorded => Pace::Recorded,
        Speed::Max => Pace::Maximum,
    };
    let repeat = if arguments.again {
        Repeat::Forever
    } else {
        Repeat::Once
    };
    let script = Script::new(Capture::open(&arguments.file)?, pace, repeat);
    let frames = script.len();
    let stand_in = VenueStandIn::listen(arguments.kind, arguments.listen, Some(script)).await?;
    #[expect(clippy::print_stdout, reason = "whoever starts it wants to know")]
    {
        println!("{frames} frames at {}", stand_in.url());
    }
    tokio::signal::ctrl_c().await?;
    Ok(())
}
