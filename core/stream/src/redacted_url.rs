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
