//! SSE cursor: the position of each history channel of a connection.
//!
//! Base64url of lines `EPOCH SEQ CHANNEL`. Clients treat it as opaque.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tidewire_stream::{ChannelName, Epoch, publication::Position};

/// The longest accepted cursor, in bytes. Proxies rarely pass longer headers.
pub(crate) const MAX_BYTES: usize = 64 << 10;

/// The positions of the history channels.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor(BTreeMap<ChannelName, Position>);

/// The reason why a text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// The text is longer than the limit.
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// The text is not base64url.
    #[error("it is not base64url")]
    NotBase64,
    /// The text does not decode to lines of epoch, seq and channel.
    #[error("it does not hold positions")]
    NotPositions,
}

impl Cursor {
    /// A cursor with these positions.
    #[must_use]
    pub fn new(positions: impl IntoIterator<Item = (ChannelName, Position)>) -> Self {
        Self(positions.into_iter().collect())
    }

    /// Decodes a cursor.
    ///
    /// # Errors
    /// The text is not the result of [`encode`](Self::encode).
    pub fn decode(text: &str) -> Result<Self, CursorError> {
        if text.len() > MAX_BYTES {
            return Err(CursorError::TooLong);
        }
        let bytes = URL_SAFE_NO_PAD
            .decode(text)
            .map_err(|_| CursorError::NotBase64)?;
        let lines = std::str::from_utf8(&bytes).map_err(|_| CursorError::NotPositions)?;
        lines
            .lines()
            .map(|line| position(line).ok_or(CursorError::NotPositions))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Encodes the cursor for the wire.
    #[must_use]
    pub fn encode(&self) -> String {
        let lines: Vec<_> = self
            .0
            .iter()
            .map(|(channel, position)| {
                format!("{} {} {channel}", position.epoch.as_str(), position.seq)
            })
            .collect();
        URL_SAFE_NO_PAD.encode(lines.join("\n"))
    }

    /// The position of a channel.
    #[must_use]
    pub fn get(&self, channel: &str) -> Option<&Position> {
        self.0.get(channel)
    }

    /// All channels with their positions.
    pub fn iter(&self) -> impl Iterator<Item = (&ChannelName, &Position)> {
        self.0.iter()
    }

    /// The number of channels.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether the cursor has no channels.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn position(line: &str) -> Option<(ChannelName, Position)> {
    let mut parts = line.splitn(3, ' ');
    let epoch = parts
        .next()
        .filter(|epoch| !epoch.is_empty() && epoch.len() <= 64)?;
    let seq = parts.next()?.parse().ok()?;
    let channel = ChannelName::parse(parts.next()?).ok()?;
    Some((
        channel,
        Position {
            epoch: Epoch::new(epoch),
            seq,
        },
    ))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn malformed_cursors_are_refused() {
        assert_eq!(Cursor::decode("%"), Err(CursorError::NotBase64));
        assert_eq!(Cursor::decode("aGVsbG8"), Err(CursorError::NotPositions));
        assert_eq!(
            Cursor::decode(&"A".repeat(70_000)),
            Err(CursorError::TooLong)
        );
        assert_eq!(Cursor::decode(""), Ok(Cursor::default()));
    }

    proptest! {
        #[test]
        fn a_cursor_decodes_to_what_was_encoded(positions in prop::collection::vec(("[a-z]{1,9}", "[0-9a-f]{1,12}", any::<u64>()), 0..20)) {
            let cursor = Cursor::new(positions.into_iter().map(|(name, epoch, seq)| {
                let channel = ChannelName::parse(&format!("demo:{name}")).unwrap();
                (channel, Position { epoch: Epoch::new(&epoch), seq })
            }));
            prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        }
    }
}
