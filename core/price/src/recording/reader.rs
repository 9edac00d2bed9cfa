//! Recording reader: opens a recording and iterates over its frames.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;

use super::{FORMAT, LINE_BYTES, RecordedFrame, RecordingError, RecordingHead, VERSION};
use crate::VenueKind;

/// The sample that is built into the program.
const SAMPLE: &[u8] = include_bytes!("../../sample/sample.rec.gz");

/// An open recording. Iterates over its frames in the order of their arrival.
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
    /// The file cannot be read, or is not a recording.
    pub fn open(path: &Path) -> Result<Self, RecordingError> {
        let name = path.display().to_string();
        let file = File::open(path).map_err(|error| RecordingError::Io {
            path: name.clone(),
            error,
        })?;
        Self::read(file, &name)
    }

    /// Opens the built-in sample of made-up frames.
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
        let mut first = Vec::new();
        (&mut lines)
            .take(LINE_BYTES)
            .read_until(b'\n', &mut first)
            .map_err(|error| format(error.to_string()))?;
        let head: RecordingHead = serde_json::from_slice(&first)
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

    /// The first line: the sources, and whether the frames are made up.
    #[must_use]
    pub fn head(&self) -> &RecordingHead {
        &self.head
    }

    fn line(&self, text: &[u8]) -> Option<RecordedFrame> {
        let mut parts = text.splitn(3, |byte| *byte == b' ');
        let time_us = number(parts.next()?)?;
        let source = usize::try_from(number(parts.next()?)?).ok()?;
        let frame = parts.next()?.to_vec();
        (source < self.head.sources.len()).then_some(RecordedFrame {
            time_us,
            source,
            frame,
        })
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Iterator for Recording {
    type Item = RecordedFrame;

    /// The next frame. Ends at the end of the file, or where it is truncated or broken.
    fn next(&mut self) -> Option<RecordedFrame> {
        let mut text = Vec::new();
        let read = (&mut self.lines)
            .take(LINE_BYTES)
            .read_until(b'\n', &mut text);
        if read.is_err() || text.pop() != Some(b'\n') {
            return None;
        }
        self.line(&text)
    }
}
