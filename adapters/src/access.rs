//! Where a token can come from, and who its bearer is.

use http::{HeaderMap, header};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{Identity, Stream, StreamError};

/// A subprotocol that carries a token, for browsers, which cannot set headers.
pub(crate) const BEARER_SUBPROTOCOL: &str = "tidewire.bearer.";

/// Who sends a request: by `Authorization`, by subprotocol, or by the token of a
/// query where the transport allows one.
pub(crate) fn identify(
    stream: &Stream,
    headers: &HeaderMap,
    query_token: Option<&str>,
) -> Result<Identity, StreamError> {
    match bearer(headers)?.or(query_token) {
        Some(token) => stream.authenticator().verify(token),
        None => Ok(stream.authenticator().without_token()),
    }
}

/// The offered subprotocols.
pub(crate) fn subprotocols(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    values
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
}

fn bearer(headers: &HeaderMap) -> Result<Option<&str>, StreamError> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(subprotocols(headers).find_map(|offer| offer.strip_prefix(BEARER_SUBPROTOCOL)));
    };
    let token = value.to_str().ok().and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
    });
    token.map(Some).ok_or_else(|| {
        StreamError::new(
            ErrorCode::Unauthenticated,
            "`Authorization` is not understood, expected `Bearer TOKEN`",
        )
    })
}
