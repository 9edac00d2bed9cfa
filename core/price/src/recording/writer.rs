//! Writing a recording.

use std::{fs::File, io::Write as _, path::Path};

use flate2::{Compression, write::GzEncoder};

use super::{FORMAT, Line, RecordedSource, RecordingError, RecordingHead, VERSION};

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
    /// Begins a recording of what the market says.
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

    /// Adds a frame.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&mut self, line: &Line) -> Result<(), RecordingError> {
        let place = format!("{} {} ", line.time_us, line.source);
        if !line.frame.iter().any(is_line_break) {
            return self.put(&[place.as_bytes(), &line.frame, b"\n"]);
        }
        // A line break between JSON's tokens means as much as a space.
        let frame = line.frame.iter();
        let frame: Vec<u8> = frame
            .map(|b| if is_line_break(b) { b' ' } else { *b })
            .collect();
        self.put(&[place.as_bytes(), &frame, b"\n"])
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
