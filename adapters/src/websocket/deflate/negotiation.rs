//! Extension negotiation: the client's offers in `Sec-WebSocket-Extensions`, and the
//! server's response (RFC 6455, section 9.1, and RFC 7692, sections 5 to 7).

use http::{HeaderMap, HeaderValue, header::SEC_WEBSOCKET_EXTENSIONS};

/// The name of the extension.
const NAME: &str = "permessage-deflate";

/// The negotiated compression.
///
/// Neither side uses context takeover. The server inflates with the largest window, so
/// that the client may use any.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Agreement {
    server_window: Option<WindowBits>,
}

impl Agreement {
    /// The value of `Sec-WebSocket-Extensions` in the response.
    #[must_use]
    pub fn response(self) -> HeaderValue {
        const BASE: &str =
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
        match self.server_window {
            None => HeaderValue::from_static(BASE),
            // Digits are always valid in a header value.
            Some(bits) => {
                HeaderValue::try_from(format!("{BASE}; server_max_window_bits={}", bits.0))
                    .unwrap_or_else(|_| HeaderValue::from_static(BASE))
            }
        }
    }

    /// Whether the client can inflate a shared frame whose payload has this length, in
    /// bytes. Otherwise it gets the plain frame.
    ///
    /// A client may request a window of 2^n bytes, to save memory. A message refers only to
    /// itself, so no reference is longer than the message. A message within the window can
    /// therefore be shared with this client.
    #[must_use]
    pub fn fits(self, payload_length: usize) -> bool {
        self.server_window
            .is_none_or(|bits| payload_length <= 1 << bits.0)
    }
}

/// The size of a window as a power of two, 8 to 15.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowBits(u8);

impl WindowBits {
    /// Parses a decimal number without leading zeroes (RFC 7692, section 7.1.2).
    fn parse(text: &str) -> Option<Self> {
        match text {
            "8" => Some(Self(8)),
            "9" => Some(Self(9)),
            "10" => Some(Self(10)),
            "11" => Some(Self(11)),
            "12" => Some(Self(12)),
            "13" => Some(Self(13)),
            "14" => Some(Self(14)),
            "15" => Some(Self(15)),
            _ => None,
        }
    }
}

/// The header does not have the form of RFC 6455. The handshake fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`Sec-WebSocket-Extensions` is malformed: {0}")]
pub struct MalformedExtensions(&'static str);

/// Accepts the first offer of permessage-deflate that the server supports. `None` if there
/// is none.
///
/// # Errors
/// The header is malformed.
pub fn negotiate(headers: &HeaderMap) -> Result<Option<Agreement>, MalformedExtensions> {
    let mut chosen = None;
    for value in headers.get_all(SEC_WEBSOCKET_EXTENSIONS) {
        let text = value
            .to_str()
            .map_err(|_| MalformedExtensions("it is not ASCII text"))?;
        let mut parser = Parser { rest: text };
        while let Some(extension) = parser.extension()? {
            // The rest is still parsed, because it may be malformed.
            chosen = chosen.or_else(|| accept(&extension));
        }
    }
    Ok(chosen)
}

/// Accepts an offer. An unknown, invalid or repeated parameter declines it (RFC 7692,
/// section 7).
fn accept(offer: &Extension<'_>) -> Option<Agreement> {
    if offer.name != NAME {
        return None;
    }
    let mut server_window = None;
    for (at, (name, value)) in offer.parameters.iter().enumerate() {
        if offer.parameters[..at]
            .iter()
            .any(|(other, _)| other == name)
        {
            return None;
        }
        match (*name, value.as_deref()) {
            ("server_no_context_takeover" | "client_no_context_takeover", None)
            | ("client_max_window_bits", None) => {}
            // The server can inflate any window of the client.
            ("client_max_window_bits", Some(bits)) => drop(WindowBits::parse(bits)?),
            ("server_max_window_bits", Some(bits)) => {
                server_window = Some(WindowBits::parse(bits)?)
            }
            _ => return None,
        }
    }
    Some(Agreement { server_window })
}

/// An offered extension.
#[derive(Debug, PartialEq, Eq)]
struct Extension<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, Option<String>)>,
}

/// Parses the list of a header, one extension at a time.
struct Parser<'a> {
    rest: &'a str,
}

impl<'a> Parser<'a> {
    /// The next extension, or `None` at the end. A list may have empty elements (RFC 9110,
    /// section 5.6.1).
    fn extension(&mut self) -> Result<Option<Extension<'a>>, MalformedExtensions> {
        loop {
            self.skip_space();
            if self.rest.is_empty() {
                return Ok(None);
            }
            if !self.skip(',') {
                break;
            }
        }
        let name = self.token()?;
        let mut parameters = Vec::new();
        loop {
            self.skip_space();
            if self.rest.is_empty() || self.skip(',') {
                return Ok(Some(Extension { name, parameters }));
            }
            if !self.skip(';') {
                return Err(MalformedExtensions("expected `;` or `,`"));
            }
            self.skip_space();
            let name = self.token()?;
            self.skip_space();
            let value = if self.skip('=') {
                self.skip_space();
                Some(self.value()?)
            } else {
                None
            };
            if parameters.len() == MAX_PARAMETERS {
                return Err(MalformedExtensions("an extension has too many parameters"));
            }
            parameters.push((name, value));
        }
    }

    fn value(&mut self) -> Result<String, MalformedExtensions> {
        if self.skip('"') {
            return self.quoted();
        }
        self.token().map(str::to_owned)
    }

    /// Parses a quoted value, which must be a token without its quotes.
    fn quoted(&mut self) -> Result<String, MalformedExtensions> {
        let mut value = String::new();
        let mut characters = self.rest.chars();
        loop {
            let character = match characters.next() {
                Some('"') => break,
                Some('\\') => characters.next(),
                other => other,
            };
            match character {
                Some(character) if is_token(character) => value.push(character),
                Some(_) => return Err(MalformedExtensions("a quoted value is not a token")),
                None => return Err(MalformedExtensions("a quoted value does not end")),
            }
        }
        if value.is_empty() {
            return Err(MalformedExtensions("a quoted value is empty"));
        }
        self.rest = characters.as_str();
        Ok(value)
    }

    fn token(&mut self) -> Result<&'a str, MalformedExtensions> {
        let end = self
            .rest
            .find(|character| !is_token(character))
            .unwrap_or(self.rest.len());
        if end == 0 {
            return Err(MalformedExtensions("expected a name or a value"));
        }
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(token)
    }

    fn skip(&mut self, character: char) -> bool {
        match self.rest.strip_prefix(character) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }
}

/// Parameters of one extension, at most. Real extensions have far fewer.
const MAX_PARAMETERS: usize = 16;

/// Whether a character may be part of a token (RFC 9110, section 5.6.2).
fn is_token(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}
