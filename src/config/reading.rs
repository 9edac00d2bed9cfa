//! Reading: the file, the environment and the command line as one configuration, with all errors.
//!
//! Reading stops at the first value that has the wrong type. To name all of them, the value at
//! fault is taken out and the rest is read again, until it can be read.

use std::path::{Path, PathBuf};

use figment::{
    Figment, Profile,
    error::Kind,
    providers::{Env, Format as _, Serialized, Toml},
    value::{Dict, Map, Value},
};

use super::{
    Config,
    entries::{in_words, key_words},
    environment::{PREFIX, Variables, is_setting, path_of_variable},
    explain::{Found, explain, path_of_key},
    lines::{Lines, Subject, keys_in},
    millisecond_keys::{EarlierNames, PresentNames, Renamed},
    stand_ins::StandIns,
    tables, toml_texts, twins,
};

/// Errors that are named at most: each costs another reading.
const MAX_ERRORS: usize = 200;

/// Settings of the command line, which override the file and the environment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Overrides {
    /// The address of `server.listen`.
    pub(crate) listen: Option<String>,
    /// The port of `server.listen`.
    pub(crate) port: Option<u16>,
}

/// The configuration as far as it can be read, and its faults.
#[derive(Debug)]
pub(crate) struct Reading {
    /// None if nothing can be made of it.
    pub(crate) config: Option<Config>,
    /// The faults, each with its place.
    pub(crate) problems: Vec<String>,
    file: Option<PathBuf>,
    lines: Lines,
    variables: Variables,
    names: EarlierNames,
    stand_ins: StandIns,
    /// The paths in the file of values that were taken out: what is said about them otherwise follows
    /// from that.
    removed: Vec<String>,
}

impl Reading {
    /// Reads all sources, and checks the result.
    pub(crate) fn of(file: Option<&Path>, overrides: &Overrides) -> Self {
        let mut reading = Self {
            config: None,
            problems: Vec::new(),
            file: file.map(Path::to_path_buf),
            lines: Lines::default(),
            variables: Variables::of_process(),
            names: EarlierNames::default(),
            stand_ins: StandIns::default(),
            removed: Vec::new(),
        };
        if let Err(error) = reading.read(overrides) {
            reading.problems.push(error.to_string());
        }
        let of_names = std::mem::take(&mut reading.names.faults);
        of_names.iter().for_each(|fault| reading.add(fault));
        reading.separate_twins();
        let problems = reading.config.as_ref().map(Config::problems);
        problems
            .into_iter()
            .flatten()
            .for_each(|problem| reading.add(&problem));
        reading
    }

    /// Tells entries of a list that have the same name apart, so that a problem of one of them has
    /// its own line. The same name is a problem itself: no server runs with the names given here.
    fn separate_twins(&mut self) {
        let twins = self
            .config
            .as_mut()
            .map(twins::separate)
            .unwrap_or_default();
        for twin in &twins {
            self.add(&twin.problem);
        }
        for twin in twins {
            let path = format!("{}.{}", twin.list, twin.index);
            let path: Vec<_> = path.split('.').map(str::to_owned).collect();
            let entry = self.in_file(&path).join(".");
            self.lines.rename(&entry, twin.key, &twin.stand_in);
            self.stand_ins.add_twin(twin.stand_in, twin.name);
        }
    }

    /// Adds a problem of a configuration that could be read. Adds nothing about a key that was
    /// taken out, or that is said already.
    pub(crate) fn add(&mut self, problem: &str) {
        let subject = Subject::of(problem);
        let entries = self.lines.entries_of_subject(&subject);
        let follows = |removed: &String| subject.follows_from(problem, removed, &entries);
        if self.removed.iter().any(follows) {
            return;
        }
        let text = self.with_place(problem);
        if !self.problems.contains(&text) {
            self.problems.push(text);
        }
    }

    /// A text about the configuration, with the place that it is about: the line of the file, or
    /// the variable of the environment.
    pub(crate) fn with_place(&self, text: &str) -> String {
        let explained = Renamed::explain(&self.names.renamed, &anyhow::anyhow!(text.to_owned()));
        let explained = self.stand_ins.named_by_place(&explained.to_string());
        let explained = in_words(&explained, |entry| self.name_of(entry));
        match self.place_of_text(text) {
            Some(place) => format!("{explained} ({place})"),
            None => explained,
        }
    }

    /// The name that an entry of a list has in the file.
    fn name_of(&self, entry: &str) -> Option<String> {
        let name = self.lines.name_of(entry)?;
        (!self.stand_ins.has(&name)).then_some(name)
    }

    /// The place of the key that a text begins with, else of one that it names further on, else of
    /// the table around.
    fn place_of_text(&self, text: &str) -> Option<String> {
        let subject = Subject::of(text);
        let variable = |key: &str| self.variables.setting(key).map(variable_place);
        let line = |line: Option<usize>| self.place(line?);
        let other = || keys_in(text).find_map(variable);
        variable(&subject.path)
            .or_else(|| line(self.lines.line_of_subject(&subject)))
            .or_else(|| self.variables.within(&subject.path).map(variable_place))
            .or_else(other)
            .or_else(|| line(self.lines.line_near(&subject, text)))
    }

    /// The configuration.
    ///
    /// # Errors
    /// All problems, one a line.
    pub(crate) fn into_config(self) -> anyhow::Result<Config> {
        match (self.config, self.problems.is_empty()) {
            (Some(config), true) => Ok(config),
            _ => Err(anyhow::anyhow!(self.problems.join("\n"))),
        }
    }

    fn place(&self, line: usize) -> Option<String> {
        let file = self.file.as_ref()?;
        Some(format!("{} line {line}", file.display()))
    }

    fn read(&mut self, overrides: &Overrides) -> anyhow::Result<()> {
        let mut sources = Vec::new();
        if let Some(file) = &self.file {
            let text = text_of(file)?;
            self.lines = Lines::of(&text);
            // The text that was checked, also where the file is a pipe.
            let toml = Toml::string(&text);
            let read = PresentNames::read(&toml, &mut self.names);
            sources.push(read.map_err(|error| {
                anyhow::anyhow!("{}: {}", file.display(), error.to_string().trim_end())
            })?);
        }
        // Other variables with the prefix, such as `TIDEWIRE_LOG`, are not keys.
        let variables = Env::prefixed(PREFIX)
            .filter(|name| is_setting(name.as_str()))
            .map(|name| path_of_variable(name.as_str()).into())
            .lowercase(false);
        sources.push(PresentNames::read(&variables, &mut self.names)?);
        let own_listen = listen_of(&sources, overrides);
        if let Some(listen) = own_listen {
            let option = Serialized::default("server.listen", listen);
            let mut option = PresentNames::read(&option, &mut self.names)?;
            option.rename_source("command line");
            sources.push(option);
        }
        let is_configured = self.file.is_some() || sources.iter().any(PresentNames::sets_more);
        self.config = self.extract(sources);
        if let Some(config) = &mut self.config {
            config.file = self.file.clone();
            config.overrides = overrides.clone();
            config.is_configured = is_configured;
        }
        Ok(())
    }

    /// The path in the file of a path in what is left: an entry of a list that was taken out moved
    /// those behind it.
    fn in_file(&self, path: &[String]) -> Vec<String> {
        let mut path = path.to_vec();
        for at in 0..path.len() {
            let Ok(mut index) = path[at].parse::<usize>() else {
                continue;
            };
            let list = path[..at].join(".");
            let entries = self.removed.iter().filter_map(|removed| {
                let entry = removed.strip_prefix(&list)?.strip_prefix('.')?;
                entry.parse::<usize>().ok()
            });
            let mut gone: Vec<_> = entries.collect();
            gone.sort_unstable();
            for gone in gone {
                index += usize::from(gone <= index);
            }
            path[at] = index.to_string();
        }
        path
    }

    /// Whether an error says that a value is missing that was taken out, as it was wrong.
    fn is_without_wrong_value(&self, error: &figment::Error, in_file: &[String]) -> bool {
        let Kind::MissingField(name) = &error.kind else {
            return false;
        };
        let path = format!("{}.{name}", in_file.join("."));
        self.removed.contains(&path)
    }

    /// Puts a value in the place of a missing one, so that the rest of its table is checked too.
    /// False if there is none for this key.
    fn put_stand_in(
        &mut self,
        sources: &mut [PresentNames],
        (path, in_file): (&[String], &[String]),
        key: &str,
    ) -> bool {
        let entry = in_file.join(".");
        let Some(values) = self.stand_ins.values(&entry, key) else {
            return false;
        };
        let mut named = None;
        let mut sources = sources.iter_mut().rev();
        if !sources.any(|source| source.edit_table(path, |table| named = values.put_into(table))) {
            return false;
        }
        match named {
            Some((key, name)) => self.lines.set_name(&entry, key, name),
            None => self.removed.push(format!("{entry}.{key}")),
        }
        true
    }

    /// The place at which the text of a variable is no TOML value, if the variable sets this key alone.
    fn toml_fault(&self, key: &str, variable: Option<&str>) -> Option<String> {
        let name = self.variables.setting_alone(key);
        let name = name.filter(|name| Some(*name) == variable)?;
        toml_texts::fault_of_value(&std::env::var(name).ok()?)
    }

    /// Extracts the configuration, without the values at fault.
    fn extract(&mut self, mut sources: Vec<PresentNames>) -> Option<Config> {
        loop {
            let figment = sources
                .iter()
                .fold(Figment::new(), |all, source| all.merge(source));
            let mut errors = tables::faults(&sources);
            if errors.is_empty() {
                match figment.extract() {
                    Ok(config) => return Some(config),
                    Err(found) => errors.extend(found),
                }
            }
            let mut is_smaller = false;
            for error in errors {
                let path = full_path(&error);
                let is_of_file = error
                    .metadata
                    .as_ref()
                    .is_none_or(|metadata| metadata.name.starts_with("TOML"));
                let in_file = self.in_file(&path);
                let line = self.lines.line_of_value(&in_file).filter(|_| is_of_file);
                let file = self
                    .file
                    .as_ref()
                    .filter(|_| is_of_file && error.metadata.is_some());
                let place = line.and_then(|line| self.place(line));
                let place = place.or_else(|| Some(file?.display().to_string()));
                let is_of_environment = match &error.metadata {
                    Some(metadata) => metadata.name.contains("environment"),
                    None => line.is_none(),
                };
                let of_key = in_file.join(".");
                let variable = self.variables.setting(&of_key);
                let variable = variable.or_else(|| self.variables.within(&of_key));
                let variable = variable.filter(|_| is_of_environment).map(str::to_owned);
                let place = place.or(variable.as_deref().map(variable_place));
                if !self.is_without_wrong_value(&error, &in_file) {
                    let mut error = error.clone();
                    error.path = in_file[..error.path.len().min(in_file.len())].to_vec();
                    let name_of = |entry: &str| self.name_of(entry).filter(|_| is_of_file);
                    let key = key_words(&path_of_key(&error), name_of);
                    let about = Found {
                        place,
                        value: value_at(&sources, &path).map(|value| value.to_actual()),
                        toml_fault: self.toml_fault(&of_key, variable.as_deref()),
                        variable,
                    };
                    let text = explain(&error, &key, &about);
                    let text = Renamed::explain(&self.names.renamed, &anyhow::anyhow!(text));
                    self.problems.push(text.to_string());
                }
                if let Kind::MissingField(name) = &error.kind
                    && self.put_stand_in(&mut sources, (&path, &in_file), name)
                {
                    is_smaller = true;
                    continue;
                }
                for source in &mut sources {
                    is_smaller |= source.remove(&path);
                }
                self.removed.push(in_file.join("."));
            }
            if !is_smaller || self.problems.len() >= MAX_ERRORS {
                return None;
            }
        }
    }
}

/// The text of a configuration file.
fn text_of(file: &Path) -> anyhow::Result<String> {
    let name = file.display();
    if file.is_dir() {
        anyhow::bail!("{name} is a folder, expected a configuration file");
    }
    let bytes = match std::fs::read(file) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            anyhow::bail!("there is no configuration file {name}");
        }
        Err(error) => anyhow::bail!("the configuration file {name} cannot be read: {error}"),
    };
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
        anyhow::anyhow!("{name} line {line} is not UTF-8, expected a text in UTF-8")
    })
}

/// The value at a path, of the source that counts.
fn value_at(sources: &[PresentNames], path: &[String]) -> Option<Value> {
    let mut sources = sources.iter().rev();
    sources.find_map(|source| source.value(path)).cloned()
}

fn variable_place(name: &str) -> String {
    format!("environment variable {name}")
}

/// The path of the value at fault.
fn full_path(error: &figment::Error) -> Vec<String> {
    let mut path = error.path.clone();
    if let Kind::UnknownField(name, _) = &error.kind
        && path.last() != Some(name)
    {
        path.push(name.clone());
    }
    path
}

/// The address that the command line asks for. A port alone leaves the configured address.
fn listen_of(sources: &[PresentNames], overrides: &Overrides) -> Option<String> {
    let Some(port) = overrides.port else {
        return overrides.listen.clone();
    };
    let configured = sources.iter().rev().find_map(PresentNames::listen);
    let host = configured
        .as_deref()
        .and_then(|listen| listen.rsplit_once(':'))
        .map_or("127.0.0.1", |(host, _)| host);
    Some(format!("{host}:{port}"))
}

/// Removes the value at `path`. False if there is none.
pub(super) fn remove(data: &mut Map<Profile, Dict>, path: &[String]) -> bool {
    let Some((last, way)) = path.split_last() else {
        return false;
    };
    data.values_mut().any(|dict| {
        let mut root = Value::from(std::mem::take(dict));
        let is_removed = remove_in(&mut root, way, last);
        *dict = root.into_dict().unwrap_or_default();
        is_removed
    })
}

fn remove_in(value: &mut Value, way: &[String], last: &str) -> bool {
    let Some((step, rest)) = way.split_first() else {
        return match value {
            Value::Dict(_, dict) => dict.remove(last).is_some(),
            Value::Array(_, entries) => match last.parse::<usize>() {
                Ok(index) if index < entries.len() => {
                    entries.remove(index);
                    true
                }
                _ => false,
            },
            _ => false,
        };
    };
    match value {
        Value::Dict(_, dict) => dict
            .get_mut(step)
            .is_some_and(|value| remove_in(value, rest, last)),
        Value::Array(_, entries) => step
            .parse::<usize>()
            .ok()
            .and_then(|index| entries.get_mut(index))
            .is_some_and(|value| remove_in(value, rest, last)),
        _ => false,
    }
}
