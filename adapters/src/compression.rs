//! Compression options: level and threshold of permessage-deflate.

use std::fmt;

/// How messages are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionOptions {
    /// The trade-off between speed and size.
    pub level: CompressionLevel,
    /// Payloads shorter than this, in bytes, are not compressed, because the gain is small.
    pub threshold: usize,
}

impl Default for CompressionOptions {
    fn default() -> Self {
        Self {
            level: CompressionLevel(1),
            threshold: 256,
        }
    }
}

/// A compression level: 1 is the fastest, 9 the smallest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompressionLevel(u8);

impl CompressionLevel {
    /// Checks a level.
    ///
    /// # Errors
    /// The level is not within 1 to 9.
    pub fn new(level: u8) -> Result<Self, InvalidCompressionLevel> {
        match level {
            1..=9 => Ok(Self(level)),
            _ => Err(InvalidCompressionLevel(level)),
        }
    }

    pub(crate) fn get(self) -> u32 {
        self.0.into()
    }
}

impl fmt::Display for CompressionLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The compression level is out of range.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the compression level is {0}, expected 1 to 9")]
pub struct InvalidCompressionLevel(u8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_checked() {
        assert!(CompressionLevel::new(0).is_err());
        assert_eq!(
            CompressionLevel::new(10).unwrap_err().to_string(),
            "the compression level is 10, expected 1 to 9"
        );
        assert_eq!(CompressionLevel::new(9).unwrap().to_string(), "9");
    }
}
