//! Text cutting: shortens a text at a character, so that a receiver's limit holds.

/// Ends a text that was cut.
const ELLIPSIS: char = '…';

/// Cuts a text to `limit` units at most, where `size` measures a character. A text that is cut
/// ends with `…`, which counts too.
pub(crate) fn cut_by(text: &str, limit: usize, size: impl Fn(char) -> usize) -> String {
    let mut used = 0_usize;
    // Where the text ends if an ellipsis must follow.
    let mut end = 0;
    for (place, character) in text.char_indices() {
        used += size(character);
        if used > limit {
            let mut short = text[..end].to_owned();
            if size(ELLIPSIS) <= limit {
                short.push(ELLIPSIS);
            }
            return short;
        }
        if used + size(ELLIPSIS) <= limit {
            end = place + character.len_utf8();
        }
    }
    text.to_owned()
}

/// Cuts a text to `limit` UTF-16 units at most. Chats differ in what they call a character; no
/// way of counting gives more than these.
pub(crate) fn cut_utf16(text: &str, limit: usize) -> String {
    cut_by(text, limit, char::len_utf16)
}

/// Cuts a text so that it has `limit` bytes at most as a string of JSON, without the quotes.
pub(crate) fn cut_json(text: &str, limit: usize) -> String {
    cut_by(text, limit, json_len)
}

/// The bytes of a character in the JSON that `serde_json` writes.
pub(crate) fn json_len(character: char) -> usize {
    match character {
        '"' | '\\' | '\u{8}' | '\t' | '\n' | '\u{c}' | '\r' => 2,
        '\0'..='\u{1f}' => 6,
        other => other.len_utf8(),
    }
}

/// Replaces control characters by spaces: a text of one line for a log or a header.
pub(crate) fn one_line(text: &str) -> String {
    let clean = |character: char| match character {
        // Line separators of Unicode break lines in some readers.
        '\u{2028}' | '\u{2029}' => ' ',
        character if character.is_control() => ' ',
        character => character,
    };
    text.chars().map(clean).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_within_the_limit_stays_whole() {
        assert_eq!(cut_utf16("abc", 3), "abc");
        assert_eq!(cut_utf16("", 0), "");
        assert_eq!(cut_utf16("🌊", 2), "🌊");
    }

    #[test]
    fn a_text_is_cut_at_a_character() {
        assert_eq!(cut_utf16("abcd", 3), "ab…");
        assert_eq!(cut_utf16("🌊🌊", 3), "🌊…");
        assert_eq!(cut_utf16("🌊🌊", 2), "…");
        assert_eq!(cut_utf16("ab", 0), "");
        let long = cut_utf16(&"x".repeat(2_001), 2_000);
        assert_eq!(long.chars().count(), 2_000);
    }

    #[test]
    fn the_length_in_json_is_that_of_serde_json() {
        for character in (0..0x250)
            .filter_map(char::from_u32)
            .chain(['🌊', '\u{2028}'])
        {
            let json = serde_json::to_string(&character.to_string()).unwrap();
            assert_eq!(json_len(character), json.len() - 2, "{character:?}");
        }
        assert_eq!(cut_json("\"\"\"\"", 7), "\"\"…");
    }

    #[test]
    fn a_line_has_no_breaks() {
        assert_eq!(one_line("a\r\nb\u{2028}c\0"), "a  b c ");
    }
}
