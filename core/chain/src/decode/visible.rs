//! Visible text: names and reasons of contracts, without characters that mislead a reader.
//!
//! A contract chooses its name and its revert text. Bidirectional controls, zero-width characters
//! and soft hyphens make one text look like another, so they are removed, and the rest is
//! composed (NFC).
//!
//! Example: `US\u{200B}DC` becomes `USDC`, and a name of zero-width spaces becomes none.

use icu_normalizer::ComposingNormalizer;

/// The longest name, in characters.
const MAX_NAME: usize = 64;

/// A name as it is shown: one line of at most 64 characters. None if nothing of it is visible.
///
/// ```
/// # use tidewire_chain::decode::visible_name;
/// assert_eq!(visible_name("US\u{200B}DC\u{202E}").as_deref(), Some("USDC"));
/// assert_eq!(visible_name(" \u{AD}\u{FEFF}\n"), None);
/// ```
#[must_use]
pub fn visible_name(text: &str) -> Option<String> {
    let name: String = visible(text).chars().take(MAX_NAME).collect();
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// A text in one line, composed and without characters that cannot be seen.
pub(super) fn visible(text: &str) -> String {
    let spaced = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let visible: String = spaced.filter(|c| !is_invisible(*c)).collect();
    let composed = ComposingNormalizer::new_nfc()
        .normalize(&visible)
        .into_owned();
    composed.trim().to_owned()
}

fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{AD}' | '\u{34F}' | '\u{61C}' | '\u{115F}' | '\u{1160}' | '\u{17B4}' | '\u{17B5}'
            | '\u{180B}'..='\u{180F}' | '\u{200B}'..='\u{200F}' | '\u{2028}'..='\u{202E}'
            | '\u{2060}'..='\u{206F}' | '\u{3164}' | '\u{FE00}'..='\u{FE0F}' | '\u{FEFF}'
            | '\u{FFA0}' | '\u{FFF9}'..='\u{FFFB}' | '\u{E0000}'..='\u{E0FFF}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_shown_without_what_misleads() {
        for (given, expected) in [
            ("USDC", Some("USDC")),
            ("U\u{AD}S\u{200D}D\u{2060}C", Some("USDC")),
            ("\u{202E}CDSU\u{202C}", Some("CDSU")),
            ("\u{2066}A\u{2069}", Some("A")),
            ("Cafe\u{301}", Some("Caf\u{E9}")),
            ("a\nb", Some("a b")),
            ("\u{5E01}\u{5B89}", Some("\u{5E01}\u{5B89}")),
            ("\u{200B}\u{FEFF}", None),
            ("  ", None),
            ("", None),
        ] {
            assert_eq!(visible_name(given).as_deref(), expected, "{given:?}");
        }
        let long = visible_name(&"x".repeat(100)).unwrap();
        assert_eq!(long.len(), 64);
    }
}
