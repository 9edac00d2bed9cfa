//! Alert rules and their templates.

use tidewire_alert::{
    Catalog, Decimal, Evaluator, EvaluatorConfig, Input, Limits, Now, Rule, RuleState, Subject,
    Template, TemplateFields, Tick,
};
use tidewire_proto::{json, v1::AlertRule};

use super::edits::{Verdict, fuzz, texts};

const RULES: [&str; 8] = [
    r#"{"condition":{"kind":"price_above","symbol":"BTC-USD","threshold":100000.5},"repeat":"once","cooldownMs":60000,"enabled":true}"#,
    r#"{"condition":{"kind":"price_crosses","symbol":"BTC-USD","threshold":1.5,"direction":"either","hysteresis":0.25},"repeat":"recurring","enabled":true}"#,
    r#"{"condition":{"kind":"price_channel","symbol":"ETH-USD","low":1,"high":2.5,"on":"exit"},"repeat":{"times":3},"enabled":false}"#,
    r#"{"condition":{"kind":"percent_change","symbol":"BTC-USD","percent":-5.5,"windowMs":60000},"repeat":"recurring","enabled":true}"#,
    r#"{"condition":{"kind":"moving_average_cross","symbol":"BTC-USD","fastMs":60000,"slowMs":300000,"direction":"up"},"repeat":"recurring","enabled":true}"#,
    r#"{"condition":{"kind":"portfolio_drawdown","portfolio":"main","percent":10,"windowMs":60000},"repeat":"recurring","enabled":true}"#,
    r#"{"condition":{"kind":"gas_below","chain":1,"gwei":12.5},"repeat":"recurring","enabled":true}"#,
    r#"{"condition":{"kind":"all","conditions":[{"kind":"any","conditions":[{"kind":"price_below","symbol":"BTC-USD","threshold":0.0000001},{"kind":"price_stale","symbol":"BTC-USD","afterMs":5000}]},{"kind":"volume_spike","symbol":"BTC-USD","multiple":3,"windowMs":60000}]},"repeat":"once","enabled":true}"#,
];

struct Names;

impl Catalog for Names {
    fn symbol(&self, name: &str) -> Option<String> {
        self.symbols().into_iter().find(|known| known == name)
    }

    fn symbols(&self) -> Vec<String> {
        vec!["BTC-USD".to_owned(), "ETH-USD".to_owned()]
    }

    fn has_chain(&self, chain: u64) -> bool {
        chain == 1
    }

    fn has_currency(&self, currency: &str) -> bool {
        currency == "USD"
    }
}

#[test]
fn rules() {
    fuzz(&texts(&RULES), |bytes| {
        let Ok(message) = json::from_slice::<AlertRule>(bytes) else {
            return Verdict::Refused;
        };
        let now = Now {
            wall_ms: 1_700_000_000_000,
            monotonic_ms: 1,
        };
        let rule = match Rule::from_proto(&message, "ada", None, &Limits::default(), &Names, now) {
            Ok(rule) => rule,
            Err(error) => {
                assert!(!error.field.is_empty() && !error.problem.is_empty());
                return Verdict::Refused;
            }
        };
        // An accepted rule is restored alike, and can be judged.
        assert_eq!(Rule::restore(&message, "ada", 1).as_ref(), Ok(&rule));
        let mut evaluator = Evaluator::new(EvaluatorConfig::default());
        evaluator.insert(0, &rule, RuleState::new(), now).unwrap();
        let id = evaluator.intern(&Subject::Symbol("BTC-USD".into()));
        for (number, price) in ["1", "100001", "79228162514264337593543950335"]
            .iter()
            .enumerate()
        {
            let later = Now {
                monotonic_ms: 70_000 * number as u64 + 2,
                ..now
            };
            let tick = Tick::new(price.parse().unwrap(), 0);
            let volume = Some(Decimal::MAX);
            evaluator
                .apply(id, Input::Price { tick, volume }, later)
                .unwrap();
        }
        while evaluator.poll(usize::MAX, &mut Vec::new()) {}
        let state = evaluator.state(0, now).unwrap();
        assert_eq!(RuleState::decode(&state.encode()), Some(state));
        assert!(evaluator.explain(0, &rule, now).is_some());
        evaluator.remove(0);
        assert_eq!(evaluator.counters().signals, 0);
        Verdict::Accepted
    });
}

#[test]
fn states() {
    let seeds = [RuleState::new().encode(), {
        let mut bytes = RuleState::new().encode();
        bytes.extend(5_i64.to_le_bytes());
        bytes
    }];
    fuzz(&seeds, |bytes| match RuleState::decode(bytes) {
        Some(state) => {
            assert_eq!(RuleState::decode(&state.encode()), Some(state));
            Verdict::Accepted
        }
        None => Verdict::Refused,
    });
}

#[test]
fn templates() {
    let seeds = texts(&[
        "{symbol} is at {price}, {{threshold}} is {threshold}",
        "{name}: {value} after {previous} at {time}",
        "é{{{symbol}}}",
    ]);
    fuzz(&seeds, |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else {
            return Verdict::Refused;
        };
        let Ok(template) = Template::parse(text) else {
            return Verdict::Refused;
        };
        let fields = TemplateFields {
            symbol: Some("{price}"),
            ..TemplateFields::default()
        };
        assert!(template.render(&fields).len() <= 4_096);
        Verdict::Accepted
    });
}
