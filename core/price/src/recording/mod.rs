//! Recordings: files of venue frames with their arrival times, and their replay.
//!
//! A recording is a gzip file of lines. The first line is a JSON object with the format, its
//! version, the sources, and whether the frames are made up. Each further line is `TIME SOURCE
//! FRAME`: microseconds since the Unix epoch, the source's index, and the frame as it arrived. A
//! truncated file is readable up to its end.
//!
//! `reader` and `writer` handle the file, `replay` plays it into the aggregator, once or again and
//! again (`passes`). `sample` completes what the built-in sample's frames do not hold.

mod passes;
mod reader;
mod replay;
mod sample;
mod writer;

use std::io;

use serde::{Deserialize, Serialize};

pub use self::{
    reader::Recording,
    replay::{ReplaySpeed, ReplayStart},
    writer::RecordingWriter,
};
pub(crate) use self::{replay::Replay, sample::sample_supplies};

const FORMAT: &str = "tidewire-recording";

/// Version 1 had milliseconds.
const VERSION: u32 = 2;

/// The longest line, in bytes: a frame may be 1 MiB.
const LINE_BYTES: u64 = (1 << 20) + 64;

/// The first line of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordingHead {
    format: String,
    version: u32,
    /// The sources, in the order of their indexes.
    pub sources: Vec<RecordedSource>,
    /// Whether the frames are made up after the venues' documentation.
    #[serde(default)]
    pub sample: bool,
}

/// A source of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSource {
    /// Its name.
    pub name: String,
    /// The kind of its venue.
    pub kind: String,
}

/// A frame of a recording.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordedFrame {
    /// When it arrived, in microseconds since the Unix epoch.
    pub time_us: i64,
    /// The index of its source.
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
        /// The system's error.
        error: io::Error,
    },
    /// The file is not a recording.
    #[error("{path}: this is not a recording: {reason}")]
    Format {
        /// The file.
        path: String,
        /// The text that was found instead.
        reason: String,
    },
}
