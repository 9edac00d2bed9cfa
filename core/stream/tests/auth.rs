//! Token verification: every algorithm, every claim, and an identity provider that
//! rotates its keys and becomes unreachable.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::Engine as _;
use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{
    AnonymousPolicy, Authenticator, Claims, Keys, ManualClock, RemoteKeySet, Scope, StreamError,
    TokenRules, UserId,
    auth::{JwksFuture, JwksSource, KeyError},
};

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

const RSA: &str = include_str!("../../../tests/keys/rsa.pem");
const RSA_PUBLIC: &str = include_str!("../../../tests/keys/rsa.pub.pem");
const P256: &str = include_str!("../../../tests/keys/p256.pem");
const P256_PUBLIC: &str = include_str!("../../../tests/keys/p256.pub.pem");
const ED25519: &str = include_str!("../../../tests/keys/ed25519.pem");
const ED25519_PUBLIC: &str = include_str!("../../../tests/keys/ed25519.pub.pem");

fn private(algorithm: Algorithm) -> EncodingKey {
    match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_pem(RSA.as_bytes()).unwrap(),
        Algorithm::ES256 => EncodingKey::from_ec_pem(P256.as_bytes()).unwrap(),
        Algorithm::EdDSA => EncodingKey::from_ed_pem(ED25519.as_bytes()).unwrap(),
        _ => EncodingKey::from_secret(SECRET),
    }
}

fn sign(algorithm: Algorithm, id: Option<&str>, claims: &Value) -> String {
    let mut header = Header::new(algorithm);
    header.kid = id.map(str::to_owned);
    jsonwebtoken::encode(&header, claims, &private(algorithm)).unwrap()
}

fn ada() -> Value {
    json!({"sub": "ada", "exp": 100})
}

fn with(key: &str, value: Value) -> Value {
    let mut claims = ada();
    claims[key] = value;
    claims
}

fn authenticator(keys: Keys, now_ms: i64) -> Authenticator {
    let clock = ManualClock::at(now_ms);
    Authenticator::new(keys, TokenRules::default(), AnonymousPolicy::Read, clock)
}

fn by_secret() -> Keys {
    Keys::default().secret(SECRET).unwrap()
}

fn hs256(claims: &Value) -> String {
    sign(Algorithm::HS256, None, claims)
}

#[track_caller]
fn assert_refused(result: Result<tidewire_stream::Identity, StreamError>, why: &str) {
    let error = result.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unauthenticated);
    assert!(error.message().contains(why), "{why} is not in {error}");
}

#[test]
fn a_token_proves_its_identity_until_it_expires() {
    let claims = Claims {
        sub: "ada".into(),
        exp: 100,
        scope: Some("service x".into()),
        ..Claims::default()
    };
    let token = authenticator(by_secret(), 0).sign(&claims).unwrap();
    let identity = authenticator(by_secret(), 99_999).verify(&token).unwrap();
    assert_eq!(identity.user().unwrap().as_str(), "ada");
    assert_eq!(identity.expires_at_ms(), Some(100_000));
    assert!(identity.has(Scope::Service) && !identity.has(Scope::Admin));
    assert_refused(
        authenticator(by_secret(), 100_000).verify(&token),
        "has expired",
    );
}

#[test]
fn a_refusal_says_what_was_wrong_and_what_was_expected() {
    let verifier = authenticator(by_secret(), 0);
    let token = hs256(&ada());
    let parts: Vec<_> = token.split('.').collect();
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text);
    let other_key = Keys::default().secret(&[7; 32]).unwrap();
    assert_refused(
        authenticator(other_key, 0).verify(&token),
        "its signature is not of a key of this server",
    );
    for text in ["", "garbage", "a.b", "a.b.c", "!.!.!", &"x".repeat(10_000)] {
        assert_refused(
            verifier.verify(text),
            "it is not a JSON Web Token, expected three parts in base64url",
        );
    }
    for header in ["{}", "[]", "nonsense", r#"{"alg":"none"}"#, r#"{"alg":5}"#] {
        let text = format!("{}.{}.{}", encode(header), parts[1], parts[2]);
        assert_refused(
            verifier.verify(&text),
            "expected JSON with an `alg` of HS256",
        );
    }
    assert_refused(
        verifier.verify(&sign(Algorithm::RS256, None, &ada())),
        "no key of this server proves RS256",
    );
    for (claims, why) in [
        (json!({"exp": 100}), "`sub` is missing, expected a text"),
        (json!({"sub": "ada"}), "`exp` is missing, expected a number"),
        (
            with("exp", json!("100")),
            "`exp` has another form, expected",
        ),
        (with("wallets", json!("0x1")), "`wallets` has another form"),
        (json!(["MARKED"]), "its payload is not a JSON object"),
    ] {
        let refused = verifier.verify(&hs256(&claims));
        assert_refused(refused, &format!("the token is not valid: {why}"));
    }
}

#[test]
fn each_key_verifies_tokens_of_its_own_algorithm_only() {
    let keys = [
        (Algorithm::HS256, by_secret()),
        (Algorithm::RS256, Keys::default().pem(RSA_PUBLIC).unwrap()),
        (Algorithm::ES256, Keys::default().pem(P256_PUBLIC).unwrap()),
        (
            Algorithm::EdDSA,
            Keys::default().pem(ED25519_PUBLIC).unwrap(),
        ),
    ];
    for (own, keys) in keys {
        let verifier = authenticator(keys, 0);
        for other in [
            Algorithm::HS256,
            Algorithm::RS256,
            Algorithm::ES256,
            Algorithm::EdDSA,
        ] {
            let token = sign(other, None, &ada());
            let result = verifier.verify(&token);
            assert_eq!(
                result.is_ok(),
                own == other,
                "{own:?} {other:?}: {result:?}"
            );
        }
        let token = sign(own, None, &ada());
        let (signed, signature) = token.rsplit_once('.').unwrap();
        let other_claims = sign(own, None, &with("sub", json!("bob")));
        let other_signature = other_claims.rsplit_once('.').unwrap().1;
        assert!(
            verifier
                .verify(&format!("{signed}.{other_signature}"))
                .is_err()
        );
        assert!(verifier.verify(&format!("{signed}.")).is_err());
        assert!(
            verifier
                .verify(&format!("{signed}.{}", &signature[1..]))
                .is_err()
        );
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    // The known attack: an HMAC whose secret is the public key.
    for public in [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC] {
        let verifier = authenticator(Keys::default().pem(public).unwrap(), 0);
        let der: Vec<u8> = {
            let lines: String = public
                .lines()
                .filter(|line| !line.starts_with('-'))
                .collect();
            base64::engine::general_purpose::STANDARD
                .decode(lines)
                .unwrap()
        };
        for secret in [public.as_bytes(), public.trim().as_bytes(), &der] {
            let key = EncodingKey::from_secret(secret);
            for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
                let token = jsonwebtoken::encode(&Header::new(algorithm), &ada(), &key).unwrap();
                assert!(verifier.verify(&token).is_err(), "{algorithm:?}");
            }
        }
        let as_secret = Keys::default().secret(public.as_bytes());
        assert_eq!(as_secret.unwrap_err(), KeyError::SecretIsPem);
    }
}

#[test]
fn an_unsigned_token_is_refused() {
    // {"alg":"none"} and {"sub":"ada","exp":100}.
    let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhZGEiLCJleHAiOjEwMH0.";
    let all = by_secret()
        .pem(&[RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC].concat())
        .unwrap();
    let verifier = authenticator(all, 0);
    assert!(verifier.verify(unsigned).is_err());
    assert!(verifier.verify("").is_err());
    assert!(verifier.verify("..").is_err());
    // The same algorithm family with another hash.
    let rs512 = jsonwebtoken::encode(
        &Header::new(Algorithm::RS512),
        &ada(),
        &private(Algorithm::RS256),
    );
    assert_refused(
        verifier.verify(&rs512.unwrap()),
        "no key of this server proves",
    );
}

#[test]
fn a_token_with_an_unsupported_critical_header_is_refused() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".to_owned()]);
    let token = jsonwebtoken::encode(&header, &ada(), &private(Algorithm::HS256)).unwrap();
    assert_refused(authenticator(by_secret(), 0).verify(&token), "`crit`");
}

#[test]
fn the_error_names_the_claim_that_is_wrong() {
    let rules = TokenRules {
        audience: vec!["tidewire".to_owned(), "other".to_owned()],
        issuer: vec!["https://id.example.com".to_owned()],
        leeway: Duration::from_secs(5),
    };
    let clock = ManualClock::at(104_999);
    let verifier = Authenticator::new(by_secret(), rules, AnonymousPolicy::Read, clock.clone());
    let good = json!({"sub": "ada", "exp": 100, "aud": ["x", "tidewire"],
        "iss": "https://id.example.com", "nbf": 109, "iat": 99.5});
    let identity = verifier.verify(&hs256(&good)).unwrap();
    assert_eq!(identity.expires_at_ms(), Some(105_000));
    let wrong = [
        ("aud", json!("tidewire2"), "`aud`"),
        ("aud", Value::Null, ""),
        ("iss", json!("https://id.example.org"), "`iss`"),
        ("iss", Value::Null, "`iss`"),
        ("nbf", json!(110), "not valid yet"),
        ("exp", json!(99), "has expired"),
        ("exp", json!("100"), "not valid"),
        ("sub", json!("a b"), "subject"),
        ("sub", json!(""), "subject"),
    ];
    for (key, value, why) in wrong {
        let mut claims = good.clone();
        claims[key] = value;
        assert_refused(verifier.verify(&hs256(&claims)), why);
    }
    for key in ["aud", "iss", "exp", "sub"] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(key);
        assert!(verifier.verify(&hs256(&claims)).is_err(), "{key}");
    }
    clock.set(105_000);
    assert_refused(verifier.verify(&hs256(&good)), "has expired");
}

#[test]
fn revoked_tokens_are_refused() {
    let verifier = authenticator(by_secret(), 50_000);
    let by_id = hs256(&with("jti", json!("t1")));
    let by_user = hs256(&with("iat", json!(49)));
    assert!(verifier.verify(&by_id).is_ok() && verifier.verify(&by_user).is_ok());
    verifier
        .revocations()
        .revoke_token("t1", Some(100_000))
        .unwrap();
    assert_refused(verifier.verify(&by_id), "was revoked");
    assert!(verifier.verify(&by_user).is_ok());
    verifier
        .revocations()
        .revoke_user(&UserId::new("ada"), None)
        .unwrap();
    assert_refused(verifier.verify(&by_user), "was revoked");
    // A token issued later is valid. A time in milliseconds tells nothing.
    assert!(verifier.verify(&hs256(&with("iat", json!(51)))).is_ok());
    let in_ms = hs256(&with("iat", json!(1_750_000_000_000_i64)));
    assert_refused(verifier.verify(&in_ms), "was revoked");
}

#[test]
fn unusable_keys_are_refused_and_named() {
    let error = |text: &str| Keys::default().pem(text).unwrap_err().to_string();
    assert!(error("nothing").contains("-----BEGIN PUBLIC KEY-----"));
    assert!(error(RSA).contains("\"PRIVATE KEY\""));
    assert!(error(&P256_PUBLIC.replace("MFkw", "MFkx")).contains("number 1"));
    let cut = &ED25519_PUBLIC[..60];
    assert!(error(&format!("{RSA_PUBLIC}{cut}")).contains("number 2"));
    let short = Keys::default().secret(b"short").unwrap_err();
    assert_eq!(short, KeyError::ShortSecret(5));
    let public_only = authenticator(Keys::default().pem(RSA_PUBLIC).unwrap(), 0);
    let error = public_only.sign(&Claims::default()).unwrap_err();
    assert!(error.message().contains("public keys only"), "{error}");
}

/// A stand-in for an identity provider.
#[derive(Debug, Default)]
struct Provider {
    document: Mutex<Option<String>>,
    fetches: AtomicUsize,
}

#[derive(Debug)]
struct ProviderSource(Arc<Provider>);

impl JwksSource for ProviderSource {
    fn fetch(&self) -> JwksFuture<'_> {
        Box::pin(async {
            self.0.fetches.fetch_add(1, Ordering::Relaxed);
            // Other callers arrive while the fetch runs.
            tokio::task::yield_now().await;
            let document = self.0.document.lock().clone();
            document
                .map(String::into_bytes)
                .ok_or_else(|| "the provider is down".to_owned())
        })
    }
}

fn web_key(algorithm: Algorithm, id: &str) -> Value {
    let mut key = Jwk::from_encoding_key(&private(algorithm), algorithm).unwrap();
    key.common.key_id = Some(id.to_owned());
    serde_json::to_value(key).unwrap()
}

impl Provider {
    fn publish_keys(&self, keys: &[Value]) {
        *self.document.lock() = Some(json!({"keys": keys}).to_string());
    }

    fn go_down(&self) {
        *self.document.lock() = None;
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

fn with_provider() -> (
    Arc<Provider>,
    Arc<ManualClock>,
    Arc<RemoteKeySet>,
    Authenticator,
) {
    let provider = Arc::new(Provider::default());
    let clock = ManualClock::at(1_000);
    let remote = RemoteKeySet::new(Box::new(ProviderSource(provider.clone())), clock.clone());
    let keys = Keys::default().remote(remote.clone());
    let rules = TokenRules::default();
    let verifier = Authenticator::new(keys, rules, AnonymousPolicy::Read, clock.clone());
    (provider, clock, remote, verifier)
}

#[tokio::test]
async fn keys_of_a_provider_are_selected_by_id() {
    let (provider, _, remote, verifier) = with_provider();
    let mut rsa_for_encryption = web_key(Algorithm::RS256, "enc");
    rsa_for_encryption["use"] = json!("enc");
    provider.publish_keys(&[
        web_key(Algorithm::HS256, "secret"),
        rsa_for_encryption,
        json!({"kty": "later", "kid": "x"}),
        json!(7),
        web_key(Algorithm::RS256, "r"),
        web_key(Algorithm::ES256, "e"),
        web_key(Algorithm::EdDSA, "d"),
    ]);
    remote.refresh().await;
    for (algorithm, id) in [
        (Algorithm::RS256, "r"),
        (Algorithm::ES256, "e"),
        (Algorithm::EdDSA, "d"),
    ] {
        assert!(
            verifier.verify(&sign(algorithm, Some(id), &ada())).is_ok(),
            "{id}"
        );
        // A token without a key id is verified with every key of its algorithm.
        assert!(
            verifier.verify(&sign(algorithm, None, &ada())).is_ok(),
            "{id}"
        );
        assert!(
            verifier
                .verify(&sign(algorithm, Some("other"), &ada()))
                .is_err()
        );
    }
    // A published secret is ignored, and so is a key for encryption.
    assert!(
        verifier
            .verify(&sign(Algorithm::HS256, Some("secret"), &ada()))
            .is_err()
    );
    assert!(
        verifier
            .verify(&sign(Algorithm::RS256, Some("enc"), &ada()))
            .is_err()
    );
    assert_eq!(provider.fetches(), 1);
}

#[tokio::test]
async fn an_unknown_key_causes_one_fetch() {
    let (provider, clock, remote, verifier) = with_provider();
    provider.publish_keys(&[web_key(Algorithm::RS256, "old")]);
    remote.refresh().await;
    provider.publish_keys(&[web_key(Algorithm::ES256, "new")]);
    let token = sign(Algorithm::ES256, Some("new"), &ada());
    assert!(verifier.verify(&token).is_err());
    // Many callers at once: one fetches, and the others wait for its result.
    let all = (0..20).map(|_| verifier.authenticate(&token));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    assert_eq!(provider.fetches(), 2);
    // The old key is no longer in the set.
    let old = sign(Algorithm::RS256, Some("old"), &ada());
    assert!(verifier.authenticate(&old).await.is_err());
    // Made-up key ids do not cause unlimited fetches.
    let before = provider.fetches();
    for n in 0..1_000 {
        let made_up = sign(Algorithm::EdDSA, Some(&n.to_string()), &ada());
        assert!(verifier.authenticate(&made_up).await.is_err());
    }
    assert!(provider.fetches() - before <= 4, "{}", provider.fetches());
    clock.advance(60_000);
    let before = provider.fetches();
    let made_up = sign(Algorithm::EdDSA, Some("later"), &ada());
    assert!(verifier.authenticate(&made_up).await.is_err());
    assert_eq!(provider.fetches(), before + 1);
}

#[tokio::test]
async fn the_last_keys_stay_in_force_while_the_provider_is_down() {
    let (provider, clock, remote, verifier) = with_provider();
    let token = sign(Algorithm::RS256, Some("r"), &ada());
    // Down from the start: the first token causes another attempt.
    remote.refresh().await;
    assert!(verifier.authenticate(&token).await.is_err());
    provider.publish_keys(&[web_key(Algorithm::RS256, "r")]);
    clock.advance(20_000);
    verifier.authenticate(&token).await.unwrap();
    for broken in [
        None,
        Some("<html>"),
        Some(r#"{"keys": []}"#),
        Some(r#"{"keys": 1}"#),
    ] {
        match broken {
            None => provider.go_down(),
            Some(text) => *provider.document.lock() = Some(text.to_owned()),
        }
        clock.advance(15_000);
        let before = provider.fetches();
        remote.refresh().await;
        assert_eq!(provider.fetches(), before + 1);
        verifier.authenticate(&token).await.unwrap();
    }
}
