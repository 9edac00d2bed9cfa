//! TOML texts: the faults of a text that is no TOML, without the text itself, which may hold a secret.

use figment::{
    Provider as _,
    providers::{Format as _, Toml},
};

/// The beginning of the library's errors, before the place.
const START: &str = "TOML parse error at ";

/// Lines of the library's errors that show the source, between the place and the reason.
const SOURCE_LINES: usize = 3;

/// A key for a value that has none.
const KEY: &str = "v = ";

/// An error of the library in one line, without the source.
pub(super) fn without_source(error: &str) -> String {
    let Some(rest) = error.strip_prefix(START) else {
        return error.to_owned();
    };
    let mut lines = rest.lines();
    let place = lines.next().unwrap_or_default();
    let reasons: Vec<_> = lines.skip(SOURCE_LINES).map(str::trim).collect();
    format!("{START}{place}: {}", reasons.join(", "))
}

/// The place at which a text is no TOML value. None if it is one.
pub(super) fn fault_of_value(text: &str) -> Option<String> {
    let error = Toml::string(&format!("{KEY}{text}")).data().err()?;
    let error = error.kind.to_string();
    let place = error.strip_prefix(START)?.lines().next()?;
    let (line, column) = place.strip_prefix("line ")?.split_once(", column ")?;
    let column: usize = column.parse().ok()?;
    Some(match line {
        "1" => format!("column {}", column.saturating_sub(KEY.len()).max(1)),
        line => format!("line {line}, column {column}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_has_no_source() {
        for (text, expected) in [
            (
                "[auth]\nhmac_secret = S3CRET",
                "TOML parse error at line 2, column 15: ",
            ),
            (
                "a = 1\na = \"S3CRET\"",
                "TOML parse error at line 2, column 1: ",
            ),
            ("a = \"S3CRET", "TOML parse error at line 1, column "),
            ("a = \"\"\"\nS3CRET\n", "TOML parse error at line "),
            ("S3CRET", "TOML parse error at line 1, column "),
        ] {
            let error = Toml::string(text).data().unwrap_err().kind.to_string();
            let error = without_source(&error);
            assert!(error.starts_with(expected), "{error}");
            assert!(
                !error.contains("S3CRET") && !error.contains('\n'),
                "{error}"
            );
            assert!(!error.ends_with(": "), "{error}");
        }
    }

    #[test]
    fn a_value_has_the_place_of_its_fault() {
        for (text, expected) in [
            ("[1, {a = 1}]", None),
            ("\"x\"", None),
            ("", Some("column 1")),
            ("wss://h", Some("column 1")),
            ("[1, x]", Some("column 5")),
            ("[1,\n2 3]", Some("line 2, column 3")),
        ] {
            assert_eq!(fault_of_value(text).as_deref(), expected, "{text}");
        }
    }
}
