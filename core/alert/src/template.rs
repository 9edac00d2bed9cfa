//! Template: the text of a rule's notification, with fields in braces.
//!
//! `{symbol} is at {price}` becomes `BTC-USD is at 100000`. `{{` and `}}` stand for braces. Values
//! are inserted once and never read as a template themselves.

use std::fmt::Write as _;

use rust_decimal::Decimal;

use crate::RuleError;

/// Bytes of a rendered text. Longer ones are cut at a character.
const MOST_RENDERED_BYTES: usize = 4_096;

/// Fields that a template may name.
const FIELDS: [(&str, Field); 11] = [
    ("name", Field::Name),
    ("symbol", Field::Symbol),
    ("price", Field::Price),
    ("value", Field::Value),
    ("previous", Field::Previous),
    ("threshold", Field::Threshold),
    ("time", Field::Time),
    ("chain", Field::Chain),
    ("portfolio", Field::Portfolio),
    ("transaction", Field::Transaction),
    ("state", Field::State),
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Field {
    Name,
    Symbol,
    Price,
    Value,
    Previous,
    Threshold,
    Time,
    Chain,
    Portfolio,
    Transaction,
    State,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Field(Field),
}

/// A checked template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Template(Vec<Part>);

/// Values for a template. A field without a value becomes `-`.
#[derive(Debug, Clone, Copy, Default)]
pub struct TemplateFields<'a> {
    /// The rule's name.
    pub name: Option<&'a str>,
    /// The symbol.
    pub symbol: Option<&'a str>,
    /// The price.
    pub price: Option<Decimal>,
    /// The value that the condition tests.
    pub value: Option<Decimal>,
    /// That value before.
    pub previous: Option<Decimal>,
    /// The threshold.
    pub threshold: Option<Decimal>,
    /// The time, in the caller's form.
    pub time: Option<&'a str>,
    /// The chain's id.
    pub chain: Option<u64>,
    /// The portfolio's id.
    pub portfolio: Option<&'a str>,
    /// The transaction's hash.
    pub transaction: Option<&'a str>,
    /// The transaction's state.
    pub state: Option<&'a str>,
}

impl Template {
    /// Parses a template.
    ///
    /// # Errors
    /// A brace has no partner, or a field is unknown.
    pub fn parse(text: &str) -> Result<Self, RuleError> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let tail = &rest[at..];
            if let Some(after) = tail.strip_prefix("{{") {
                plain.push('{');
                rest = after;
            } else if let Some(after) = tail.strip_prefix("}}") {
                plain.push('}');
                rest = after;
            } else if let Some(after) = tail.strip_prefix('{') {
                let end = after
                    .find(['}', '{'])
                    .filter(|end| after[*end..].starts_with('}'));
                let end = end.ok_or_else(|| lone('{'))?;
                let field = find(&after[..end])?;
                if !plain.is_empty() {
                    parts.push(Part::Text(std::mem::take(&mut plain)));
                }
                parts.push(Part::Field(field));
                rest = &after[end + 1..];
            } else {
                return Err(lone('}'));
            }
        }
        plain.push_str(rest);
        if !plain.is_empty() {
            parts.push(Part::Text(plain));
        }
        Ok(Self(parts))
    }

    /// The text with these values, of at most 4,096 bytes.
    #[must_use]
    pub fn render(&self, fields: &TemplateFields<'_>) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(plain) => text.push_str(plain),
                Part::Field(field) => fields.write(*field, &mut text),
            }
            if text.len() > MOST_RENDERED_BYTES {
                text.truncate(text.floor_char_boundary(MOST_RENDERED_BYTES));
                break;
            }
        }
        text
    }
}

fn lone(brace: char) -> RuleError {
    let problem = format!(
        "a lone `{brace}`, expected a field as {{price}}, or `{brace}{brace}` for the character"
    );
    RuleError::new("template", problem)
}

fn find(name: &str) -> Result<Field, RuleError> {
    let found = FIELDS.iter().find(|(known, _)| *known == name);
    found.map(|(_, field)| *field).ok_or_else(|| {
        let shown: String = name.chars().take(32).collect();
        let names: Vec<_> = FIELDS.iter().map(|(name, _)| *name).collect();
        let problem = format!(
            "unknown field {{{shown}}}, expected one of {}",
            names.join(", ")
        );
        RuleError::new("template", problem)
    })
}

impl TemplateFields<'_> {
    fn write(&self, field: Field, text: &mut String) {
        let decimal = |value: Option<Decimal>| value.map(|value| value.normalize().to_string());
        let word = |value: Option<&str>| value.map(str::to_owned);
        let value = match field {
            Field::Name => word(self.name),
            Field::Symbol => word(self.symbol),
            Field::Price => decimal(self.price),
            Field::Value => decimal(self.value),
            Field::Previous => decimal(self.previous),
            Field::Threshold => decimal(self.threshold),
            Field::Time => word(self.time),
            Field::Chain => self.chain.map(|chain| chain.to_string()),
            Field::Portfolio => word(self.portfolio),
            Field::Transaction => word(self.transaction),
            Field::State => word(self.state),
        };
        // Writing to a string cannot fail.
        let _ = write!(text, "{}", value.as_deref().unwrap_or("-"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(text: &str) -> String {
        let fields = TemplateFields {
            name: Some("my {price}"),
            symbol: Some("BTC-USD"),
            price: Some(Decimal::new(172, 11)),
            ..TemplateFields::default()
        };
        Template::parse(text).unwrap().render(&fields)
    }

    #[test]
    fn fields_are_inserted_once_and_braces_are_escaped() {
        assert_eq!(render("{symbol} at {price}"), "BTC-USD at 0.00000000172");
        assert_eq!(render("{{price}} {name}"), "{price} my {price}");
        assert_eq!(render("{{{symbol}}}"), "{BTC-USD}");
        assert_eq!(render("{threshold}"), "-");
        assert_eq!(render(""), "");
    }

    #[test]
    fn faults_name_the_field() {
        for text in [
            "{",
            "}",
            "{price",
            "a } b",
            "{pri{ce}}",
            "{}",
            "{Price}",
            "{ price }",
            "{nonsense}",
        ] {
            let error = Template::parse(text).unwrap_err();
            assert_eq!(error.field, "template", "{text}");
            assert!(error.problem.contains("expected"), "{text}: {error}");
        }
    }

    #[test]
    fn a_long_text_is_cut_at_a_character() {
        let text = render(&"é{symbol}".repeat(1_000));
        assert!(text.len() <= MOST_RENDERED_BYTES && text.len() > MOST_RENDERED_BYTES - 4);
    }
}
