/** Alert rules in words: what a rule tests, its state, and why it fired or did not. */
import type { AlertCondition, AlertEvent, AlertExplanation, AlertRule } from "@tidewire/client";
import { short } from "../chains/transaction.ts";
import { digitsOf, fixed } from "../lib/digits.ts";
import type { Tone } from "../ui/chip.tsx";
import { levelsOf } from "./backtest.ts";

/** A duration in the largest unit that has no rest: `90 s`, `5 min`, `2 h`, `1 d`. */
export function duration(milliseconds: number): string {
  const units: readonly (readonly [name: string, length: number])[] = [["d", 86_400_000], ["h", 3_600_000], ["min", 60_000], ["s", 1_000]];
  const [name, length] = units.find(([, size]) => milliseconds >= size && milliseconds % size === 0) ?? ["ms", 1];
  return `${milliseconds / length} ${name}`;
}

/** Reads a duration such as `90`, `90 s`, `5 min`, `1.5 h`, in milliseconds. A number alone is in seconds. */
export function parseDuration(text: string): number | undefined {
  const [, number, unit = "s"] = /^\s*(\d+(?:\.\d+)?)\s*(ms|s|sec|m|min|h|d)?\s*$/i.exec(text) ?? [];
  const length = { ms: 1, s: 1_000, sec: 1_000, m: 60_000, min: 60_000, h: 3_600_000, d: 86_400_000 }[unit.toLowerCase()];
  return number === undefined || length === undefined ? undefined : Math.round(Number(number) * length);
}

/** A number with its digits, grouped: prices of rules are exact, and may be strings. */
function amount(value: unknown): string {
  const [whole = "", fraction] = String(value).split(".");
  return `${whole.replace("-", "−").replace(/\B(?=(\d{3})+$)/g, ",")}${fraction === undefined ? "" : `.${fraction}`}`;
}

/**
 * A price as the tables show it, with the decimals of its symbol, and any other value exactly. A price
 * that these decimals would make equal to a threshold is shown exactly too: it has not reached it.
 */
function figure(value: unknown, symbol: string | undefined, levels: readonly number[]): string {
  const number = typeof value === "number" || typeof value === "string" ? Number(value) : Number.NaN;
  if (symbol === undefined || Number.isNaN(number)) {
    return amount(value);
  }
  const digits = digitsOf(symbol, number);
  const isRoundedToLevel = levels.some((level) => level !== number && level.toFixed(digits) === number.toFixed(digits));
  return isRoundedToLevel ? amount(value) : fixed(number, digits);
}

/** A price of gas in gwei, as the page of the chains shows it. */
function gweiFigure(value: number, condition: AlertCondition | undefined): string {
  const shown = value.toLocaleString("en-US", { maximumSignificantDigits: value >= 1_000 ? 6 : 4 });
  const limit = condition?.kind === "gas_above" || condition?.kind === "gas_below" ? condition.gwei : undefined;
  return limit !== undefined && limit !== value && Number(shown.replaceAll(",", "")) === limit ? amount(value) : shown;
}

/** The symbol whose price a condition compares. Nothing where it compares another value. */
function pricedSymbol(condition: AlertCondition | undefined): string | undefined {
  switch (condition?.kind) {
    case "price_above":
    case "price_below":
    case "price_crosses":
    case "price_channel":
      return condition.symbol;
    default:
      return undefined;
  }
}

/** A reason of the server, with its prices and long numbers as the page writes them. */
function reasonText(reason: string, levels: readonly number[]): string {
  return reason
    .replace(/\b(price of )(\S+)( is )(\d+(?:\.\d+)?)/g, (_, before: string, symbol: string, is: string, value: string) => `${before}${symbol}${is}${figure(value, symbol, levels)}`)
    .replace(/(?<![\w.,]|chain )\d{4,}(?:\.\d+)?(?!\w)/g, (value) => amount(value));
}

const UPWARDS: Readonly<Record<string, string>> = { up: " upwards", down: " downwards" };

/** Says what a condition tests. */
export function conditionText(condition: AlertCondition): string {
  switch (condition.kind) {
    case "price_above":
      return `${condition.symbol} is at ${amount(condition.threshold)} or above`;
    case "price_below":
      return `${condition.symbol} is at ${amount(condition.threshold)} or below`;
    case "price_crosses":
      return `${condition.symbol} crosses ${amount(condition.threshold)}${UPWARDS[condition.direction] ?? ""}`;
    case "price_channel":
      return `${condition.symbol} ${condition.on === "exit" ? "leaves" : "enters"} ${amount(condition.low)} to ${amount(condition.high)}`;
    case "percent_change":
      return `${condition.symbol} ${condition.percent < 0 ? "falls" : "rises"} by ${Math.abs(condition.percent)} % within ${duration(condition.windowMs)}`;
    case "moving_average_cross":
      return `${condition.symbol}: the average of ${duration(condition.fastMs)} crosses that of ${duration(condition.slowMs)}${UPWARDS[condition.direction] ?? ""}`;
    case "volume_spike":
      return `${condition.symbol} trades ${condition.multiple} times its usual volume within ${duration(condition.windowMs)}`;
    case "price_stale":
      return `${condition.symbol} has no live price for ${duration(condition.afterMs)}`;
    case "gas_above":
    case "gas_below":
      return `Gas of chain ${condition.chain} is at ${condition.gwei} gwei or ${condition.kind === "gas_above" ? "above" : "below"}`;
    case "transaction_state":
      return `Transaction ${short(condition.txHash)} is ${condition.state}`;
    case "portfolio_above":
    case "portfolio_below":
      return `Portfolio ${condition.portfolio} is worth ${amount(condition.threshold)} or ${condition.kind === "portfolio_above" ? "more" : "less"}`;
    case "portfolio_change":
    case "portfolio_drawdown": {
      const by = condition.percent === undefined ? amount(condition.threshold) : `${condition.percent} %`;
      const within = condition.windowMs === undefined ? "" : ` within ${duration(condition.windowMs)}`;
      return `Portfolio ${condition.portfolio} ${condition.kind === "portfolio_change" ? "changes" : "falls from its highest value"} by ${by}${within}`;
    }
    case "all":
    case "any":
      return condition.conditions.map((each) => (each.kind === "all" || each.kind === "any" ? `(${conditionText(each)})` : conditionText(each))).join(condition.kind === "all" ? " and " : " or ");
  }
}

/** The title of a rule: its name, or what it tests. */
export function ruleTitle({ name, condition }: Pick<AlertRule, "name" | "condition">): string {
  return name === undefined || name === "" ? conditionText(condition) : name;
}

const STATES: Readonly<Record<string, readonly [word: string, tone: Tone, text: string]>> = {
  pending: ["No value yet", "plain", "No value that it could test is known yet."],
  armed: ["Armed", "up", "It fires when its condition becomes true."],
  firing: ["Condition is true", "warn", "It fired, or its condition was true when it was armed. It fires again after the condition was false."],
  recovering: ["Recovering", "plain", "The condition ended, but the value is not yet back by the hysteresis."],
  cooldown: ["In cooldown", "plain", "It fired, and pauses for its cooldown."],
  snoozed: ["Snoozed", "plain", "It fires nothing until the snooze ends."],
  expired: ["Expired", "plain", "Its time is over: it fires nothing any more."],
  exhausted: ["Done", "plain", "It fired as often as it should. Enable it to arm it again."],
  disabled: ["Off", "plain", "It is disabled, and fires nothing."],
  stopped: ["Stopped", "bad", "It fired too often, so the server stopped it. Enable it to arm it again."],
};

/** A word for a rule's state, and a sentence. */
export function ruleState({ state, stoppedReason, snoozedUntil, cooldownMs, lastFiredAt }: AlertRule, now: number): { readonly word: string; readonly tone: Tone; readonly text: string } {
  const [word, tone, text] = STATES[state] ?? [state, "plain", "This page does not know the state yet."];
  const until = state === "snoozed" ? snoozedUntil : state === "cooldown" && cooldownMs !== undefined && lastFiredAt !== undefined ? lastFiredAt + cooldownMs : undefined;
  const rest = until === undefined || until <= now ? "" : ` ${duration(Math.ceil((until - now) / (until - now > 120_000 ? 60_000 : 1_000)) * (until - now > 120_000 ? 60_000 : 1_000))} left.`;
  return { word, tone, text: `${state === "stopped" && stoppedReason !== undefined ? stoppedReason : text}${rest}` };
}

/** Says how often a rule fires. */
export function repeatText({ repeat = "once", cooldownMs, fires = 0 }: AlertRule): string {
  const often = repeat === "once" ? "once" : repeat === "recurring" ? "each time" : `${repeat.times} times`;
  const pause = cooldownMs === undefined ? "" : `, ${duration(cooldownMs)} apart at least`;
  return `Fires ${often}${pause} · fired ${fires} time${fires === 1 ? "" : "s"}`;
}

/** What an explanation says, for a person. */
export interface Explained {
  readonly title: string;
  readonly tone: Tone;
  /** Sentences, the most important first. */
  readonly lines: readonly string[];
}

const DECISIONS: Readonly<Record<string, readonly [title: string, tone: Tone]>> = {
  fired: ["It fired", "up"],
  not_met: ["It did not fire: its condition is not true", "plain"],
  suppressed: ["Its condition is true, and yet it does not fire", "warn"],
  unknown: ["It cannot be judged yet", "warn"],
};

const sentence = (text: string): string => {
  const trimmed = text.trim();
  return `${trimmed.charAt(0).toUpperCase()}${trimmed.slice(1)}${/[.!?]$/.test(trimmed) ? "" : "."}`;
};

/** Tells an explanation in words. `ago` formats an age in milliseconds. `last` is the newest fire of the rule. */
export function explained({ decision = "unknown", reason, rule, tick, previousTick }: AlertExplanation, now: number, ago: (ms: number) => string, last?: AlertEvent): Explained {
  const [ofFirst, tone] = DECISIONS[decision] ?? [decision, "plain"];
  // A rule that has fired is explained by its newest value, which may be another one.
  const title = decision === "not_met" && last !== undefined ? "By the newest value it does not fire again: its condition is not true now" : ofFirst;
  const symbol = pricedSymbol(rule?.condition);
  const levels = rule === undefined || symbol === undefined ? [] : levelsOf(rule.condition, symbol);
  const lines = reasonText(reason, levels).split("; ").map(sentence);
  if (last !== undefined && decision !== "fired") {
    lines.push(`It last fired ${ago(now - last.timestamp)} ago: ${fireText(last)}.`);
  }
  if (tick !== undefined) {
    const from = tick.sources.length === 0 ? "" : `, from ${tick.sources.join(", ")}`;
    const before = previousTick === undefined ? "" : ` The value before was ${figure(previousTick.value ?? "unknown", symbol, levels)}.`;
    lines.push(`The newest value is ${figure(tick.value ?? "unknown", symbol, levels)}, ${ago(now - tick.timestamp)} old${from}.${before}`);
  }
  return { title, tone, lines };
}

/** Says what made a rule fire. */
export function fireText({ rule, value, previous, symbol, chain, txHash, state, portfolio, manual }: AlertEvent & { readonly manual?: boolean }): string {
  const kind = rule?.condition.kind;
  if (value !== null && (kind === "percent_change" || kind === "volume_spike")) {
    const figure = amount(Number(value.toPrecision(3)));
    return kind === "percent_change" ? `${symbol ?? "the price"} changed by ${figure} %` : `${symbol ?? "the symbol"} traded ${figure} times its usual volume`;
  }
  const subject = symbol ?? (portfolio === undefined ? undefined : `portfolio ${portfolio}`);
  if (manual === true) {
    return "fired by hand";
  }
  if (txHash !== undefined) {
    return `transaction ${short(txHash)} is ${state ?? "in another state"}`;
  }
  const priced = pricedSymbol(rule?.condition);
  const levels = rule === undefined || priced === undefined ? [] : levelsOf(rule.condition, priced);
  const isGas = subject === undefined && chain !== undefined;
  const shown = (each: number): string => (isGas ? gweiFigure(each, rule?.condition) : figure(each, priced, levels));
  const at = value === null ? "" : `at ${shown(value)}${isGas ? " gwei" : ""}`;
  // Only the first fire and a deferred one have no value before them.
  const isDeferred = previous === null && (rule?.fires ?? 0) > 1 && (rule?.cooldownMs ?? 0) > 0;
  const from = isDeferred ? ", deferred, fired at the end of the cooldown" : previous === null ? "" : `, before ${shown(previous)}`;
  return `${subject ?? (chain === undefined ? "" : `gas of chain ${chain}`)} ${at}${from}`.trim();
}
