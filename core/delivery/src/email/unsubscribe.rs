//! Unsubscribe links: signed tokens, and the rule that only a POST unsubscribes.
//!
//! Scanners of mail servers open each link of a mail. A GET therefore changes nothing: it shows a
//! page with a button. The button, and the one-click POST of a mail program (RFC 8058),
//! unsubscribe.
//!
//! A token is `user.mac`, both in base64url, and has no end: a link of an old mail must work. It
//! permits nothing but to unsubscribe its user from e-mail.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use http::Method;
use sha2::Sha256;
use tidewire_stream::UserId;

use crate::Secret;

/// Body of a one-click POST, and value of the header `List-Unsubscribe-Post`.
pub const ONE_CLICK_BODY: &str = "List-Unsubscribe=One-Click";

/// Separates these tokens from others that are made with the same secret.
const PURPOSE: &[u8] = b"tidewire unsubscribe email 1\0";

/// Longest token, in bytes.
const MAX_TOKEN_BYTES: usize = 1_024;

/// A token that was not made by this server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("`token`: not of this server, expected the whole link of a mail")]
pub struct UnsubscribeError;

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

    /// The token of a user's links.
    #[must_use]
    pub fn sign(&self, user: &UserId) -> String {
        let user = user.as_str().as_bytes();
        let mac = self.secrets.first().and_then(|secret| mac(secret, user));
        let mac = mac.map(|mac| mac.finalize().into_bytes());
        let [user, mac] =
            [user, mac.as_deref().unwrap_or_default()].map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        format!("{user}.{mac}")
    }

    /// The user of a token.
    ///
    /// # Errors
    /// This server did not make the token.
    pub fn verify(&self, token: &str) -> Result<UserId, UnsubscribeError> {
        let (user, given) = token
            .split_once('.')
            .filter(|_| token.len() <= MAX_TOKEN_BYTES)
            .ok_or(UnsubscribeError)?;
        let decode = |text| URL_SAFE_NO_PAD.decode(text).map_err(|_| UnsubscribeError);
        let (user, given) = (decode(user)?, decode(given)?);
        let mut macs = self.secrets.iter().filter_map(|secret| mac(secret, &user));
        // The comparison takes the same time for each wrong token.
        if !macs.any(|mac| mac.verify_slice(&given).is_ok()) {
            return Err(UnsubscribeError);
        }
        let user = String::from_utf8(user).map_err(|_| UnsubscribeError)?;
        Ok(UserId::new(&user))
    }
}

fn mac(secret: &Secret, user: &[u8]) -> Option<Hmac<Sha256>> {
    // HMAC takes a key of any length.
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).ok()?;
    mac.update(PURPOSE);
    mac.update(user);
    Some(mac)
}

/// The handler's next step for a request to the unsubscribe URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnsubscribeStep {
    /// Respond with [`CONFIRMATION_PAGE`], and change nothing.
    ShowPage,
    /// Unsubscribe this user from e-mail, and respond with 200.
    Unsubscribe(UserId),
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
    let user = tokens.verify(token)?;
    Ok(match *method {
        Method::POST => UnsubscribeStep::Unsubscribe(user),
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

    #[test]
    fn a_token_names_its_user_alone() {
        let tokens = tokens(&["first"]);
        for user in ["ada", "", "a.b@c", "Ä"] {
            let token = tokens.sign(&UserId::new(user));
            assert_eq!(tokens.verify(&token).unwrap().as_str(), user);
        }
        let token = tokens.sign(&UserId::new("ada"));
        let (_, mac) = token.split_once('.').unwrap();
        let other = URL_SAFE_NO_PAD.encode("eve");
        for forged in [
            format!("{other}.{mac}"),
            format!("{token}A"),
            token.replace('.', ""),
        ] {
            assert_eq!(tokens.verify(&forged), Err(UnsubscribeError), "{forged}");
        }
        for bad in ["", ".", "a.b", "é.é", &"a".repeat(2_000)] {
            assert_eq!(tokens.verify(bad), Err(UnsubscribeError), "{bad}");
        }
    }

    #[test]
    fn secrets_can_be_rotated() {
        let old = tokens(&["old"]).sign(&UserId::new("ada"));
        assert!(tokens(&["new", "old"]).verify(&old).is_ok());
        assert!(tokens(&["new"]).verify(&old).is_err());
        assert!(UnsubscribeTokens::new(Vec::new()).is_none());
    }

    #[test]
    fn a_scanner_that_opens_the_link_changes_nothing() {
        let tokens = tokens(&["s"]);
        let token = tokens.sign(&UserId::new("ada"));
        let step = |method| unsubscribe_step(&tokens, &method, &token).unwrap();
        assert_eq!(step(Method::GET), UnsubscribeStep::ShowPage);
        assert_eq!(step(Method::HEAD), UnsubscribeStep::ShowPage);
        assert_eq!(step(Method::OPTIONS), UnsubscribeStep::RefuseMethod);
        let user = UserId::new("ada");
        assert_eq!(step(Method::POST), UnsubscribeStep::Unsubscribe(user));
        assert!(unsubscribe_step(&tokens, &Method::POST, "x.y").is_err());
        // Without an action the form is sent to the URL of the page, with its token.
        assert!(CONFIRMATION_PAGE.contains("<form method=\"post\">"));
    }
}
