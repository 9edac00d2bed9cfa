//! Recording writer: appends frames to a file.

use std::{fs::File, io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};

use super::{FORMAT, RecordedFrame, RecordedSource, RecordingError, RecordingHead, VERSION};

/// A recording that is open for writing.
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
    /// Creates a recording of market data.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn create(path: &Path, sources: Vec<RecordedSource>) -> Result<Self, RecordingError> {
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
            sample: false,
        };
        let head = serde_json::to_vec(&head).map_err(|error| RecordingError::Format {
            path: writer.path.clone(),
            reason: error.to_string(),
        })?;
        writer.put(&[&head, b"\n"])?;
        Ok(writer)
    }

    /// Appends a frame.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, line: &RecordedFrame) -> Result<(), RecordingError> {
        let place = format!("{} {} ", line.time_us, line.source);
        if !line.frame.iter().any(is_line_break) {
            return self.put(&[place.as_bytes(), &line.frame, b"\n"]);
        }
        // A line break between JSON tokens means the same as a space.
        let frame = line.frame.iter();
        let frame: Vec<u8> = frame
            .map(|b| if is_line_break(b) { b' ' } else { *b })
            .collect();
        self.put(&[place.as_bytes(), &frame, b"\n"])
    }

    /// Makes everything so far readable, even if the process ends next.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn flush(&mut self) -> Result<(), RecordingError> {
        self.out.flush().map_err(|error| RecordingError::Io {
            path: self.path.clone(),
            error,
        })
    }

    /// Closes the recording.
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

    fn put(&mut self, parts: &[&[u8]]) -> Result<(), RecordingError> {
        let written = parts.iter().try_for_each(|part| self.out.write_all(part));
        written.map_err(|error| RecordingError::Io {
            path: self.path.clone(),
            error,
        })
    }
}

fn is_line_break(byte: &u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}
