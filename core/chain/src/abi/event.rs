//! Events by signature.

use alloy::{json_abi::Event, primitives::B256};

use super::{
    shape::{AbiError, Field, Prepared, check_names, event_field, prepare, syntax},
    value::{decode_fields, decode_topic, quoted},
};

const EXAMPLE: &str = "event Transfer(address indexed from, address indexed to, uint256 value)";

/// An event that logs can be decoded by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventAbi {
    name: String,
    topic: B256,
    arguments: Vec<Argument>,
    signature: String,
}

/// An argument, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Argument {
    /// Its name in JSON: its own, or its place.
    key: String,
    field: Field,
    place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Topic,
    Data,
}

impl EventAbi {
    /// Takes a signature such as `event Transfer(address indexed from, address indexed to,
    /// uint256 value)`; the word `event` may be left out.
    ///
    /// # Errors
    /// Says what is wrong with the signature and shows one that is right.
    pub fn parse(signature: &str) -> Result<Self, AbiError> {
        let Prepared { text, names } = prepare(signature, EXAMPLE)?;
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
        let arguments = event.inputs.iter().enumerate().map(|(place, input)| {
            let field = event_field(&event.name, input, &mut names)?;
            let is_named = !field.name.is_empty();
            Ok(Argument {
                key: if is_named {
                    field.name.clone()
                } else {
                    place.to_string()
                },
                field,
                place: if input.indexed {
                    Place::Topic
                } else {
                    Place::Data
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

    /// The first topic of its logs.
    #[must_use]
    pub fn topic(&self) -> B256 {
        self.topic
    }

    /// The signature with names, the same for all ways to write it.
    #[must_use]
    pub fn signature(&self) -> &str {
        &self.signature
    }

    /// The arguments of a log as a JSON object, in the signature's order; none if the log
    /// is of another event or breaks the signature.
    ///
    /// An indexed argument that is not a single word is its hash: the log holds no more.
    #[must_use]
    pub fn decode(&self, topics: &[B256], data: &[u8]) -> Option<String> {
        let (first, mut topics) = topics.split_first()?;
        if *first != self.topic || topics.len() != self.indexed() {
            return None;
        }
        let in_data = self.arguments.iter().filter(|a| a.place == Place::Data);
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
            match argument.place {
                Place::Data => out.push_str(&values.next()?),
                Place::Topic => {
                    let (topic, rest) = topics.split_first()?;
                    topics = rest;
                    if argument.field.shape.is_value() {
                        out.push_str(&decode_topic(&argument.field.shape, topic)?);
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
        let indexed = self.arguments.iter().filter(|a| a.place == Place::Topic);
        indexed.count()
    }
}

/// Several events. Some may have the same first topic and differ in what is indexed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EventAbis(Vec<EventAbi>);

impl EventAbis {
    /// Takes signatures, in the order of their text, each once.
    ///
    /// # Errors
    /// One of them is refused by [`EventAbi::parse`].
    pub fn parse(signatures: &[String]) -> Result<Self, AbiError> {
        let events = signatures.iter().map(|text| EventAbi::parse(text));
        let mut events = events.collect::<Result<Vec<_>, _>>()?;
        events.sort_by(|a, b| a.signature.cmp(&b.signature));
        events.dedup();
        Ok(Self(events))
    }

    /// The events.
    #[must_use]
    pub fn events(&self) -> &[EventAbi] {
        &self.0
    }

    /// The name and arguments of a log by the first event that it fits.
    #[must_use]
    pub fn decode(&self, topics: &[B256], data: &[u8]) -> Option<(&str, String)> {
        self.0
            .iter()
            .find_map(|event| Some((event.name(), event.decode(topics, data)?)))
    }
}
