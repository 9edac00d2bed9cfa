//! The cursor: where each history channel of an SSE connection stands.
//!
//! Base64url of lines `EPOCH SEQ CHANNEL`. Clients treat it as opaque.

use std::collections::BTreeMap;

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use tidewire_stream::{ChannelName, Epoch, publication::Position};

/// The longest cursor that is read, in bytes: about what proxies let through.
const MAX_BYTES: usize = 64 << 10;

/// Where each history channel stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cursor(BTreeMap<ChannelName, Position>);

/// Why a text is no cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CursorError {
    /// Longer than any that this server makes.
    #[error("it is longer than {MAX_BYTES} bytes")]
    TooLong,
    /// Not base64url.
    #[error("it is not base64url")]
    NotBase64,
    /// Not lines of epoch, number and channel.
    #[error("it does not hold positions")]
    NotPositions,
}

impl Cursor {
    /// A cursor at these positions.
    #[must_use]
    pub fn new(positions: impl IntoIterator<Item = (ChannelName, Position)>) -> Self {
        Self(positions.into_iter().collect())
    }

    /// Reads a cursor.
    ///
    /// # Errors
    /// The text was not made by [`encode`](Self::encode).
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

    /// The cursor as it is sent.
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

    /// Where a channel stands.
    #[must_use]
    pub fn get(&self, channel: &str) -> Option<&Position> {
        self.0.get(channel)
    }

    /// All channels and where they stand.
    pub fn iter(&self) -> impl Iterator<Item = (&ChannelName, &Position)> {
        self.0.iter()
    }

    /// How many channels it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it holds none.
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
    fn what_is_no_cursor_is_refused() {
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
        fn a_cursor_survives_the_way(positions in prop::collection::vec(("[a-z]{1,9}", "[0-9a-f]{1,12}", any::<u64>()), 0..20)) {
            let cursor = Cursor::new(positions.into_iter().map(|(name, epoch, seq)| {
                let channel = ChannelName::parse(&format!("demo:{name}")).unwrap();
                (channel, Position { epoch: Epoch::new(&epoch), seq })
            }));
            prop_assert_eq!(Cursor::decode(&cursor.encode()), Ok(cursor));
        }
    }
}
