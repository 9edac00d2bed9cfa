//! Redacted URL: a URL without the parts that may hold a key.
//!
//! The path and the query of a venue or a provider often hold an API key, and the user part holds
//! a password. Logs, errors and RPCs show the scheme and the host alone.
//!
//! Servers quote the requested URL in their error pages and messages. [`redact_url`] removes those
//! parts from such a text, before it is logged or shown.

/// The placeholder of a removed part.
const REDACTED: &str = "[redacted]";

/// The shortest segment or value that is removed, in bytes. A shorter one, such as `v3`, is no key,
/// and is part of many words.
const MIN_PART_BYTES: usize = 5;

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
/// scheme what stands for the host. With an `@` behind the host, the host may be the beginning of a
/// password that has a `/`, a `?` or a `#` in it, and is not quoted.
///
/// ```
/// # use tidewire_stream::quotable_url;
/// assert_eq!(quotable_url("ftp://user:key@node.example/key"), "ftp://node.example");
/// assert_eq!(quotable_url("user:key@node.example/v3/key"), "node.example");
/// assert_eq!(quotable_url("0123456789abcdef"), "0123…");
/// assert_eq!(quotable_url("https://user:pass/word@node.example/v3"), "https://…");
/// ```
#[must_use]
pub fn quotable_url(text: &str) -> String {
    let is_scheme = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte))
    };
    let scheme = text
        .split_once("://")
        .filter(|(scheme, _)| is_scheme(scheme));
    let rest = scheme.map_or(text, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let may_be_password = target.contains('@');
    match scheme {
        Some((scheme, _)) if may_be_password => {
            return format!("{}://…", shortened(scheme, MOST_QUOTED));
        }
        Some(_) => return shortened(&redacted_url(text), MOST_QUOTED),
        None if may_be_password => return "…".to_owned(),
        None => {}
    }
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

/// A text of the server behind a URL, without the path and the query of that URL, their segments,
/// and the user part. Upper and lower case count as equal, and so do percent-encoded characters.
/// Redact a text before it is cut to a length: a cut could leave a part of a key.
///
/// ```
/// # use tidewire_stream::redact_url;
/// let url = "https://node.example/v3/abc%2Bkey?token=secret";
/// let text = "no route to /v3/abc%2Bkey?token=secret: abc+key is disabled, so is SECRET";
/// assert_eq!(redact_url(text, url), "no route to [redacted]: [redacted] is disabled, so is [redacted]");
/// ```
#[must_use]
pub fn redact_url(text: &str, url: &str) -> String {
    let mut redacted = text.to_owned();
    for part in secret_parts(url) {
        redacted = without_part(&redacted, &part);
    }
    redacted
}

/// The parts of a URL that may hold a key, in each form in which a server may write them, the
/// longest first.
fn secret_parts(url: &str) -> Vec<String> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let segments = target.split(['/', '?', '&', '=', '#', ';']);
    let parts = [target, path, query, user].into_iter();
    let parts = parts.chain(segments).chain(user.split(':'));
    let parts = parts.flat_map(|part| [part.to_owned(), decoded(part), encoded(part)]);
    let mut parts: Vec<_> = parts.filter(|part| part.len() >= MIN_PART_BYTES).collect();
    parts.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
    parts.dedup();
    parts
}

/// A text in which a placeholder replaces each occurrence of a part.
fn without_part(text: &str, part: &str) -> String {
    // ASCII case does not change the length, so positions are the same in both.
    let (lower_text, lower_part) = (text.to_ascii_lowercase(), part.to_ascii_lowercase());
    let mut result = String::with_capacity(text.len());
    let mut kept_to = 0;
    for (at, _) in lower_text.match_indices(&lower_part) {
        result.push_str(&text[kept_to..at]);
        result.push_str(REDACTED);
        kept_to = at + part.len();
    }
    result.push_str(&text[kept_to..]);
    result
}

/// A text with its percent-encoded bytes decoded.
fn decoded(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut result = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let digits = text.get(at + 1..at + 3).filter(|_| *byte == b'%');
        let byte_of = |digits| u8::from_str_radix(digits, 16).ok();
        match digits.and_then(byte_of) {
            Some(encoded) => {
                result.push(encoded);
                at += 3;
            }
            None => {
                result.push(*byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&result).into_owned()
}

/// A text as it travels in a URL: each byte that a URL cannot hold is percent-encoded.
fn encoded(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'!'..=b'~' if !matches!(byte, b'"' | b'<' | b'>' | b'`' | b'{' | b'}') => {
                result.push(char::from(byte));
            }
            byte => result.push_str(&format!("%{byte:02X}")),
        }
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_that_may_be_a_key_is_removed_in_each_form() {
        let url = "wss://user:password@node.example:8443/v3/sk9%2FKEY77/stream?apikey=Q1w2e3&x=1";
        for text in [
            "GET /v3/sk9%2FKEY77/stream?apikey=Q1w2e3&x=1 was not found",
            "GET /v3/sk9%2fkey77/stream was not found",
            "project sk9/KEY77 is disabled",
            "bad key q1W2E3",
            "apikey=Q1w2e3&amp;x=1",
            "user:password is wrong",
            "password",
        ] {
            let redacted = redact_url(text, url).to_ascii_lowercase();
            for secret in ["key77", "q1w2e3", "password"] {
                assert!(!redacted.contains(secret), "{redacted}");
            }
            assert!(redacted.contains("[redacted]"), "{redacted}");
        }
        let spaces = redact_url("no /my%20key%20%C3%BC", "https://node.example/my key ü");
        assert_eq!(spaces, "no [redacted]");
    }

    #[test]
    fn a_password_with_the_end_of_a_host_in_it_is_not_quoted() {
        for (text, expected) in [
            ("https://user:S3CRET/pw@node.example/v3", "https://…"),
            ("https://user:S3CRET?pw@node.example/v3", "https://…"),
            ("https://user:S3CRET#pw@node.example", "https://…"),
            ("https://user:pw@S3CRET/pw@node.example", "https://…"),
            ("user:S3CRET/pw@node.example", "…"),
            (
                "https://user:S3CRET@node.example/v3",
                "https://node.example",
            ),
        ] {
            assert_eq!(quotable_url(text), expected, "{text}");
        }
    }

    #[test]
    fn other_text_stays() {
        let text = "HTTP status 404 of node.example/v3: größer ÄÖÜ";
        for url in [
            "https://node.example/v3/",
            "https://node.example",
            "https://node.example/?k=1",
            "",
        ] {
            assert_eq!(redact_url(text, url), text);
        }
    }
}
