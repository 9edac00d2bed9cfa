//! ABI types: parses the signature of an event or error into named, bounded types.

use alloy::{
    dyn_abi::{DynSolType, Specifier},
    json_abi::{EventParam, Param},
};

/// The longest signature, in bytes.
pub const MAX_SIGNATURE_BYTES: usize = 1_024;
/// The deepest nesting of tuples and lists.
const MAX_DEPTH: usize = 8;
/// The most values in a fixed list, including those inside its items.
const MAX_FIXED_VALUES: usize = 1_024;

/// The reason why a signature is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AbiError {
    /// The signature is longer than [`MAX_SIGNATURE_BYTES`].
    #[error("signature is {0} bytes long, expected at most {MAX_SIGNATURE_BYTES}")]
    TooLong(usize),
    /// The signature cannot be parsed.
    #[error(
        "signature {signature:?} is not understood: {reason}; expected for example {example:?}"
    )]
    Syntax {
        /// The signature.
        signature: String,
        /// The reason.
        reason: String,
        /// A valid signature.
        example: &'static str,
    },
    /// The event is anonymous, so its logs do not name it.
    #[error("event {0} is anonymous: its logs cannot be recognised")]
    Anonymous(String),
    /// More than three arguments are indexed.
    #[error("event {event} has {indexed} indexed arguments, expected at most 3")]
    TooManyIndexed {
        /// The event's name.
        event: String,
        /// The number of indexed arguments.
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
    /// A type does not exist, or is too large.
    #[error("type {kind} of {item} is not supported: {reason}")]
    Type {
        /// The event's or error's name.
        item: String,
        /// The type.
        kind: String,
        /// The reason.
        reason: String,
    },
}

/// A type of the ABI, with the names of its parts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum AbiType {
    Bool,
    Uint(usize),
    Int(usize),
    Address,
    /// `bytesN`, or 24 bytes for a function.
    FixedBytes(usize),
    Bytes,
    String,
    List(Box<Self>),
    FixedList(Box<Self>, usize),
    Tuple(Vec<Field>),
}

/// A named argument, or part of a tuple.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    /// Empty if the signature gives no name.
    pub(super) name: String,
    pub(super) ty: AbiType,
}

impl AbiType {
    /// Whether the head holds an offset, and the value lies in the tail.
    pub(super) fn is_dynamic(&self) -> bool {
        match self {
            Self::Bytes | Self::String | Self::List(_) => true,
            Self::FixedList(item, _) => item.is_dynamic(),
            Self::Tuple(fields) => fields.iter().any(|field| field.ty.is_dynamic()),
            _ => false,
        }
    }

    /// The number of words in the head.
    pub(super) fn head_words(&self) -> usize {
        match self {
            _ if self.is_dynamic() => 1,
            Self::FixedList(item, length) => item.head_words() * length,
            Self::Tuple(fields) => fields.iter().map(|field| field.ty.head_words()).sum(),
            _ => 1,
        }
    }

    /// Whether a topic holds the value, and not its hash.
    pub(super) fn is_value(&self) -> bool {
        !matches!(
            self,
            Self::Bytes | Self::String | Self::List(_) | Self::FixedList(..) | Self::Tuple(_)
        )
    }
}

/// A signature that alloy's parser accepts, and the names that it would refuse.
pub(super) struct PreparedSignature {
    pub(super) text: String,
    /// The names of the parts of tuples, in the order in which the parts end.
    pub(super) names: Vec<String>,
}

/// Checks the bounds of a signature, and removes the names of tuple parts, which alloy's parser
/// refuses.
///
/// # Example
/// `E((uint256 id, string name)[] items)` becomes `E((uint256,string)[] items)` with the names
/// `id` and `name`.
pub(super) fn prepare(
    signature: &str,
    example: &'static str,
) -> Result<PreparedSignature, AbiError> {
    if signature.len() > MAX_SIGNATURE_BYTES {
        return Err(AbiError::TooLong(signature.len()));
    }
    let mut text = String::with_capacity(signature.len());
    let mut names = Vec::new();
    // The text since the last bracket or comma inside a tuple.
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
    Ok(PreparedSignature { text, names })
}

/// Removes the name from a part such as `uint256 id`, or `[] items` after a tuple.
fn take_name(part: &mut String, follows_tuple: bool) -> String {
    let words: Vec<_> = part.split_whitespace().collect();
    let (kind, name) = match words.as_slice() {
        [name] if follows_tuple && !name.starts_with('[') => ("", *name),
        [kind] => (*kind, ""),
        [kind, name] => (*kind, *name),
        // The parser reports an empty part, or one with more than a type and a name.
        _ => return String::new(),
    };
    let name = name.to_owned();
    *part = kind.to_owned();
    name
}

/// The error for a signature that the parser refuses. The last line of the parser's message has
/// the reason; the lines before quote the signature.
pub(super) fn syntax(signature: &str, reason: &str, example: &'static str) -> AbiError {
    AbiError::Syntax {
        signature: signature.to_owned(),
        reason: reason.lines().last().unwrap_or_default().to_owned(),
        example,
    }
}

/// The names of the parts of tuples, consumed in order.
pub(super) type Names = std::vec::IntoIter<String>;

/// The field of an event's argument.
pub(super) fn event_field(
    item: &str,
    param: &EventParam,
    names: &mut Names,
) -> Result<Field, AbiError> {
    field(item, &param.name, &param.ty, names, param.resolve())
}

/// The field of an error's argument.
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
    let ty = abi_type(&resolved, names, MAX_DEPTH).map_err(refuse)?;
    Ok(Field {
        name: name.to_owned(),
        ty,
    })
}

fn abi_type(kind: &DynSolType, names: &mut Names, depth: usize) -> Result<AbiType, String> {
    let Some(depth) = depth.checked_sub(1) else {
        return Err(format!("the type is nested more than {MAX_DEPTH} deep"));
    };
    let ty = match kind {
        DynSolType::Bool => AbiType::Bool,
        DynSolType::Uint(bits) => AbiType::Uint(*bits),
        DynSolType::Int(bits) => AbiType::Int(*bits),
        DynSolType::Address => AbiType::Address,
        DynSolType::FixedBytes(length) => AbiType::FixedBytes(*length),
        DynSolType::Function => AbiType::FixedBytes(24),
        DynSolType::Bytes => AbiType::Bytes,
        DynSolType::String => AbiType::String,
        DynSolType::Array(item) => AbiType::List(Box::new(abi_type(item, names, depth)?)),
        DynSolType::FixedArray(item, length) => {
            let item = abi_type(item, names, depth)?;
            let values = values(&item).saturating_mul(*length);
            if !(1..=MAX_FIXED_VALUES).contains(&values) {
                return Err(format!(
                    "a fixed list holds {values} values, expected 1 to {MAX_FIXED_VALUES}"
                ));
            }
            AbiType::FixedList(Box::new(item), *length)
        }
        DynSolType::Tuple(kinds) if kinds.is_empty() => {
            return Err("a tuple is empty".to_owned());
        }
        DynSolType::Tuple(kinds) => {
            let fields = kinds.iter().map(|kind| {
                // The type first, as nested parts end before the part that holds them.
                let ty = abi_type(kind, names, depth)?;
                let name = names.next().unwrap_or_default();
                Ok(Field { name, ty })
            });
            AbiType::Tuple(fields.collect::<Result<_, String>>()?)
        }
    };
    Ok(ty)
}

/// The number of values in a type. A list of variable length counts as one.
fn values(ty: &AbiType) -> usize {
    match ty {
        AbiType::FixedList(item, length) => values(item).saturating_mul(*length),
        AbiType::Tuple(fields) => fields
            .iter()
            .fold(0, |sum, field| values(&field.ty).saturating_add(sum)),
        _ => 1,
    }
}

/// Refuses duplicate names, as a JSON object cannot hold them.
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
