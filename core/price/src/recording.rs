//! Recordings: venue frames with the time of their arrival, and their replay.
//!
//! A recording is a gzip file of lines. The first is a JSON object that names the
//! sources; each further one is `TIME SOURCE FRAME`: milliseconds since the Unix
//! epoch, the source's place in the list, and the frame as it came. A file that was
//! cut off reads up to the cut.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Write},
    path::Path,
};

use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use serde::{Deserialize, Serialize};

use crate::VenueKind;

/// The sample that is built in.
const SAMPLE: &[u8] = include_bytes!("../sample/sample.rec.gz");

const FORMAT: &str = "tidewire-recording";
const VERSION: u32 = 1;

/// The longest line, in bytes.
const MAX_LINE: u64 = 8 << 20;

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
    /// When it arrived, in milliseconds since the Unix epoch.
    pub time_ms: i64,
    /// The number of its source.
    pub source: usize,
    /// The frame.
    pub frame: String,
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

/// A recording being read.
pub struct Recording {
    head: RecordingHead,
    lines: Box<dyn BufRead + Send>,
}

impl std::fmt::Debug for Recording {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recording")
            .field("head", &self.head)
            .finish_non_exhaustive()
    }
}

impl Recording {
    /// Opens a recording.
    ///
    /// # Errors
    /// The file cannot be read, or is something else.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| RecordingError::Io {
            path: name.clone(),
            error,
        })?;
        Self::read(file, &name)
    }

    /// Opens the sample that is built in: made up, not the market.
    ///
    /// # Errors
    /// The sample is broken, which a test rules out.
    pub fn sample() -> Result<Self, RecordingError> {
        Self::read(SAMPLE, "the built-in sample")
    }

    fn read(source: impl Read + Send + 'static, name: &str) -> Result<Self, RecordingError> {
        let format = |reason: String| RecordingError::Format {
            path: name.to_owned(),
            reason,
        };
        let mut lines = BufReader::with_capacity(1 << 16, MultiGzDecoder::new(source));
        let mut first = String::new();
        (&mut lines)
            .take(MAX_LINE)
            .read_line(&mut first)
            .map_err(|error| format(error.to_string()))?;
        let head: RecordingHead = serde_json::from_str(&first)
            .map_err(|error| format(format!("its first line: {error}")))?;
        if head.format != FORMAT || head.version != VERSION {
            return Err(format(format!(
                "it is {} {}, expected {FORMAT} {VERSION}",
                head.format, head.version
            )));
        }
        for source in &head.sources {
            if VenueKind::from_name(&source.kind).is_none() {
                return Err(format(format!("there is no venue {:?}", source.kind)));
            }
        }
        Ok(Self {
            head,
            lines: Box::new(lines),
        })
    }

    /// What it holds.
    #[must_use]
    pub fn head(&self) -> &RecordingHead {
        &self.head
    }
}

impl Iterator for Recording {
    type Item = Line;

    /// The next frame. Ends at the end, or where the file was cut off.
    fn next(&mut self) -> Option<Line> {
        loop {
            let mut text = String::new();
            let length = (&mut self.lines).take(MAX_LINE).read_line(&mut text).ok()?;
            if length == 0 || !text.ends_with('\n') {
                return None;
            }
            let mut parts = text.trim_end_matches('\n').splitn(3, ' ');
            let line = (|| {
                let time_ms = parts.next()?.parse().ok()?;
                let source = parts
                    .next()?
                    .parse()
                    .ok()
                    .filter(|source| *source < self.head.sources.len())?;
                Some(Line {
                    time_ms,
                    source,
                    frame: parts.next()?.to_owned(),
                })
            })();
            if line.is_some() {
                return line;
            }
        }
    }
}

/// A recording being written.
pub struct RecordingWriter {
    out: GzEncoder<File>,
    path: String,
}

impl std::fmt::Debug for RecordingWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RecordingWriter")
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

impl RecordingWriter {
    /// Begins a recording.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(
        path: &Path,
        sources: Vec<RecordedSource>,
        sample: bool,
    ) -> Result<Self, RecordingError> {
        let name = path.display().to_string();
        let file = File::create(path).map_err(|error| RecordingError::Io {
            path: name.clone(),
            error,
        })?;
        let mut writer = Self {
            out: GzEncoder::new(file, Compression::default()),
            path: name,
        };
        let head = RecordingHead {
            format: FORMAT.to_owned(),
            version: VERSION,
            sources,
            sample,
        };
        let head = serde_json::to_string(&head).unwrap_or_default();
        writer.put(&format!("{head}\n"))?;
        Ok(writer)
    }

    /// Adds a frame.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, line: &Line) -> Result<(), RecordingError> {
        // A line break between JSON's tokens means as much as a space.
        let frame = line.frame.replace(['\n', '\r'], " ");
        self.put(&format!("{} {} {frame}\n", line.time_ms, line.source))
    }

    /// Has everything so far readable, whatever happens next.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        self.out.flush().map_err(|error| RecordingError::Io {
            path: self.path.clone(),
            error,
        })
    }

    /// Ends the recording.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<(), RecordingError> {
        let path = self.path;
        self.out
            .finish()
            .map(drop)
            .map_err(|error| RecordingError::Io { path, error })
    }

    fn put(&mut self, text: &str) -> Result<(), RecordingError> {
        self.out
            .write_all(text.as_bytes())
            .map_err(|error| RecordingError::Io {
                path: self.path.clone(),
                error,
            })
    }
}
