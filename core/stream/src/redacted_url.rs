//! Redacted URL: a URL without the parts that may hold a key.
//!
//! The path and the query of a venue or a provider often hold an API key, and the user part holds
//! a password. Logs, errors and RPCs show the scheme and the host alone.

/// The scheme, the host and the port of a URL.
///
/// ```
/// # use tidewire_stream::redacted_url;
/// assert_eq!(redacted_url("wss://user:key@venue.example:9443/v3/key?k=key"), "wss://venue.example:9443");
/// assert_eq!(redacted_url("key"), "an invalid URL");
/// ```
#[must_use]
pub fn redacted_url(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return "an invalid URL".to_owned();
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let authority = &rest[..end];
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    format!("{scheme}://{host}")
}

/// Longest text that an error quotes, in bytes.
const MOST_QUOTED: usize = 64;

/// Longest word that is quoted from a text without a scheme and without a dot or a port: a longer
/// one may be a key.
const MOST_OF_WORD: usize = 12;

/// The part of a faulty URL that an error may quote: the scheme and the host, or of a text without a
/// scheme what stands for the host.
///
/// ```
/// # use tidewire_stream::quotable_url;
/// assert_eq!(quotable_url("ftp://user:key@node.example/key"), "ftp://node.example");
/// assert_eq!(quotable_url("user:key@node.example/v3/key"), "node.example");
/// assert_eq!(quotable_url("0123456789abcdef"), "0123…");
/// ```
#[must_use]
pub fn quotable_url(text: &str) -> String {
    if text.contains("://") {
        return shortened(&redacted_url(text), MOST_QUOTED);
    }
    let end = text.find(['/', '?', '#']).unwrap_or(text.len());
    let authority = &text[..end];
    let host = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    match host.contains(['.', ':']) || host.len() <= MOST_OF_WORD {
        true => shortened(host, MOST_QUOTED),
        false => shortened(host, 4),
    }
}

/// The beginning of a text, with a mark if that is not all.
fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}
