//! `Forwarded` parser: the `for` parameter of each element (RFC 7239, section 4).
//!
//! A value may be quoted, and a quoted one may hold any separator: clients choose some values,
//! such as `host`. A line that breaks the grammar is unreadable as a whole, since a quote that is
//! not closed leaves open which part of the line a proxy wrote.
//!
//! Example: `for=8.8.8.8, for="[2001:db8::1]:443";host="a, for=6.6.6.6"` has two elements. The
//! second names `[2001:db8::1]:443`.

/// The `for` parameters of a line, in order. `None` stands for an element without one, and for a
/// line that cannot be read.
pub(super) fn hops(line: &[u8]) -> Vec<Option<Vec<u8>>> {
    elements(line).unwrap_or_else(|| vec![None])
}

fn elements(line: &[u8]) -> Option<Vec<Option<Vec<u8>>>> {
    let mut rest = Scanner(line);
    let mut elements = Vec::new();
    loop {
        let mut named = None;
        loop {
            rest.skip_blanks();
            let name = rest.token();
            // An element may be empty, and a `;` may be the last character.
            if !name.is_empty() {
                rest.skip_blanks();
                rest.take(b'=')?;
                rest.skip_blanks();
                let value = rest.value()?;
                let is_for = name.eq_ignore_ascii_case(b"for");
                if is_for && named.replace(value).is_some() {
                    // Each parameter is there once at most.
                    return None;
                }
                rest.skip_blanks();
            }
            if rest.take(b';').is_none() {
                break;
            }
        }
        elements.push(named);
        match rest.0 {
            [] => return Some(elements),
            _ => rest.take(b',')?,
        }
    }
}

/// The rest of a line.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Skips `byte`, if it is the next one.
    fn take(&mut self, byte: u8) -> Option<()> {
        self.0 = self.0.strip_prefix(&[byte])?;
        Some(())
    }

    fn skip_blanks(&mut self) {
        self.0 = self.0.trim_ascii_start();
    }

    /// The characters up to a blank, a separator or a quote.
    fn token(&mut self) -> &'a [u8] {
        let is_end = |byte: &u8| byte.is_ascii_whitespace() || b",;=\"".contains(byte);
        let length = self.0.iter().position(is_end).unwrap_or(self.0.len());
        let (token, rest) = self.0.split_at(length);
        self.0 = rest;
        token
    }

    /// A value, without its quotes. Some proxies write an IPv6 address without quotes, which is
    /// readable too.
    fn value(&mut self) -> Option<Vec<u8>> {
        if self.take(b'"').is_none() {
            return Some(self.token().to_owned());
        }
        let mut value = Vec::new();
        loop {
            let (&byte, rest) = self.0.split_first()?;
            self.0 = rest;
            match byte {
                b'"' => return Some(value),
                b'\\' => {
                    let (&escaped, rest) = self.0.split_first()?;
                    self.0 = rest;
                    value.push(escaped);
                }
                _ => value.push(byte),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Vec<Option<String>> {
        let hops = hops(line.as_bytes()).into_iter();
        hops.map(|hop| hop.map(|hop| String::from_utf8(hop).unwrap()))
            .collect()
    }

    #[test]
    fn each_element_has_one_address_at_most() {
        let hop = |text: &str| Some(text.to_owned());
        assert_eq!(read("for=1.1.1.1"), [hop("1.1.1.1")]);
        assert_eq!(
            read("For=\"[::1]:80\" ; by=x , proto=http;,for=a;"),
            [hop("[::1]:80"), None, hop("a")]
        );
        assert_eq!(read("for=[::1]:80"), [hop("[::1]:80")]);
        assert_eq!(read(r#"for="\1\.1.1.1""#), [hop("1.1.1.1")]);
        assert_eq!(read(""), [None]);
        assert_eq!(read("for=a,,"), [hop("a"), None, None]);
    }

    #[test]
    fn separators_within_quotes_separate_nothing() {
        let line = r#"for=1.1.1.1;host="a, for=6.6.6.6", host="b\";for=6.6.6.6";for=2.2.2.2"#;
        let expected = ["1.1.1.1", "2.2.2.2"].map(|hop| Some(hop.to_owned()));
        assert_eq!(read(line), expected);
    }

    #[test]
    fn a_line_that_breaks_the_grammar_names_no_address() {
        for line in [
            "for",
            "for=a;for=b",
            "for=\"a",
            "for=\"a\\",
            "for=\"a\"b",
            "for=a b",
            "=a",
            "for=a, for=\"b, for=c",
        ] {
            assert_eq!(read(line), [None], "{line}");
        }
    }
}
