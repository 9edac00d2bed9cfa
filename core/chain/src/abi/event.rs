//! Event ABI: decodes a log into JSON by the signature of its event.

use alloy::{json_abi::Event, primitives::B256};

use super::{
    abi_type::{AbiError, Field, PreparedSignature, check_names, event_field, prepare, syntax},
    value::{decode_fields, decode_topic, quoted},
};

const EXAMPLE: &str = "event Transfer(address indexed from, address indexed to, uint256 value)";

/// An event, which decodes its logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventAbi {
    name: String,
    topic: B256,
    arguments: Vec<Argument>,
    signature: String,
}

/// An argument of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Argument {
    /// The name in JSON. An argument without a name has its index.
    key: String,
    field: Field,
    location: ArgumentLocation,
}

/// The part of a log that holds an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ArgumentLocation {
    Topic,
    Data,
}

impl EventAbi {
    /// Parses a signature such as `event Transfer(address indexed from, address indexed to,
    /// uint256 value)`. The word `event` may be left out.
    ///
    /// # Errors
    /// The signature is invalid. The error names the reason and an example.
    pub fn parse(signature: &str) -> Result<Self, AbiError> {
        let PreparedSignature { text, names } = prepare(signature, EXAMPLE)?;
        let event =
            Event::parse(&text).map_err(|error| syntax(signature, &error.to_string(), EXAMPLE))?;
        if event.anonymous {
            return Err(AbiError::Anonymous(event.name));
        }
        let indexed = event.inputs.iter().filter(|input| input.indexed).count();
        if indexed > 3 {
            return Err(AbiError::TooManyIndexed {
                event: event.name,
                indexed,
            });
        }
        let names_in_tuples = names.join(",");
        let mut names = names.into_iter();
        let arguments = event.inputs.iter().enumerate().map(|(index, input)| {
            let field = event_field(&event.name, input, &mut names)?;
            let is_named = !field.name.is_empty();
            Ok(Argument {
                key: if is_named {
                    field.name.clone()
                } else {
                    index.to_string()
                },
                field,
                location: if input.indexed {
                    ArgumentLocation::Topic
                } else {
                    ArgumentLocation::Data
                },
            })
        });
        let arguments = arguments.collect::<Result<Vec<_>, AbiError>>()?;
        check_names(
            &event.name,
            arguments.iter().map(|argument| argument.key.as_str()),
        )?;
        Ok(Self {
            topic: event.selector(),
            signature: match names_in_tuples.trim_matches(',') {
                "" => event.full_signature(),
                _ => format!("{} of {names_in_tuples}", event.full_signature()),
            },
            name: event.name,
            arguments,
        })
    }

    /// The event's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first topic of the event's logs.
    #[must_use]
    pub fn topic(&self) -> B256 {
        self.topic
    }

    /// The canonical signature, with names. All ways to write one event have the same.
    #[must_use]
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// The arguments of a log as a JSON object, in the order of the signature. None if the log
    /// belongs to another event or does not fit the signature.
    ///
    /// An indexed argument longer than a word is replaced by its hash, as the log holds no more.
    #[must_use]
    pub fn decode(&self, topics: &[B256], data: &[u8]) -> Option<String> {
        let (first, mut topics) = topics.split_first()?;
        if *first != self.topic || topics.len() != self.indexed() {
            return None;
        }
        let in_data = self
            .arguments
            .iter()
            .filter(|argument| argument.location == ArgumentLocation::Data);
        let mut values = Vec::new();
        decode_fields(in_data.map(|argument| &argument.field), data, |_, json| {
            values.push(json.to_owned());
        })?;
        let mut values = values.into_iter();
        let mut out = String::from("{");
        for argument in &self.arguments {
            if out.len() > 1 {
                out.push(',');
            }
            out.push_str(&quoted(&argument.key));
            out.push(':');
            match argument.location {
                ArgumentLocation::Data => out.push_str(&values.next()?),
                ArgumentLocation::Topic => {
                    let (topic, rest) = topics.split_first()?;
                    topics = rest;
                    if argument.field.ty.is_value() {
                        out.push_str(&decode_topic(&argument.field.ty, topic)?);
                    } else {
                        out.push_str(&quoted(&topic.to_string()));
                    }
                }
            }
        }
        out.push('}');
        Some(out)
    }

    fn indexed(&self) -> usize {
        self.arguments
            .iter()
            .filter(|argument| argument.location == ArgumentLocation::Topic)
            .count()
    }
}

/// A set of events. Two may have the same first topic and differ in their indexed arguments.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventAbis(Vec<EventAbi>);

impl EventAbis {
    /// Parses signatures. Sorts them by text and drops duplicates.
    ///
    /// # Errors
    /// [`EventAbi::parse`] refuses one of them.
    pub fn parse(signatures: &[String]) -> Result<Self, AbiError> {
        let events = signatures.iter().map(|text| EventAbi::parse(text));
        let mut events = events.collect::<Result<Vec<_>, _>>()?;
        events.sort_by(|a, b| a.signature.cmp(&b.signature));
        events.dedup();
        Ok(Self(events))
    }

    /// The events, sorted by signature.
    #[must_use]
    pub fn events(&self) -> &[EventAbi] {
        &self.0
    }

    /// The name and arguments of a log, by the first event that fits.
    #[must_use]
    pub fn decode(&self, topics: &[B256], data: &[u8]) -> Option<(&str, String)> {
        self.0
            .iter()
            .find_map(|event| Some((event.name(), event.decode(topics, data)?)))
    }
}
