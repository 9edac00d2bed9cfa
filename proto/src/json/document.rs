//! Embedded JSON documents, which the server carries but does not interpret.

use serde_json::value::RawValue;

use super::JsonError;

/// Maximum nesting of a document. With the messages around it, the result stays below the
/// limits of common JSON parsers (128 in serde_json).
pub const MAX_DOCUMENT_DEPTH: usize = 100;

/// Checks bytes that are to be embedded as a document: gRPC does not check them. No bytes at
/// all stand for null.
///
/// # Errors
/// They are not JSON, or nested deeper than [`MAX_DOCUMENT_DEPTH`].
///
/// ```
/// use tidewire_proto::json::check_document;
/// assert!(check_document(br#"{"amount": 0.10}"#).is_ok());
/// assert!(check_document(b"").is_ok());
/// assert!(check_document(b"{").is_err());
/// ```
pub fn check_document(text: &[u8]) -> Result<(), JsonError> {
    if text.is_empty() {
        return Ok(());
    }
    let raw: &RawValue = serde_json::from_slice(text).map_err(|error| JsonError::syntax(&error))?;
    check_depth(raw)
}

/// Checks the nesting of valid JSON.
pub(super) fn check_depth(raw: &RawValue) -> Result<(), JsonError> {
    if depth(raw.get()) > MAX_DOCUMENT_DEPTH {
        let message = format!("nested deeper than {MAX_DOCUMENT_DEPTH} levels");
        return Err(JsonError::new(message));
    }
    Ok(())
}

/// Returns the nesting depth of arrays and objects. Brackets in strings do not count.
fn depth(text: &str) -> usize {
    let (mut open, mut deepest) = (0_usize, 0);
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'{' | b'[' => {
                open += 1;
                deepest = deepest.max(open);
            }
            b'}' | b']' => open = open.saturating_sub(1),
            b'"' => skip_string(&mut bytes),
            _ => {}
        }
    }
    deepest
}

fn skip_string(bytes: &mut std::str::Bytes<'_>) {
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => return,
            b'\\' => drop(bytes.next()),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_counts_brackets_outside_of_strings() {
        let cases = [
            ("1", 0),
            (r#""[[[""#, 0),
            ("[]", 1),
            (r#"{"a\"[{":[{}],"b":[[]]}"#, 3),
        ];
        for (text, expected) in cases {
            assert_eq!(depth(text), expected, "{text}");
        }
    }

    #[test]
    fn documents_are_bounded_and_valid() {
        let nested = |levels: usize| "[".repeat(levels) + &"]".repeat(levels);
        assert!(check_document(nested(MAX_DOCUMENT_DEPTH).as_bytes()).is_ok());
        let error = check_document(nested(MAX_DOCUMENT_DEPTH + 1).as_bytes()).unwrap_err();
        assert_eq!(error.to_string(), "nested deeper than 100 levels");
        assert!(check_document(nested(1_000_000).as_bytes()).is_err());
        for text in ["{", "[1,]", "1 2", "NaN", "\"\u{1}\""] {
            assert!(
                check_document(text.as_bytes()).unwrap_err().is_syntax(),
                "{text}"
            );
        }
        assert!(check_document(b"\"\xff\"").is_err());
    }
}
