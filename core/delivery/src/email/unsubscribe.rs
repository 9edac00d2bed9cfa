//! Unsubscribe links: signed tokens, and the rule that only a POST unsubscribes.
//!
//! Scanners of mail servers open each link of a mail. A GET therefore changes nothing: it shows a
//! page with a button. The button, and the one-click POST of a mail program (RFC 8058),
//! unsubscribe.
//!
//! A token is `user.address.mac`, in base64url, and has no end: a link of an old mail must work.
//! `address` is the hash of the address to which the mail went. The token permits nothing but to
//! send no more mails to this address of its user: the user may have another one by now.
//!
//! Tokens of earlier versions are `user.mac`. They name no address.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use http::Method;
use sha2::{Digest as _, Sha256};
use tidewire_stream::UserId;

use crate::Secret;

/// Body of a one-click POST, and value of the header `List-Unsubscribe-Post`.
pub const ONE_CLICK_BODY: &str = "List-Unsubscribe=One-Click";

/// Separates these tokens from others that are made with the same secret.
const PURPOSE: &[u8] = b"tidewire unsubscribe email 2\0";

/// The same, of earlier versions.
const USER_PURPOSE: &[u8] = b"tidewire unsubscribe email 1\0";

/// Longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 1_024;

/// A token that was not made by this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`token`: not of this server, expected the whole link of a mail")]
pub struct UnsubscribeError;

/// Hash of a mail address. Letter case makes no difference: mail servers ignore it in domains, and
/// nearly all do in names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AddressHash([u8; 32]);

impl AddressHash {
    /// The hash of an address.
    #[must_use]
    pub fn of(address: &str) -> Self {
        Self(Sha256::digest(address.to_lowercase()).into())
    }

    /// Its bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The content of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsubscribeLink {
    /// The user.
    pub user: UserId,
    /// The address to which the mail went. None in a token of an earlier version.
    pub address: Option<AddressHash>,
}

/// Signs and verifies the tokens of unsubscribe links.
#[derive(Debug, Clone)]
pub struct UnsubscribeTokens {
    /// One at least.
    secrets: Vec<Secret>,
}

impl UnsubscribeTokens {
    /// Tokens that the first secret signs and any one verifies. `None` without a secret.
    #[must_use]
    pub fn new(secrets: Vec<Secret>) -> Option<Self> {
        (!secrets.is_empty()).then_some(Self { secrets })
    }

    /// The token of the links in a user's mails to an address.
    #[must_use]
    pub fn sign(&self, user: &UserId, address: &str) -> String {
        let (user, address) = (user.as_str().as_bytes(), AddressHash::of(address));
        let parts = [address.as_bytes(), user];
        let secret = self.secrets.first();
        let mac = secret.and_then(|secret| mac(secret, PURPOSE, &parts));
        let mac = mac.map(|mac| mac.finalize().into_bytes());
        let parts = [user, address.as_bytes(), mac.as_deref().unwrap_or_default()];
        parts.map(|bytes| URL_SAFE_NO_PAD.encode(bytes)).join(".")
    }

    /// The content of a token.
    ///
    /// # Errors
    /// This server did not make the token.
    pub fn verify(&self, token: &str) -> Result<UnsubscribeLink, UnsubscribeError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(UnsubscribeError);
        }
        let decode = |text| URL_SAFE_NO_PAD.decode(text).map_err(|_| UnsubscribeError);
        let parts: Vec<_> = token.split('.').map(decode).collect::<Result<_, _>>()?;
        let (user, address) = match &parts[..] {
            [user, address, given] => {
                // The hash has a fixed length, so that no other user and address have its bytes.
                let address = <[u8; 32]>::try_from(address.as_slice());
                let address = address.map_err(|_| UnsubscribeError)?;
                self.check(PURPOSE, &[&address, user], given)?;
                (user, Some(AddressHash(address)))
            }
            [user, given] => {
                self.check(USER_PURPOSE, &[user], given)?;
                (user, None)
            }
            _ => return Err(UnsubscribeError),
        };
        let user = std::str::from_utf8(user).map_err(|_| UnsubscribeError)?;
        Ok(UnsubscribeLink {
            user: UserId::new(user),
            address,
        })
    }

    fn check(&self, purpose: &[u8], parts: &[&[u8]], given: &[u8]) -> Result<(), UnsubscribeError> {
        let secrets = self.secrets.iter();
        let mut macs = secrets.filter_map(|secret| mac(secret, purpose, parts));
        // The comparison takes the same time for each wrong token.
        match macs.any(|mac| mac.verify_slice(given).is_ok()) {
            true => Ok(()),
            false => Err(UnsubscribeError),
        }
    }
}

fn mac(secret: &Secret, purpose: &[u8], parts: &[&[u8]]) -> Option<Hmac<Sha256>> {
    // HMAC takes a key of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).ok()?;
    mac.update(purpose);
    parts.iter().for_each(|part| mac.update(part));
    Some(mac)
}

/// The handler's next step for a request to the unsubscribe URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnsubscribeStep {
    /// Respond with [`CONFIRMATION_PAGE`], and change nothing.
    ShowPage,
    /// Unsubscribe the link's address of its user, and respond with 200.
    Unsubscribe(UnsubscribeLink),
    /// Respond with 405.
    RefuseMethod,
}

/// Decides what a request to the unsubscribe URL does. The body of a POST does not count: the
/// button of the page and mail programs send different ones.
///
/// # Errors
/// This server did not make the token. Respond with 400.
pub fn unsubscribe_step(
    tokens: &UnsubscribeTokens,
    method: &Method,
    token: &str,
) -> Result<UnsubscribeStep, UnsubscribeError> {
    let link = tokens.verify(token)?;
    Ok(match *method {
        Method::POST => UnsubscribeStep::Unsubscribe(link),
        Method::GET | Method::HEAD => UnsubscribeStep::ShowPage,
        _ => UnsubscribeStep::RefuseMethod,
    })
}

/// The page that a browser shows for a link: one button, which sends a POST to the same URL.
pub const CONFIRMATION_PAGE: &str = "\
<!doctype html>
<html lang=\"en\"><head><meta charset=\"utf-8\"><title>Unsubscribe</title></head>
<body style=\"font-family:sans-serif\">
<p>Stop e-mail notifications?</p>
<form method=\"post\"><button>Unsubscribe</button></form>
</body></html>
";

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(secrets: &[&str]) -> UnsubscribeTokens {
        let secrets = secrets.iter().map(|secret| Secret::new(*secret));
        UnsubscribeTokens::new(secrets.collect()).unwrap()
    }

    const ADDRESS: &str = "Ada@example.com";

    /// A token of an earlier version.
    fn old_token(secret: &str, user: &str) -> String {
        let mac = mac(&Secret::new(secret), USER_PURPOSE, &[user.as_bytes()]).unwrap();
        let [user, mac] = [user.as_bytes(), &mac.finalize().into_bytes()]
            .map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        format!("{user}.{mac}")
    }

    #[test]
    fn a_token_names_its_user_and_the_address() {
        let tokens = tokens(&["first"]);
        for user in ["ada", "", "a.b@c", "Ä", &"u".repeat(250)] {
            let token = tokens.sign(&UserId::new(user), ADDRESS);
            let link = tokens.verify(&token).unwrap();
            assert_eq!(link.user.as_str(), user);
            assert_eq!(link.address, Some(AddressHash::of("ada@EXAMPLE.com")));
            assert_ne!(link.address, Some(AddressHash::of("bob@example.com")));
        }
        let token = tokens.sign(&UserId::new("ada"), ADDRESS);
        let parts: Vec<_> = token.split('.').collect();
        let (user, address, mac) = (parts[0], parts[1], parts[2]);
        let eve = URL_SAFE_NO_PAD.encode("eve");
        let other = tokens.sign(&UserId::new("ada"), "new@example.com");
        let other = other.split('.').nth(1).unwrap();
        for forged in [
            format!("{eve}.{address}.{mac}"),
            format!("{user}.{other}.{mac}"),
            format!("{user}.{mac}"),
            format!("{user}..{mac}"),
            format!("{token}A"),
            format!("{token}."),
            token.replace('.', ""),
        ] {
            assert_eq!(tokens.verify(&forged), Err(UnsubscribeError), "{forged}");
        }
        for bad in ["", ".", "..", "a.b", "a.b.c", "é.é", &"a".repeat(2_000)] {
            assert_eq!(tokens.verify(bad), Err(UnsubscribeError), "{bad}");
        }
    }

    #[test]
    fn a_token_of_an_earlier_version_names_its_user_alone() {
        let tokens = tokens(&["first"]);
        let link = UnsubscribeLink {
            user: UserId::new("ada"),
            address: None,
        };
        let token = old_token("first", "ada");
        assert_eq!(tokens.verify(&token), Ok(link));
        assert!(tokens.verify(&old_token("other", "ada")).is_err());
    }

    #[test]
    fn secrets_can_be_rotated() {
        let old = tokens(&["old"]).sign(&UserId::new("ada"), ADDRESS);
        assert!(tokens(&["new", "old"]).verify(&old).is_ok());
        assert!(tokens(&["new"]).verify(&old).is_err());
        assert!(UnsubscribeTokens::new(Vec::new()).is_none());
    }

    #[test]
    fn a_scanner_that_opens_the_link_changes_nothing() {
        let tokens = tokens(&["s"]);
        let token = tokens.sign(&UserId::new("ada"), ADDRESS);
        let step = |method| unsubscribe_step(&tokens, &method, &token).unwrap();
        assert_eq!(step(Method::GET), UnsubscribeStep::ShowPage);
        assert_eq!(step(Method::HEAD), UnsubscribeStep::ShowPage);
        assert_eq!(step(Method::OPTIONS), UnsubscribeStep::RefuseMethod);
        let link = UnsubscribeLink {
            user: UserId::new("ada"),
            address: Some(AddressHash::of(ADDRESS)),
        };
        assert_eq!(step(Method::POST), UnsubscribeStep::Unsubscribe(link));
        assert!(unsubscribe_step(&tokens, &Method::POST, "x.y").is_err());
        // Without an action the form is sent to the URL of the page, with its token.
        assert!(CONFIRMATION_PAGE.contains("<form method=\"post\">"));
    }
}
