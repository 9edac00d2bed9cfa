//! Recordings: venue frames with the time of their arrival.
//!
//! A recording is a gzip file of lines. The first is a JSON object that names the
//! format, its version and the sources, and says whether the frames are made up.
//! Each further one is `TIME SOURCE FRAME`: microseconds since the Unix epoch, the
//! source's place in the list, and the frame as it came. A file that was cut off
//! reads up to the cut.
//!
//! `reader` and `writer` are the file; how a recording is played stands in `replay`.

mod reader;
mod writer;

use std::io;

use serde::{Deserialize, Serialize};

pub use self::{reader::Recording, writer::RecordingWriter};

const FORMAT: &str = "tidewire-recording";

/// Version 1 counted milliseconds.
const VERSION: u32 = 2;

/// The longest line, in bytes: a frame may be 1 MiB.
const LINE_BYTES: u64 = (1 << 20) + 64;

/// What a recording holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingHead {
    format: String,
    version: u32,
    /// The sources, in the order of their numbers.
    pub sources: Vec<RecordedSource>,
    /// The frames are made up after the venues' documentation.
    #[serde(default)]
    pub sample: bool,
}

/// A source of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSource {
    /// Its name.
    pub name: String,
    /// The venue's kind.
    pub kind: String,
}

/// A frame of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// When it arrived, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// The number of its source.
    pub source: usize,
    /// The frame.
    pub frame: Vec<u8>,
}

/// Why a recording cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum RecordingError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    Io {
        /// The file.
        path: String,
        /// What the system says.
        error: io::Error,
    },
    /// The file is something else.
    #[error("{path}: this is not a recording: {reason}")]
    Format {
        /// The file.
        path: String,
        /// What was found.
        reason: String,
    },
}
