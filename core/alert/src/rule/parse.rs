//! Parser and checks of rules. Each error names the field in its JSON form.

use rust_decimal::Decimal;
use tidewire_proto::v1::{
    self, AlertCondition, AlertRule, ChannelEdge, ConditionList, CrossDirection,
    PortfolioCondition, TransactionState, alert_condition::Kind, alert_repeat,
};

use super::{
    Condition, Leaf, Outcome, Repeat, Rule, SignalKind, Test,
    numbers::{change, decimal, direction, gwei, hash, number},
};
use crate::{
    Catalog, Limits, Now, RuleError, Subject, Template,
    catalog::{one_of, symbol_hint},
};

/// Checks that only concern rules from outside.
struct Registration<'a> {
    limits: &'a Limits,
    catalog: &'a dyn Catalog,
}

struct Parser<'a> {
    owner: &'a str,
    registration: Option<Registration<'a>>,
    /// Tests so far.
    leaves: usize,
}

/// The kinds of a condition, as an error expects them.
const KINDS: &str = "one of price_above, price_below, price_crosses, price_channel, \
                     percent_change, moving_average_cross, volume_spike, price_stale, \
                     portfolio_above, portfolio_below, portfolio_change, portfolio_drawdown, \
                     gas_above, gas_below, transaction_state, all, any";

/// September 2001, in milliseconds since the Unix epoch. An earlier time is one in seconds, by
/// mistake.
pub(crate) const EARLIEST_MS: i64 = 1_000_000_000_000;

/// Levels and tests that any parser accepts, so that a malformed record cannot recurse deeply.
const MOST_DEPTH: usize = 16;
const MOST_LEAVES: usize = 16;

pub(super) fn check(
    rule: &AlertRule,
    owner: &str,
    template: Option<&str>,
    limits: &Limits,
    catalog: &dyn Catalog,
    now: Now,
) -> Outcome<Rule> {
    let registration = Some(Registration { limits, catalog });
    let checked = parse(rule, owner, registration, 1)?;
    if rule.name().len() > limits.name_bytes {
        let problem = format!(
            "{} bytes, expected at most {}",
            rule.name().len(),
            limits.name_bytes
        );
        return Err(RuleError::new("name", problem));
    }
    if let Some(cooldown_ms) = rule.cooldown_ms
        && cooldown_ms > limits.max_cooldown_ms
    {
        let problem = format!("{cooldown_ms}, expected at most {}", limits.max_cooldown_ms);
        return Err(RuleError::new("cooldownMs", problem));
    }
    if let Some(expires_at) = rule.expires_at
        && expires_at <= now.wall_ms
    {
        let problem = format!(
            "{expires_at} is in the past, expected a time after {}, in milliseconds since the Unix epoch",
            now.wall_ms
        );
        return Err(RuleError::new("expiresAt", problem));
    }
    if let Some(snoozed_until) = rule.snoozed_until
        && snoozed_until != 0
        && snoozed_until < EARLIEST_MS
    {
        let problem = format!(
            "{snoozed_until} is before September 2001, expected milliseconds since the Unix epoch, or 0 for none"
        );
        return Err(RuleError::new("snoozedUntil", problem));
    }
    if let Some(text) = template {
        if text.len() > limits.template_bytes {
            let problem = format!(
                "{} bytes, expected at most {}",
                text.len(),
                limits.template_bytes
            );
            return Err(RuleError::new("template", problem));
        }
        Template::parse(text)?;
    }
    Ok(checked)
}

pub(super) fn restore(rule: &AlertRule, owner: &str, version: u32) -> Outcome<Rule> {
    parse(rule, owner, None, version)
}

fn parse(
    rule: &AlertRule,
    owner: &str,
    registration: Option<Registration<'_>>,
    version: u32,
) -> Outcome<Rule> {
    let mut parser = Parser {
        owner,
        registration,
        leaves: 0,
    };
    let condition = rule.condition.as_ref();
    let condition = condition.ok_or_else(|| missing("condition", "a condition"))?;
    let parsed = parser.condition(condition, "condition", 0)?;
    Ok(Rule {
        condition: parsed,
        repeat: repeat(rule)?,
        cooldown_ms: u32::try_from(rule.cooldown_ms.unwrap_or(0)).unwrap_or(u32::MAX),
        expires_at_ms: rule.expires_at,
        snoozed_until_ms: rule.snoozed_until,
        is_enabled: rule.enabled.unwrap_or(true),
        version,
    })
}

pub(super) fn missing(field: &str, expected: &str) -> RuleError {
    RuleError::new(field, format!("missing, expected {expected}"))
}

fn repeat(rule: &AlertRule) -> Outcome<Repeat> {
    let repeat = match &rule.repeat {
        None => None,
        // A kind that this version does not know is read as none, and must not become `once`.
        Some(repeat) => Some(repeat.repeat.ok_or_else(|| {
            let problem = "empty, expected one of `once`, `recurring` and `times`";
            RuleError::new("repeat", problem)
        })?),
    };
    Ok(match repeat {
        None | Some(alert_repeat::Repeat::Once(_)) => Repeat::Times(1),
        Some(alert_repeat::Repeat::Recurring(_)) => Repeat::Recurring,
        Some(alert_repeat::Repeat::Times(times)) if (1..u32::MAX).contains(&times) => {
            Repeat::Times(times)
        }
        Some(alert_repeat::Repeat::Times(times)) => {
            let problem = format!(
                "{times}, expected a number of fires from 1 to {}",
                u32::MAX - 1
            );
            return Err(RuleError::new("repeat.times", problem));
        }
    })
}

/// Whether a condition has a test of a moment that must hold together with others.
fn has_crossing(condition: &Condition) -> bool {
    condition
        .leaves()
        .iter()
        .any(|leaf| leaf.test.is_crossing())
}

impl Parser<'_> {
    fn condition(
        &mut self,
        condition: &AlertCondition,
        field: &str,
        depth: usize,
    ) -> Outcome<Condition> {
        let kind = condition.kind.as_ref();
        let kind = kind.ok_or_else(|| missing(&format!("{field}.kind"), KINDS))?;
        match kind {
            Kind::All(list) => {
                let conditions = self.list(list, field, depth)?;
                let crossings = conditions.iter().filter(|one| has_crossing(one)).count();
                if crossings > 1 {
                    return Err(RuleError::new(
                        field,
                        "two crossings in `all`, which two moments can never satisfy together; \
                         expected at most one crossing, with price_above or price_below for the others",
                    ));
                }
                Ok(Condition::All(conditions))
            }
            Kind::Any(list) => Ok(Condition::Any(self.list(list, field, depth)?)),
            leaf => {
                self.leaves += 1;
                let limit = self
                    .registration
                    .as_ref()
                    .map_or(MOST_LEAVES, |registration| {
                        registration.limits.conditions.min(MOST_LEAVES)
                    });
                if self.leaves > limit {
                    let problem = format!("more than {limit} conditions, expected at most {limit}");
                    return Err(RuleError::new("condition", problem));
                }
                Ok(Condition::Leaf(self.leaf(leaf, field)?))
            }
        }
    }

    fn list(&mut self, list: &ConditionList, field: &str, depth: usize) -> Outcome<Vec<Condition>> {
        let limit = self
            .registration
            .as_ref()
            .map_or(MOST_DEPTH, |registration| {
                registration.limits.depth.min(MOST_DEPTH)
            });
        if depth + 1 > limit {
            let problem = format!(
                "`all` and `any` nested deeper than {limit} levels, expected at most {limit}"
            );
            return Err(RuleError::new(field, problem));
        }
        if list.conditions.is_empty() {
            return Err(RuleError::new(
                format!("{field}.conditions"),
                "empty, expected at least one condition",
            ));
        }
        let conditions = list.conditions.iter().enumerate();
        conditions
            .map(|(number, condition)| {
                let field = format!("{field}.conditions[{number}]");
                self.condition(condition, &field, depth + 1)
            })
            .collect()
    }

    fn leaf(&self, kind: &Kind, field: &str) -> Outcome<Leaf> {
        let of = |name: &str| format!("{field}.{name}");
        let (subject, signal, test) = match kind {
            Kind::PriceAbove(one) => {
                let threshold = self.price(one.threshold.as_ref(), &of("threshold"))?;
                let up = CrossDirection::Up.into();
                let hysteresis = self.hysteresis(one.hysteresis.as_ref(), threshold, up, field)?;
                let test = match hysteresis.is_zero() {
                    true => Test::Above(threshold),
                    false => Test::StaysAbove {
                        threshold,
                        hysteresis,
                    },
                };
                (self.symbol(&one.symbol, field)?, SignalKind::Value, test)
            }
            Kind::PriceBelow(one) => {
                let threshold = self.price(one.threshold.as_ref(), &of("threshold"))?;
                let down = CrossDirection::Down.into();
                let hysteresis =
                    self.hysteresis(one.hysteresis.as_ref(), threshold, down, field)?;
                let test = match hysteresis.is_zero() {
                    true => Test::Below(threshold),
                    false => Test::StaysBelow {
                        threshold,
                        hysteresis,
                    },
                };
                (self.symbol(&one.symbol, field)?, SignalKind::Value, test)
            }
            Kind::PriceCrosses(one) => {
                let threshold = self.price(one.threshold.as_ref(), &of("threshold"))?;
                let hysteresis =
                    self.hysteresis(one.hysteresis.as_ref(), threshold, one.direction, field)?;
                let test = match direction(one.direction, field)? {
                    CrossDirection::Up => Test::CrossesUp {
                        threshold,
                        hysteresis,
                    },
                    CrossDirection::Down => Test::CrossesDown {
                        threshold,
                        hysteresis,
                    },
                    _ => Test::CrossesEither {
                        threshold,
                        hysteresis,
                    },
                };
                (self.symbol(&one.symbol, field)?, SignalKind::Value, test)
            }
            Kind::PriceChannel(one) => {
                let low = self.price(one.low.as_ref(), &of("low"))?;
                let high = self.price(one.high.as_ref(), &of("high"))?;
                if low >= high {
                    let problem = format!("{low}, expected less than `high`, which is {high}");
                    return Err(RuleError::new(of("low"), problem));
                }
                let test = match ChannelEdge::try_from(one.on) {
                    Ok(ChannelEdge::Enter) => Test::Enters { low, high },
                    Ok(ChannelEdge::Exit) => Test::Exits { low, high },
                    _ => {
                        return Err(RuleError::new(
                            of("on"),
                            "missing or unknown, expected enter or exit",
                        ));
                    }
                };
                (self.symbol(&one.symbol, field)?, SignalKind::Value, test)
            }
            Kind::PercentChange(one) => {
                let window_ms = self.window(one.window_ms, &of("windowMs"))?;
                let test = change(one.percent, &of("percent"))?;
                (
                    self.symbol(&one.symbol, field)?,
                    SignalKind::ChangePercent { window_ms },
                    test,
                )
            }
            Kind::MovingAverageCross(one) => {
                let fast_ms = self.window(one.fast_ms, &of("fastMs"))?;
                let slow_ms = self.window(one.slow_ms, &of("slowMs"))?;
                if fast_ms >= slow_ms {
                    let problem =
                        format!("{fast_ms}, expected less than `slowMs`, which is {slow_ms}");
                    return Err(RuleError::new(of("fastMs"), problem));
                }
                let test = match direction(one.direction, field)? {
                    CrossDirection::Up => Test::TurnsPositive,
                    CrossDirection::Down => Test::TurnsNegative,
                    _ => Test::TurnsEither,
                };
                (
                    self.symbol(&one.symbol, field)?,
                    SignalKind::AverageGap { fast_ms, slow_ms },
                    test,
                )
            }
            Kind::VolumeSpike(one) => {
                let window_ms = self.window(one.window_ms, &of("windowMs"))?;
                let multiple = number(one.multiple, &of("multiple"))?;
                if multiple <= Decimal::ONE {
                    let problem = match multiple.is_zero() {
                        true => "0 or missing, expected a factor above 1".to_owned(),
                        false => format!("{multiple}, expected a factor above 1"),
                    };
                    return Err(RuleError::new(of("multiple"), problem));
                }
                (
                    self.symbol(&one.symbol, field)?,
                    SignalKind::VolumeRatio { window_ms },
                    Test::Above(multiple),
                )
            }
            Kind::PriceStale(one) => {
                let after_ms = self.window(one.after_ms, &of("afterMs"))?;
                (
                    self.symbol(&one.symbol, field)?,
                    SignalKind::Age,
                    Test::Above(Decimal::from(after_ms)),
                )
            }
            Kind::PortfolioAbove(one) => self.portfolio_value(one, field, Test::Above)?,
            Kind::PortfolioBelow(one) => self.portfolio_value(one, field, Test::Below)?,
            Kind::PortfolioChange(one) => self.portfolio_change(one, field)?,
            Kind::PortfolioDrawdown(one) => self.portfolio_drawdown(one, field)?,
            Kind::GasAbove(one) => {
                let gwei = gwei(one.gwei, &of("gwei"))?;
                (
                    self.chain(one.chain, field)?,
                    SignalKind::Value,
                    Test::Above(gwei),
                )
            }
            Kind::GasBelow(one) => {
                let gwei = gwei(one.gwei, &of("gwei"))?;
                (
                    self.chain(one.chain, field)?,
                    SignalKind::Value,
                    Test::Below(gwei),
                )
            }
            Kind::TransactionState(one) => {
                self.chain(one.chain, field)?;
                let subject = Subject::Transaction {
                    chain: one.chain,
                    hash: hash(&one.tx_hash, &of("txHash"))?,
                };
                let state = match TransactionState::try_from(one.state) {
                    Ok(TransactionState::Unspecified | TransactionState::Unknown) | Err(_) => {
                        return Err(RuleError::new(
                            of("state"),
                            "missing or unknown, expected one of pending, confirming, confirmed, \
                             finalized, failed, replaced, cancelled, dropped",
                        ));
                    }
                    Ok(state) => state,
                };
                (subject, SignalKind::State, Test::Reaches(state))
            }
            // `condition` handles both before it calls this function.
            Kind::All(_) | Kind::Any(_) => return Err(missing(field, "a condition")),
        };
        Ok(Leaf {
            subject,
            signal,
            test,
        })
    }

    fn symbol(&self, name: &str, field: &str) -> Outcome<Subject> {
        let Some(registration) = &self.registration else {
            return Ok(Subject::Symbol(name.into()));
        };
        let field = format!("{field}.symbol");
        if name.is_empty() {
            return Err(missing(&field, "a symbol, for example BTC-USD"));
        }
        if let Some(name) = registration.catalog.symbol(name) {
            return Ok(Subject::Symbol(name.into()));
        }
        let shown: String = name.chars().take(32).collect();
        let hint = symbol_hint(&shown, registration.catalog);
        Err(RuleError::new(
            field,
            format!("unknown symbol {shown:?}, {hint}"),
        ))
    }

    fn chain(&self, chain: u64, field: &str) -> Outcome<Subject> {
        if let Some(registration) = &self.registration
            && !registration.catalog.has_chain(chain)
        {
            let chains: Vec<_> = registration.catalog.chains();
            let names: Vec<_> = chains.iter().map(ToString::to_string).collect();
            let expected = one_of(
                &names,
                "expected the id of a chain that this server follows",
            );
            let problem = match chain {
                0 => format!("missing, {expected}"),
                _ => format!("unknown chain {chain}, {expected}"),
            };
            return Err(RuleError::new(format!("{field}.chain"), problem));
        }
        Ok(Subject::Gas(chain))
    }

    fn window(&self, window_ms: u64, field: &str) -> Outcome<u64> {
        let (least, most) = match &self.registration {
            Some(registration) => (
                registration.limits.min_window_ms.max(1),
                registration.limits.max_window_ms.min(u64::from(u32::MAX)),
            ),
            None => (1, u64::from(u32::MAX)),
        };
        if (least..=most).contains(&window_ms) {
            return Ok(window_ms);
        }
        let problem = match window_ms {
            0 => format!("0 or missing, expected milliseconds from {least} to {most}"),
            _ => format!("{window_ms}, expected milliseconds from {least} to {most}"),
        };
        Err(RuleError::new(field, problem))
    }

    #[allow(clippy::unused_self, reason = "reads like the other checks")]
    fn price(&self, value: Option<&v1::Decimal>, field: &str) -> Outcome<Decimal> {
        let price = decimal(value, field)?;
        if price > Decimal::ZERO {
            return Ok(price);
        }
        Err(RuleError::new(
            field,
            format!("{price}, expected a number above 0"),
        ))
    }

    fn hysteresis(
        &self,
        value: Option<&v1::Decimal>,
        threshold: Decimal,
        direction: i32,
        field: &str,
    ) -> Outcome<Decimal> {
        if value.is_none() {
            return Ok(Decimal::ZERO);
        }
        let field = format!("{field}.hysteresis");
        let hysteresis = decimal(value, &field)?;
        if hysteresis < Decimal::ZERO {
            let problem = format!("{hysteresis}, expected 0 or more");
            return Err(RuleError::new(field, problem));
        }
        if direction != CrossDirection::Down as i32 && hysteresis >= threshold {
            let problem = format!(
                "{hysteresis}, expected less than the threshold, which is {threshold}: \
                 the price could never move back that far"
            );
            return Err(RuleError::new(field, problem));
        }
        if threshold.checked_add(hysteresis).is_none() {
            return Err(RuleError::new(field, format!("{hysteresis} is too large")));
        }
        Ok(hysteresis)
    }

    fn portfolio(&self, one: &PortfolioCondition, field: &str) -> Outcome<Subject> {
        const MOST_BYTES: usize = 128;
        if one.portfolio.is_empty() {
            return Err(missing(
                &format!("{field}.portfolio"),
                "the id of a portfolio of 1 to 128 bytes",
            ));
        }
        if one.portfolio.len() > MOST_BYTES {
            let problem = format!(
                "{} bytes, expected a portfolio's id of 1 to {MOST_BYTES} bytes",
                one.portfolio.len()
            );
            return Err(RuleError::new(format!("{field}.portfolio"), problem));
        }
        Ok(Subject::Portfolio {
            user: self.owner.into(),
            portfolio: one.portfolio.as_str().into(),
        })
    }

    fn portfolio_value(
        &self,
        one: &PortfolioCondition,
        field: &str,
        test: fn(Decimal) -> Test,
    ) -> Outcome<(Subject, SignalKind, Test)> {
        if one.percent.is_some() || one.window_ms.is_some() {
            let name = if one.percent.is_some() {
                "percent"
            } else {
                "windowMs"
            };
            let problem = "not used by this condition, expected `threshold` alone; \
                           portfolio_change has percent and windowMs";
            return Err(RuleError::new(format!("{field}.{name}"), problem));
        }
        let threshold = self.price(one.threshold.as_ref(), &format!("{field}.threshold"))?;
        Ok((
            self.portfolio(one, field)?,
            SignalKind::Value,
            test(threshold),
        ))
    }

    fn portfolio_change(
        &self,
        one: &PortfolioCondition,
        field: &str,
    ) -> Outcome<(Subject, SignalKind, Test)> {
        let subject = self.portfolio(one, field)?;
        let window = format!("{field}.windowMs");
        let window_ms = one
            .window_ms
            .ok_or_else(|| missing(&window, "milliseconds"))?;
        let window_ms = self.window(window_ms, &window)?;
        Ok(match amount(one, field)? {
            Amount::Percent(percent, field) => (
                subject,
                SignalKind::ChangePercent { window_ms },
                change(percent, &field)?,
            ),
            Amount::Absolute(threshold, field) => {
                let test = match threshold {
                    zero if zero.is_zero() => {
                        return Err(RuleError::new(
                            field,
                            "0, expected a change above or below 0",
                        ));
                    }
                    rise if rise > Decimal::ZERO => Test::Above(rise),
                    fall => Test::Below(fall),
                };
                (subject, SignalKind::ChangeAbsolute { window_ms }, test)
            }
        })
    }

    fn portfolio_drawdown(
        &self,
        one: &PortfolioCondition,
        field: &str,
    ) -> Outcome<(Subject, SignalKind, Test)> {
        let subject = self.portfolio(one, field)?;
        let window_ms = match one.window_ms {
            Some(window_ms) => Some(self.window(window_ms, &format!("{field}.windowMs"))?),
            None => None,
        };
        Ok(match amount(one, field)? {
            Amount::Percent(percent, field) => {
                let percent = number(percent, &field)?;
                if percent <= Decimal::ZERO || percent > Decimal::ONE_HUNDRED {
                    let problem = format!("{percent}, expected a fall above 0 and at most 100");
                    return Err(RuleError::new(field, problem));
                }
                (
                    subject,
                    SignalKind::DrawdownPercent { window_ms },
                    Test::Above(percent),
                )
            }
            Amount::Absolute(threshold, field) => {
                if threshold <= Decimal::ZERO {
                    let problem = format!("{threshold}, expected a fall above 0");
                    return Err(RuleError::new(field, problem));
                }
                (
                    subject,
                    SignalKind::DrawdownAbsolute { window_ms },
                    Test::Above(threshold),
                )
            }
        })
    }
}

/// The amount of a portfolio's change, with its field.
enum Amount {
    Percent(f64, String),
    Absolute(Decimal, String),
}

fn amount(one: &PortfolioCondition, field: &str) -> Outcome<Amount> {
    match (&one.threshold, one.percent) {
        (None, Some(percent)) => Ok(Amount::Percent(percent, format!("{field}.percent"))),
        (Some(_), None) => {
            let field = format!("{field}.threshold");
            Ok(Amount::Absolute(
                decimal(one.threshold.as_ref(), &field)?,
                field,
            ))
        }
        (None, None) => Err(missing(
            &format!("{field}.percent"),
            "`percent` or `threshold`",
        )),
        (Some(_), Some(_)) => Err(RuleError::new(
            format!("{field}.percent"),
            "set together with `threshold`, expected one of the two",
        )),
    }
}
