//! HTTP/2 subset: one gRPC stream per connection.

/// Http2Frame types.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const RESET: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GO_AWAY: u8 = 7;
    pub(crate) const WINDOW: u8 = 8;
}

/// Flags: end of stream, end of headers, acknowledgement.
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const ACK: u8 = 1;

/// Length of a frame head, in bytes.
const HEAD: usize = 9;
/// The largest receive window, and the initial one.
const WINDOW: u32 = 0x7fff_ffff;
const FIRST_WINDOW: u32 = 0xffff;
/// Bytes received before the window is opened again.
pub(crate) const REOPEN_AFTER: u32 = 1 << 26;

/// A complete frame at the start of a buffer.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Http2Frame<'a> {
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) payload: &'a [u8],
    pub(crate) end: usize,
}

/// Parses a frame, once all of it is there.
pub(crate) fn frame(bytes: &[u8]) -> Option<Http2Frame<'_>> {
    let head: &[u8; HEAD] = bytes.first_chunk()?;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    let end = HEAD + length;
    Some(Http2Frame {
        kind: head[3],
        flags: head[4],
        payload: bytes.get(HEAD..end)?,
        end,
    })
}

/// Appends a frame.
pub(crate) fn put(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    // No payload here is near the limit of 16 KiB.
    out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Opens the receive windows of the connection and of its stream by `by` bytes.
pub(crate) fn reopen(out: &mut Vec<u8>, by: u32) {
    for stream in [0, 1] {
        put(out, kind::WINDOW, 0, stream, &by.to_be_bytes());
    }
}

/// Opens a connection and calls `path` with one message.
pub(crate) fn call(path: &str, message: &[u8]) -> Vec<u8> {
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let mut settings = Vec::new();
    // No header table, no push, the widest window.
    for (key, value) in [(1u16, 0u32), (2, 0), (4, WINDOW)] {
        settings.extend_from_slice(&key.to_be_bytes());
        settings.extend_from_slice(&value.to_be_bytes());
    }
    put(&mut out, kind::SETTINGS, 0, 0, &settings);
    put(
        &mut out,
        kind::WINDOW,
        0,
        0,
        &(WINDOW - FIRST_WINDOW).to_be_bytes(),
    );
    put(&mut out, kind::HEADERS, END_HEADERS, 1, &headers(path));
    let mut data = vec![0];
    data.extend_from_slice(&(message.len() as u32).to_be_bytes());
    data.extend_from_slice(message);
    for (at, part) in data.chunks(FIRST_MAX_FRAME).enumerate() {
        let is_last = (at + 1) * FIRST_MAX_FRAME >= data.len();
        let flags = if is_last { END_STREAM } else { 0 };
        put(&mut out, kind::DATA, flags, 1, part);
    }
    out
}

/// Largest frame that a peer accepts by default.
const FIRST_MAX_FRAME: usize = 1 << 14;

/// Encodes the headers of a call as literals, which need no dynamic table.
fn headers(path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: http` are in the static table.
    let mut out = vec![0x83, 0x86];
    // The names `:path` and `:authority` are too.
    for (name, value) in [(4, path), (1, "localhost")] {
        out.push(name);
        text(&mut out, value);
    }
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

/// Encodes a string without Huffman coding. All of ours are shorter than 127 bytes.
fn text(out: &mut Vec<u8>, value: &str) {
    debug_assert!(value.len() < 127, "a longer string needs a longer length");
    out.push(value.len() as u8);
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_frames() {
        let out = call("/a.B/C", &[1; 40_000]);
        let mut rest = &out[24..];
        let mut kinds = Vec::new();
        let mut data = 0;
        while let Some(frame) = frame(rest) {
            kinds.push((frame.kind, frame.flags));
            if frame.kind == kind::DATA {
                data += frame.payload.len();
            }
            rest = &rest[frame.end..];
        }
        assert!(rest.is_empty());
        assert_eq!(data, 40_005);
        assert_eq!(kinds.last(), Some(&(kind::DATA, END_STREAM)));
        assert_eq!(kinds[2], (kind::HEADERS, END_HEADERS));
    }
}
