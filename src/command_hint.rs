//! Command hint: a command of this program, as it has to be typed to read the configuration that the
//! server runs with.

use std::path::PathBuf;

use crate::config::{Config, Overrides};

/// Variables that a command needs as the server has them, and that an error may not quote.
const SECRET_VARIABLES: [&str; 3] = [
    "TIDEWIRE_AUTH__HMAC_SECRET",
    "TIDEWIRE_AUTH__PUBLIC_KEY_FILE",
    "TIDEWIRE_AUTH__JWKS_URL",
];

/// The variable of the data folder, which has the development secret.
const STORE_PATH: &str = "TIDEWIRE_STORE__PATH";

/// The configuration file with its whole path, so that a command finds it from any folder.
pub(crate) fn config_file(config: &Config) -> Option<PathBuf> {
    let file = config.file.as_ref()?;
    Some(std::path::absolute(file).unwrap_or_else(|_| file.clone()))
}

/// `tidewire` with these arguments, the server's configuration file, and its data folder where the
/// environment has it. Names the variables that have to be set besides.
pub(crate) fn command(config: &Config, arguments: &str) -> String {
    let variable = |name: &str| std::env::var(name).ok();
    let folder = variable(STORE_PATH).map(|path| format!("{STORE_PATH}={} ", shell_word(&path)));
    let file = config_file(config);
    let file = file.map(|file| format!(" --config {}", shell_word(&file.display().to_string())));
    let command = format!(
        "`{}tidewire {arguments}{}`",
        folder.unwrap_or_default(),
        file.unwrap_or_default()
    );
    let set: Vec<_> = SECRET_VARIABLES
        .into_iter()
        .filter(|name| variable(name).is_some())
        .collect();
    match set.is_empty() {
        true => command,
        false => format!("{command}, with {} as the server has it,", set.join(", ")),
    }
}

/// As [`command`], of one that runs a server: at the address that the command line of this one has.
pub(crate) fn server_command(config: &Config, arguments: &str) -> String {
    let address = address_options(&config.overrides);
    command(config, &format!("{arguments}{address}"))
}

/// The options of the command line for the address, with a space before them.
fn address_options(Overrides { listen, port }: &Overrides) -> String {
    match (listen, port) {
        (Some(listen), _) => format!(" --listen {}", shell_word(listen)),
        (None, Some(port)) => format!(" --port {port}"),
        (None, None) => String::new(),
    }
}

/// A text as one word of a POSIX shell.
fn shell_word(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%=,".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_keeps_its_address() {
        for (listen, port, options) in [
            (None, None, ""),
            (None, Some(9000), " --port 9000"),
            (Some("localhost:9000"), None, " --listen localhost:9000"),
            (Some("[::1]:9000"), None, " --listen '[::1]:9000'"),
        ] {
            let listen = listen.map(str::to_owned);
            assert_eq!(address_options(&Overrides { listen, port }), options);
        }
    }

    #[test]
    fn a_path_is_one_word() {
        for (path, word) in [
            ("/etc/tidewire.toml", "/etc/tidewire.toml"),
            ("/my files/it's.toml", "'/my files/it'\\''s.toml'"),
            ("", "''"),
        ] {
            assert_eq!(shell_word(path), word);
        }
    }
}
