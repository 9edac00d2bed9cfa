//! Tokens: every algorithm, every claim that is judged, and an identity provider
//! that rotates its keys and goes away.

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
    AnonymousPolicy, Authenticator, Claims, Keys, ManualClock, RemoteKeys, Scope, StreamError,
    TokenRules, UserId,
    auth::{Fetched, KeyError, KeySource},
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

fn judge(keys: Keys, now_ms: i64) -> Authenticator {
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
fn a_token_gives_its_identity_until_it_expires() {
    let claims = Claims {
        sub: "ada".into(),
        exp: 100,
        scope: Some("service x".into()),
        ..Claims::default()
    };
    let token = judge(by_secret(), 0).sign(&claims).unwrap();
    let identity = judge(by_secret(), 99_999).verify(&token).unwrap();
    assert_eq!(identity.user().unwrap().as_str(), "ada");
    assert_eq!(identity.expires_at_ms(), Some(100_000));
    assert!(identity.has(Scope::Service) && !identity.has(Scope::Admin));
    assert_refused(judge(by_secret(), 100_000).verify(&token), "has expired");
}

#[test]
fn every_algorithm_proves_its_tokens_and_no_others() {
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
        let judge = judge(keys, 0);
        for other in [
            Algorithm::HS256,
            Algorithm::RS256,
            Algorithm::ES256,
            Algorithm::EdDSA,
        ] {
            let token = sign(other, None, &ada());
            let result = judge.verify(&token);
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
            judge
                .verify(&format!("{signed}.{other_signature}"))
                .is_err()
        );
        assert!(judge.verify(&format!("{signed}.")).is_err());
        assert!(
            judge
                .verify(&format!("{signed}.{}", &signature[1..]))
                .is_err()
        );
    }
}

#[test]
fn a_public_key_is_never_a_shared_secret() {
    // The classic: the public key, which everyone has, as the secret of an HMAC.
    for public in [RSA_PUBLIC, P256_PUBLIC, ED25519_PUBLIC] {
        let judge = judge(Keys::default().pem(public).unwrap(), 0);
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
                assert!(judge.verify(&token).is_err(), "{algorithm:?}");
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
    let judge = judge(all, 0);
    assert!(judge.verify(unsigned).is_err());
    assert!(judge.verify("").is_err());
    assert!(judge.verify("..").is_err());
    // The same algorithm family, another member.
    let rs512 = jsonwebtoken::encode(
        &Header::new(Algorithm::RS512),
        &ada(),
        &private(Algorithm::RS256),
    );
    assert_refused(
        judge.verify(&rs512.unwrap()),
        "no key of this server proves",
    );
}

#[test]
fn what_must_be_understood_is_refused_when_it_is_not() {
    let mut header = Header::new(Algorithm::HS256);
    header.crit = Some(vec!["b64".to_owned()]);
    let token = jsonwebtoken::encode(&header, &ada(), &private(Algorithm::HS256)).unwrap();
    assert_refused(judge(by_secret(), 0).verify(&token), "`crit`");
}

#[test]
fn every_claim_that_is_wrong_has_its_word() {
    let rules = TokenRules {
        audience: vec!["tidewire".to_owned(), "other".to_owned()],
        issuer: vec!["https://id.example.com".to_owned()],
        leeway: Duration::from_secs(5),
    };
    let clock = ManualClock::at(104_999);
    let judge = Authenticator::new(by_secret(), rules, AnonymousPolicy::Read, clock.clone());
    let good = json!({"sub": "ada", "exp": 100, "aud": ["x", "tidewire"],
        "iss": "https://id.example.com", "nbf": 109, "iat": 99.5});
    let identity = judge.verify(&hs256(&good)).unwrap();
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
        assert_refused(judge.verify(&hs256(&claims)), why);
    }
    for key in ["aud", "iss", "exp", "sub"] {
        let mut claims = good.clone();
        claims.as_object_mut().unwrap().remove(key);
        assert!(judge.verify(&hs256(&claims)).is_err(), "{key}");
    }
    clock.set(105_000);
    assert_refused(judge.verify(&hs256(&good)), "has expired");
}

#[test]
fn revoked_tokens_are_refused() {
    let judge = judge(by_secret(), 50_000);
    let by_id = hs256(&with("jti", json!("t1")));
    let by_user = hs256(&with("iat", json!(49)));
    assert!(judge.verify(&by_id).is_ok() && judge.verify(&by_user).is_ok());
    judge
        .revocations()
        .revoke_token("t1", Some(100_000))
        .unwrap();
    assert_refused(judge.verify(&by_id), "was revoked");
    assert!(judge.verify(&by_user).is_ok());
    judge
        .revocations()
        .revoke_user(&UserId::new("ada"))
        .unwrap();
    assert_refused(judge.verify(&by_user), "was revoked");
    // One of later is as good as any.
    assert!(judge.verify(&hs256(&with("iat", json!(51)))).is_ok());
}

#[test]
fn keys_that_cannot_be_used_are_refused_by_name() {
    let error = |text: &str| Keys::default().pem(text).unwrap_err().to_string();
    assert!(error("nothing").contains("-----BEGIN PUBLIC KEY-----"));
    assert!(error(RSA).contains("\"PRIVATE KEY\""));
    assert!(error(&P256_PUBLIC.replace("MFkw", "MFkx")).contains("number 1"));
    let cut = &ED25519_PUBLIC[..60];
    assert!(error(&format!("{RSA_PUBLIC}{cut}")).contains("number 2"));
    let short = Keys::default().secret(b"short").unwrap_err();
    assert_eq!(short, KeyError::ShortSecret(5));
    let public_only = judge(Keys::default().pem(RSA_PUBLIC).unwrap(), 0);
    let error = public_only.sign(&Claims::default()).unwrap_err();
    assert!(error.message().contains("public keys only"), "{error}");
}

/// An identity provider.
#[derive(Debug, Default)]
struct Provider {
    document: Mutex<Option<String>>,
    asked: AtomicUsize,
}

#[derive(Debug)]
struct Door(Arc<Provider>);

impl KeySource for Door {
    fn fetch(&self) -> Fetched<'_> {
        Box::pin(async {
            self.0.asked.fetch_add(1, Ordering::Relaxed);
            // Others come while it answers.
            tokio::task::yield_now().await;
            let document = self.0.document.lock().clone();
            document
                .map(String::into_bytes)
                .ok_or_else(|| "it is down".to_owned())
        })
    }
}

fn web_key(algorithm: Algorithm, id: &str) -> Value {
    let mut key = Jwk::from_encoding_key(&private(algorithm), algorithm).unwrap();
    key.common.key_id = Some(id.to_owned());
    serde_json::to_value(key).unwrap()
}

impl Provider {
    fn holds(&self, keys: &[Value]) {
        *self.document.lock() = Some(json!({"keys": keys}).to_string());
    }

    fn is_down(&self) {
        *self.document.lock() = None;
    }

    fn record_activity(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }
}

fn with_provider() -> (
    Arc<Provider>,
    Arc<ManualClock>,
    Arc<RemoteKeys>,
    Authenticator,
) {
    let provider = Arc::new(Provider::default());
    let clock = ManualClock::at(1_000);
    let remote = RemoteKeys::new(Box::new(Door(provider.clone())), clock.clone());
    let keys = Keys::default().remote(remote.clone());
    let rules = TokenRules::default();
    let judge = Authenticator::new(keys, rules, AnonymousPolicy::Read, clock.clone());
    (provider, clock, remote, judge)
}

#[tokio::test]
async fn keys_of_a_provider_are_told_apart_by_id() {
    let (provider, _, remote, judge) = with_provider();
    let mut rsa_for_encryption = web_key(Algorithm::RS256, "enc");
    rsa_for_encryption["use"] = json!("enc");
    provider.holds(&[
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
            judge.verify(&sign(algorithm, Some(id), &ada())).is_ok(),
            "{id}"
        );
        // Without an id every key of the algorithm is tried.
        assert!(judge.verify(&sign(algorithm, None, &ada())).is_ok(), "{id}");
        assert!(
            judge
                .verify(&sign(algorithm, Some("other"), &ada()))
                .is_err()
        );
    }
    // A secret that a provider publishes is none, and a key keeps to its purpose.
    assert!(
        judge
            .verify(&sign(Algorithm::HS256, Some("secret"), &ada()))
            .is_err()
    );
    assert!(
        judge
            .verify(&sign(Algorithm::RS256, Some("enc"), &ada()))
            .is_err()
    );
    assert_eq!(provider.record_activity(), 1);
}

#[tokio::test]
async fn an_unknown_key_is_asked_for_once() {
    let (provider, clock, remote, judge) = with_provider();
    provider.holds(&[web_key(Algorithm::RS256, "old")]);
    remote.refresh().await;
    provider.holds(&[web_key(Algorithm::ES256, "new")]);
    let token = sign(Algorithm::ES256, Some("new"), &ada());
    assert!(judge.verify(&token).is_err());
    // Many at once: one asks, the others wait for what it gets.
    let all = (0..20).map(|_| judge.authenticate(&token));
    for result in futures::future::join_all(all).await {
        result.unwrap();
    }
    assert_eq!(provider.record_activity(), 2);
    // The old key has gone with its set.
    let old = sign(Algorithm::RS256, Some("old"), &ada());
    assert!(judge.authenticate(&old).await.is_err());
    // Made-up ids do not become requests without end.
    let before = provider.record_activity();
    for n in 0..1_000 {
        let made_up = sign(Algorithm::EdDSA, Some(&n.to_string()), &ada());
        assert!(judge.authenticate(&made_up).await.is_err());
    }
    assert!(
        provider.record_activity() - before <= 4,
        "{}",
        provider.record_activity()
    );
    clock.advance(60_000);
    let before = provider.record_activity();
    let made_up = sign(Algorithm::EdDSA, Some("later"), &ada());
    assert!(judge.authenticate(&made_up).await.is_err());
    assert_eq!(provider.record_activity(), before + 1);
}

#[tokio::test]
async fn the_last_keys_survive_the_provider() {
    let (provider, clock, remote, judge) = with_provider();
    let token = sign(Algorithm::RS256, Some("r"), &ada());
    // Down from the start: the first token brings another try.
    remote.refresh().await;
    assert!(judge.authenticate(&token).await.is_err());
    provider.holds(&[web_key(Algorithm::RS256, "r")]);
    clock.advance(20_000);
    judge.authenticate(&token).await.unwrap();
    for broken in [
        None,
        Some("<html>"),
        Some(r#"{"keys": []}"#),
        Some(r#"{"keys": 1}"#),
    ] {
        match broken {
            None => provider.is_down(),
            Some(text) => *provider.document.lock() = Some(text.to_owned()),
        }
        clock.advance(15_000);
        let before = provider.record_activity();
        remote.refresh().await;
        assert_eq!(provider.record_activity(), before + 1);
        judge.authenticate(&token).await.unwrap();
    }
}
