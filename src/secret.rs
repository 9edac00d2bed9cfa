//! Development secret: signs tokens on loopback where no key is configured.

use std::{
    fs,
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use tidewire_stream::auth::MIN_SECRET_BYTES;

/// Name of the file in the data folder.
const FILE: &str = "hmac_secret";

/// A development secret.
pub(crate) struct OwnSecret {
    pub(crate) text: String,
    /// Whether it was made just now. No running server knows it then.
    pub(crate) is_new: bool,
}

/// Checks the secret in the data folder, if there is one.
pub(crate) fn check(folder: &Path) -> anyhow::Result<()> {
    match folder.join(FILE).exists() {
        true => own_secret(folder).map(drop),
        false => Ok(()),
    }
}

/// Reads the secret from the data folder, or creates one that only this system user can read.
pub(crate) fn own_secret(folder: &Path) -> anyhow::Result<OwnSecret> {
    let path = folder.join(FILE);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let secret = text.trim();
            if secret.len() < MIN_SECRET_BYTES {
                bail!(
                    "the secret in {} is {} bytes long, expected {MIN_SECRET_BYTES} at least: put a copy of the file back, or remove it. The server then creates another secret, and refuses the tokens of this one",
                    path.display(),
                    secret.len()
                );
            }
            Ok(OwnSecret {
                text: secret.to_owned(),
                is_new: false,
            })
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let secret = format!(
                "{:032x}{:032x}",
                rand::random::<u128>(),
                rand::random::<u128>()
            );
            write(folder, &secret)
                .with_context(|| format!("cannot write the secret {}", path.display()))?;
            Ok(OwnSecret {
                text: secret,
                is_new: true,
            })
        }
        Err(error) => {
            Err(error).with_context(|| format!("cannot read the secret {}", path.display()))
        }
    }
}

/// Writes the secret whole or not at all: a crash of the machine leaves no file, or this one.
fn write(folder: &Path, secret: &str) -> std::io::Result<()> {
    fs::create_dir_all(folder)?;
    // A name of its own: the server and `tidewire token` may write at the same time.
    let temporary = folder.join(format!("{FILE}.{:08x}", rand::random::<u32>()));
    let written = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&temporary)
        .and_then(|mut file| {
            file.write_all(secret.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, folder.join(FILE))?;
            fs::File::open(folder)?.sync_all()
        });
    if written.is_err() {
        // The error of the write counts.
        let _ = fs::remove_file(&temporary);
    }
    written
}
