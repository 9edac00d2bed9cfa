//! The types of arguments, and the signatures that name them.

use alloy::{
    dyn_abi::{DynSolType, Specifier},
    json_abi::{EventParam, Param},
};

/// The longest signature, in bytes.
pub const MAX_SIGNATURE_BYTES: usize = 1_024;
/// How deep tuples and lists may be nested in one another.
const MAX_DEPTH: usize = 8;
/// How many values a fixed list may hold, those inside of its items included.
const MAX_FIXED: usize = 1_024;

/// Why a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AbiError {
    /// Longer than [`MAX_SIGNATURE_BYTES`].
    #[error("signature is {0} bytes long, expected at most {MAX_SIGNATURE_BYTES}")]
    TooLong(usize),
    /// It cannot be parsed.
    #[error(
        "signature {signature:?} is not understood: {reason}; expected for example {example:?}"
    )]
    Syntax {
        /// What was given.
        signature: String,
        /// What is wrong with it.
        reason: String,
        /// One that is right.
        example: &'static str,
    },
    /// Such events have no topic that says which event they are.
    #[error("event {0} is anonymous: nothing in its logs says which event they are")]
    Anonymous(String),
    /// More than three arguments are indexed.
    #[error("event {event} has {indexed} indexed arguments, expected at most 3")]
    TooManyIndexed {
        /// The event's name.
        event: String,
        /// How many are indexed.
        indexed: usize,
    },
    /// Two arguments have the same name.
    #[error("{item} has two arguments named {argument:?}, expected names that differ")]
    SameName {
        /// The event's or error's name.
        item: String,
        /// The name.
        argument: String,
    },
    /// A type that no contract has, or one that is too large.
    #[error("type {kind} of {item} is not supported: {reason}")]
    Type {
        /// The event's or error's name.
        item: String,
        /// The type.
        kind: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A type, with the names of what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Shape {
    Bool,
    Uint(usize),
    Int(usize),
    Address,
    /// Bytes at the start of a word; 24 for functions.
    FixedBytes(usize),
    Bytes,
    String,
    List(Box<Self>),
    FixedList(Box<Self>, usize),
    Tuple(Vec<Field>),
}

/// A named part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    /// Empty if it has no name.
    pub(super) name: String,
    pub(super) shape: Shape,
}

impl Shape {
    /// Whether its value lies elsewhere and only an offset is in its place.
    pub(super) fn is_dynamic(&self) -> bool {
        match self {
            Self::Bytes | Self::String | Self::List(_) => true,
            Self::FixedList(item, _) => item.is_dynamic(),
            Self::Tuple(fields) => fields.iter().any(|field| field.shape.is_dynamic()),
            _ => false,
        }
    }

    /// How many words it takes in its place.
    pub(super) fn head_words(&self) -> usize {
        match self {
            _ if self.is_dynamic() => 1,
            Self::FixedList(item, length) => item.head_words() * length,
            Self::Tuple(fields) => fields.iter().map(|field| field.shape.head_words()).sum(),
            _ => 1,
        }
    }

    /// Whether a topic holds the value itself, and not its hash.
    pub(super) fn is_value(&self) -> bool {
        !matches!(
            self,
            Self::Bytes | Self::String | Self::List(_) | Self::FixedList(..) | Self::Tuple(_)
        )
    }
}

/// A signature that the parser takes, and the names that it would not.
pub(super) struct Prepared {
    pub(super) text: String,
    /// The names of the parts of tuples, in the order of the parts' ends.
    pub(super) names: Vec<String>,
}

/// Bounds a signature and takes the names out of its tuples: alloy's parser wants those
/// bare.
pub(super) fn prepare(signature: &str, example: &'static str) -> Result<Prepared, AbiError> {
    if signature.len() > MAX_SIGNATURE_BYTES {
        return Err(AbiError::TooLong(signature.len()));
    }
    let mut text = String::with_capacity(signature.len());
    let mut names = Vec::new();
    // What stands since the last bracket or comma, inside of a tuple.
    let mut part = String::new();
    let mut depth = 0_usize;
    for character in signature.trim().trim_end_matches(';').chars() {
        match character {
            ',' | ')' if depth > 1 => {
                names.push(take_name(&mut part, text.ends_with(')')));
                text.push_str(&part);
                part.clear();
            }
            '(' => {
                text.push_str(&part);
                part.clear();
            }
            _ if depth > 1 => {
                part.push(character);
                continue;
            }
            _ => {}
        }
        match character {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            let reason = format!("tuples are nested more than {MAX_DEPTH} deep");
            return Err(syntax(signature, &reason, example));
        }
        text.push(character);
    }
    text.push_str(&part);
    Ok(Prepared { text, names })
}

/// Takes the name off a part such as `uint256 id`, or `[] items` after a tuple.
fn take_name(part: &mut String, follows_tuple: bool) -> String {
    let words: Vec<_> = part.split_whitespace().collect();
    let (kind, name) = match words.as_slice() {
        [name] if follows_tuple && !name.starts_with('[') => ("", *name),
        [kind] => (*kind, ""),
        [kind, name] => (*kind, *name),
        // Nothing, or more than a type and a name: the parser says so.
        _ => return String::new(),
    };
    let name = name.to_owned();
    *part = kind.to_owned();
    name
}

/// The parser quotes what it read and points at a place; its last line says what is wrong.
pub(super) fn syntax(signature: &str, reason: &str, example: &'static str) -> AbiError {
    AbiError::Syntax {
        signature: signature.to_owned(),
        reason: reason.lines().last().unwrap_or_default().to_owned(),
        example,
    }
}

/// Hands out the names of the parts of tuples.
pub(super) type Names = std::vec::IntoIter<String>;

/// The field that an event's argument is.
pub(super) fn event_field(
    item: &str,
    param: &EventParam,
    names: &mut Names,
) -> Result<Field, AbiError> {
    field(item, &param.name, &param.ty, names, param.resolve())
}

/// The field that an error's argument is.
pub(super) fn error_field(item: &str, param: &Param, names: &mut Names) -> Result<Field, AbiError> {
    field(item, &param.name, &param.ty, names, param.resolve())
}

fn field(
    item: &str,
    name: &str,
    kind: &str,
    names: &mut Names,
    resolved: alloy::dyn_abi::Result<DynSolType>,
) -> Result<Field, AbiError> {
    let refuse = |reason: String| AbiError::Type {
        item: item.to_owned(),
        kind: kind.to_owned(),
        reason,
    };
    let resolved = resolved.map_err(|error| refuse(error.to_string()))?;
    let shape = shape(&resolved, names, MAX_DEPTH).map_err(refuse)?;
    Ok(Field {
        name: name.to_owned(),
        shape,
    })
}

fn shape(kind: &DynSolType, names: &mut Names, depth: usize) -> Result<Shape, String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("it is nested more than {MAX_DEPTH} deep"));
    };
    let shape = match kind {
        DynSolType::Bool => Shape::Bool,
        DynSolType::Uint(bits) => Shape::Uint(*bits),
        DynSolType::Int(bits) => Shape::Int(*bits),
        DynSolType::Address => Shape::Address,
        DynSolType::FixedBytes(length) => Shape::FixedBytes(*length),
        DynSolType::Function => Shape::FixedBytes(24),
        DynSolType::Bytes => Shape::Bytes,
        DynSolType::String => Shape::String,
        DynSolType::Array(item) => Shape::List(Box::new(shape(item, names, depth)?)),
        DynSolType::FixedArray(item, length) => {
            let item = shape(item, names, depth)?;
            let values = values(&item).saturating_mul(*length);
            if !(1..=MAX_FIXED).contains(&values) {
                return Err(format!(
                    "a fixed list holds {values} values, expected 1 to {MAX_FIXED}"
                ));
            }
            Shape::FixedList(Box::new(item), *length)
        }
        DynSolType::Tuple(kinds) if kinds.is_empty() => {
            return Err("a tuple holds nothing".to_owned());
        }
        DynSolType::Tuple(kinds) => {
            let fields = kinds.iter().map(|kind| {
                // The shape first: the parts of a part end before it does.
                let shape = shape(kind, names, depth)?;
                let name = names.next().unwrap_or_default();
                Ok(Field { name, shape })
            });
            Shape::Tuple(fields.collect::<Result<_, String>>()?)
        }
    };
    Ok(shape)
}

/// How many values a shape holds at least.
fn values(shape: &Shape) -> usize {
    match shape {
        Shape::FixedList(item, length) => values(item).saturating_mul(*length),
        Shape::Tuple(fields) => fields
            .iter()
            .fold(0, |sum, field| values(&field.shape).saturating_add(sum)),
        _ => 1,
    }
}

/// Refuses names that come twice, which no JSON object can hold.
pub(super) fn check_names<'a>(
    item: &str,
    names: impl Iterator<Item = &'a str>,
) -> Result<(), AbiError> {
    let mut seen = std::collections::HashSet::new();
    for name in names.filter(|name| !name.is_empty()) {
        if !seen.insert(name) {
            return Err(AbiError::SameName {
                item: item.to_owned(),
                argument: name.to_owned(),
            });
        }
    }
    Ok(())
}
