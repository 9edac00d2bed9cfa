//! Settings that nodes should have in common: each node tells its own, and asks for those of the
//! others.
//!
//! The core does not know what they mean. A node of an earlier release does not know the question,
//! and is left out.

use std::collections::BTreeMap;

use tidewire_proto::v1::ErrorCode;

use super::{
    Recipients, StreamCore,
    question::{self, Answer, Question},
};

/// A node, and its settings that the others should have too.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NodeSettings {
    /// The node, as it is named in logs.
    pub node: String,
    /// Where operators find it, such as the name of its machine and its address.
    pub place: String,
    /// The value of each setting, in the form in which it may leave the node.
    pub values: BTreeMap<String, String>,
}

/// The settings of the other nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OtherSettings {
    /// Those that were told.
    pub nodes: Vec<NodeSettings>,
    /// How many nodes did not answer. Those of an earlier release, which cannot, are not among them.
    pub missing: usize,
}

impl StreamCore {
    /// Sets what this node tells the others. Once, before they can ask.
    pub fn tell_settings(&self, settings: NodeSettings) {
        let _ = self.settings.set(settings);
    }

    /// Asks the other nodes for their settings. None if they cannot be asked, or there are none.
    pub async fn settings_of_others(&self) -> Option<OtherSettings> {
        let question = Question::Settings(question::SettingsQuestion::default()).to_bytes();
        let asked = self.broker().ask(Recipients::Others, &question)?;
        // A fault of Redis is reported by what needs Redis more than this.
        let (answers, mut missing) = super::read_all(&asked.await.ok()?);
        let mut nodes = Vec::new();
        for answer in answers {
            match answer {
                Answer::Settings(told) => nodes.push(told.into()),
                Answer::Refusal(refusal) if refusal.code == ErrorCode::Unimplemented as i32 => {}
                _ => missing += 1,
            }
        }
        Some(OtherSettings { nodes, missing })
    }

    /// The answer to a node that asks.
    pub(super) fn answer_settings(&self) -> Answer {
        match self.settings.get() {
            Some(settings) => Answer::Settings(settings.into()),
            None => super::unknown_question().into(),
        }
    }
}

impl From<&NodeSettings> for question::SettingsAnswer {
    fn from(settings: &NodeSettings) -> Self {
        let values = settings.values.iter();
        Self {
            node: settings.node.clone(),
            place: settings.place.clone(),
            values: values
                .map(|(name, value)| question::SettingValue {
                    name: name.clone(),
                    value: value.clone(),
                })
                .collect(),
        }
    }
}

impl From<question::SettingsAnswer> for NodeSettings {
    fn from(told: question::SettingsAnswer) -> Self {
        let values = told.values.into_iter();
        Self {
            node: told.node,
            place: told.place,
            values: values.map(|one| (one.name, one.value)).collect(),
        }
    }
}
