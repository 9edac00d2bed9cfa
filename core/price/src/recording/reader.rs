//! Recording reader: opens a recording and iterates over its frames.

use std::{
    fs::File,
    io::{BufRead, BufReader, ErrorKind, Read},
    path::Path,
};

use flate2::read::MultiGzDecoder;

use super::{FORMAT, LINE_BYTES, RecordedFrame, RecordingError, RecordingHead, VERSION};
use crate::VenueKind;

/// The sample that is built into the program.
const SAMPLE: &[u8] = include_bytes!("../../sample/sample.rec.gz");

/// Bad lines that are logged one by one; of more, the number is logged at the end.
const LOGGED_LINES: u64 = 10;

/// An open recording. Iterates over its frames in the order of their arrival. A line that cannot
/// be read is left out, and the log names it.
pub struct Recording {
    head: RecordingHead,
    name: String,
    lines: Box<dyn BufRead + Send>,
    /// Number of the line that was read last.
    line: u64,
    bad_lines: u64,
    is_quiet: bool,
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
            name: name.to_owned(),
            lines: Box::new(lines),
            line: 1,
            bad_lines: 0,
            is_quiet: false,
        })
    }

    /// The recording without warnings: for one that was played before.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.is_quiet = true;
        self
    }

    /// How many of the lines so far could not be read.
    #[must_use]
    pub fn bad_lines(&self) -> u64 {
        self.bad_lines
    }

    /// The first line: the sources, and whether the frames are made up.
    #[must_use]
    pub fn head(&self) -> &RecordingHead {
        &self.head
    }

    /// Reads the parts of a line.
    fn parse(&self, text: &[u8]) -> Result<RecordedFrame, String> {
        let mut parts = text.splitn(3, |byte| *byte == b' ');
        let mut part = |what: &str| parts.next().ok_or_else(|| format!("it has no {what}"));
        let (time, source) = (part("time")?, part("source")?);
        let frame = part("frame")?.to_vec();
        let time_us = number(time).ok_or("its time is no number of microseconds")?;
        let sources = self.head.sources.len();
        let source = number(source).and_then(|number| usize::try_from(number).ok());
        let source = source.filter(|source| *source < sources);
        let source = source.ok_or_else(|| format!("its source is none of the {sources}"))?;
        Ok(RecordedFrame {
            time_us,
            source,
            frame,
        })
    }

    /// Reads the next line, without its end. None at the end of the file, which may be within a
    /// line or a block of the compression: its writer was killed.
    fn next_line(&mut self) -> Option<Result<Vec<u8>, String>> {
        let mut text = Vec::new();
        let mut limited = (&mut self.lines).take(LINE_BYTES);
        match limited.read_until(b'\n', &mut text) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            Err(error) => {
                self.warn(&format!("the rest of it cannot be read: {error}"));
                return None;
            }
        }
        if text.pop_if(|last| *last == b'\n').is_some() {
            self.line += 1;
            return Some(Ok(text));
        }
        if limited.limit() > 0 || !self.skip_line() {
            return None;
        }
        self.line += 1;
        Some(Err(format!("it is longer than {LINE_BYTES} bytes")))
    }

    /// Skips the rest of a line. False if the file ends within it.
    fn skip_line(&mut self) -> bool {
        self.lines
            .skip_until(b'\n')
            .is_ok_and(|skipped| skipped > 0)
    }

    fn note_bad(&mut self, problem: &str) {
        self.bad_lines += 1;
        if self.bad_lines <= LOGGED_LINES {
            self.warn(problem);
        }
    }

    fn warn(&self, problem: &str) {
        if !self.is_quiet {
            let (recording, line) = (&self.name, self.line);
            tracing::warn!(
                recording,
                line,
                problem,
                "a line of a recording is left out"
            );
        }
    }
}

fn number(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl Iterator for Recording {
    type Item = RecordedFrame;

    /// The next frame. Ends at the end of the file, or where it is truncated.
    fn next(&mut self) -> Option<RecordedFrame> {
        loop {
            let Some(text) = self.next_line() else {
                let (bad_lines, recording) = (self.bad_lines, &self.name);
                if bad_lines > LOGGED_LINES && !self.is_quiet {
                    tracing::warn!(recording, bad_lines, "lines of a recording were left out");
                }
                return None;
            };
            match text.and_then(|text| self.parse(&text)) {
                Ok(frame) => return Some(frame),
                Err(problem) => self.note_bad(&problem),
            }
        }
    }
}
