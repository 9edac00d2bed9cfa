//! Captures: recorded frames in the formats of common venue recorders, and how they are played.
//!
//! hftbacktest writes `NANOSECONDS FRAME` a line. cryptofeed writes `SECONDS: FRAME`; its lines
//! about sent frames and connections are skipped. Files may be compressed with gzip.

use std::{
    fs::File,
    io::{self, BufRead, BufReader},
    path::Path,
    time::Duration,
};

use flate2::read::MultiGzDecoder;

/// The first bytes of a gzip file.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Frames and their arrival times.
#[derive(Debug, Clone, Default)]
pub struct Capture {
    /// Nanoseconds since the Unix epoch, and the frame.
    pub lines: Vec<(u64, String)>,
}

/// Why a capture cannot be opened.
#[derive(Debug)]
pub enum CaptureError {
    /// The file cannot be read.
    Io(io::Error),
    /// No line is a frame.
    Empty,
}

impl std::fmt::Display for CaptureError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "the file cannot be read: {error}"),
            Self::Empty => f.write_str("no line of the file is `TIME FRAME` or `TIME: FRAME`"),
        }
    }
}

impl std::error::Error for CaptureError {}

impl From<io::Error> for CaptureError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Capture {
    /// Reads a file, compressed or not.
    ///
    /// # Errors
    /// The file cannot be read, or holds no frame.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let mut file = BufReader::new(File::open(path)?);
        let is_compressed = file.fill_buf()?.starts_with(&GZIP);
        if is_compressed {
            return Self::read(BufReader::new(MultiGzDecoder::new(file)));
        }
        Self::read(file)
    }

    /// Reads lines.
    ///
    /// # Errors
    /// They cannot be read, or none is a frame.
    pub fn read(mut lines: impl BufRead) -> Result<Self, CaptureError> {
        let mut capture = Self::default();
        let mut line = String::new();
        while lines.read_line(&mut line)? > 0 {
            capture.lines.extend(parse(line.trim_end()));
            line.clear();
        }
        if capture.lines.is_empty() {
            return Err(CaptureError::Empty);
        }
        Ok(capture)
    }
}

/// Parses a line; `None` if it is not a frame.
fn parse(line: &str) -> Option<(u64, String)> {
    let (time, frame) = line.split_once(' ')?;
    if !frame.starts_with(['{', '[']) {
        return None;
    }
    let nanoseconds = match time.strip_suffix(':') {
        Some(seconds) => {
            // Whole seconds and their fraction apart, because a float would lose digits.
            let (whole, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
            let nanos: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
            let whole = whole.parse::<u64>().ok()?;
            whole.checked_mul(1_000_000_000)?.checked_add(nanos)?
        }
        None => time.parse().ok()?,
    };
    Some((nanoseconds, frame.to_owned()))
}

/// The speed of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlaybackSpeed {
    /// As recorded.
    Recorded,
    /// As fast as the peer reads.
    Maximum,
}

impl PlaybackSpeed {
    pub(super) fn offset(self, recorded: Duration) -> Duration {
        match self {
            Self::Recorded => recorded,
            Self::Maximum => Duration::ZERO,
        }
    }
}

/// The behaviour of a script at its end. A server counts a trade's number once, so a repeated
/// trade is a duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// The connection stays open without further frames.
    Once,
    /// It begins again.
    Forever,
}

/// The frames that a stand-in sends to each subscriber.
#[derive(Debug, Clone)]
pub struct Script {
    pub(super) lines: Vec<Line>,
    pub(super) speed: PlaybackSpeed,
    pub(super) repeat: Repeat,
}

#[derive(Debug, Clone)]
pub(super) struct Line {
    /// The time since the script's start.
    pub(super) offset: Duration,
    pub(super) frame: String,
}

impl Script {
    /// A script of recorded frames.
    #[must_use]
    pub fn new(capture: Capture, speed: PlaybackSpeed, repeat: Repeat) -> Self {
        let begin = capture.lines.first().map_or(0, |(time, _)| *time);
        let lines = capture.lines.into_iter().map(|(time, frame)| Line {
            offset: Duration::from_nanos(time.saturating_sub(begin)),
            frame,
        });
        Self {
            lines: lines.collect(),
            speed,
            repeat,
        }
    }

    /// The number of frames.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lines.len()
    }

    /// Whether it has no frames.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_formats_are_read_and_other_lines_skipped() {
        let text = concat!(
            "wss://x.example/ws <-> 1618677816.8434298\n",
            "wss://x.example/ws <- 1618677817.02: {\"type\":\"subscribe\"}\n",
            "1618677817.061845: {\"type\":\"match\"}\n",
            "1618677817: [1]\n",
            "1723161253937085768 {\"stream\":\"a\"}\n",
            "\n",
        );
        let capture = Capture::read(text.as_bytes()).unwrap();
        let expected = [
            (1_618_677_817_061_845_000, "{\"type\":\"match\"}"),
            (1_618_677_817_000_000_000, "[1]"),
            (1_723_161_253_937_085_768, "{\"stream\":\"a\"}"),
        ];
        let expected = expected.map(|(time, frame)| (time, frame.to_owned()));
        assert_eq!(capture.lines, expected);
        let nothing = Capture::read(&b"nothing\n"[..]);
        assert!(matches!(nothing, Err(CaptureError::Empty)));
    }
}
