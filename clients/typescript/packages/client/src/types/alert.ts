/** Alerts: rules over prices, portfolios, gas and transactions. */
import type { Millis, Open } from "./common.ts";
import type { Priority } from "./notify.ts";
import type { TransactionState } from "./watch.ts";

/** The condition that fires an alert. */
export type AlertCondition =
  | {
      readonly kind: "price_above" | "price_below";
      readonly symbol: string;
      readonly threshold: number;
      /** The distance that the price must move back before the condition ends. */
      readonly hysteresis?: number;
    }
  | {
      readonly kind: "price_crosses";
      readonly symbol: string;
      readonly threshold: number;
      readonly direction: CrossDirection;
      /** The distance that the price must move back before it can cross again. */
      readonly hysteresis?: number;
    }
  | {
      readonly kind: "price_channel";
      readonly symbol: string;
      readonly low: number;
      readonly high: number;
      readonly on: Open<"enter" | "exit">;
    }
  | { readonly kind: "percent_change"; readonly symbol: string; readonly percent: number; readonly windowMs: number }
  | {
      readonly kind: "moving_average_cross";
      readonly symbol: string;
      readonly fastMs: number;
      readonly slowMs: number;
      readonly direction: CrossDirection;
    }
  | { readonly kind: "volume_spike"; readonly symbol: string; readonly multiple: number; readonly windowMs: number }
  | { readonly kind: "price_stale"; readonly symbol: string; readonly afterMs: number }
  | {
      readonly kind: "portfolio_above" | "portfolio_below" | "portfolio_change" | "portfolio_drawdown";
      readonly portfolio: string;
      readonly threshold?: number;
      readonly percent?: number;
      readonly windowMs?: number;
    }
  | { readonly kind: "gas_above" | "gas_below"; readonly chain: number; readonly gwei: number }
  | {
      readonly kind: "transaction_state";
      readonly chain: number;
      readonly txHash: string;
      readonly state: TransactionState;
    }
  | { readonly kind: "all" | "any"; readonly conditions: readonly AlertCondition[] };

/** The direction in which a value crosses a threshold. */
export type CrossDirection = Open<"up" | "down" | "either">;

/** The number of times that an alert may fire. */
export type AlertRepeat = "once" | "recurring" | { readonly times: number };

/** The state of an alert. */
export type AlertState = Open<
  | "pending"
  | "armed"
  | "firing"
  | "recovering"
  | "cooldown"
  | "snoozed"
  | "exhausted"
  | "expired"
  | "disabled"
  | "stopped"
>;

/** An alert rule as a client sends it. */
export interface AlertDraft {
  readonly name?: string;
  readonly condition: AlertCondition;
  readonly repeat?: AlertRepeat;
  readonly cooldownMs?: number;
  readonly expiresAt?: Millis;
  readonly snoozedUntil?: Millis;
  readonly priority?: Priority;
  readonly enabled?: boolean;
  /** The text of its notifications, with `{symbol}`, `{price}`, `{threshold}` and other fields. */
  readonly template?: string;
  /** The owner, where a back end sends it. */
  readonly user?: string;
  /** Only with `alert_register`: repeating it under its key registers one rule. */
  readonly idempotencyKey?: string;
}

/** An alert rule as the server stores it. */
export interface AlertRule extends AlertDraft {
  readonly id: string;
  readonly enabled: boolean;
  readonly state: AlertState;
  /** Counts the changes of the rule, from 1. */
  readonly version?: number;
  /** Why the server stopped the rule, while it is stopped. */
  readonly stoppedReason?: string;
  /** The times that it fired. */
  readonly fires?: number;
  readonly lastFiredAt?: Millis;
}

/** The page of the user's rules that a client asks for. */
export interface AlertQuery {
  readonly limit?: number;
  readonly after?: string;
}

/** A page of the user's rules, oldest first. */
export interface AlertPage {
  readonly items: readonly AlertRule[];
  /** The `after` of the next page. */
  readonly next?: string;
}

/** The firing of an alert. */
export interface AlertEvent {
  readonly alertId: string;
  /** The rule at the time of firing. */
  readonly rule?: AlertRule;
  readonly value: number | null;
  readonly previous: number | null;
  readonly sources: readonly string[];
  readonly timestamp: Millis;
  /** A retraction has the id of the event that it takes back. */
  readonly id?: string;
  readonly ruleVersion?: number;
  /** Whether the event is taken back, since a reorg removed the transaction. */
  readonly retracted?: boolean;
  /** What made the rule fire: a symbol, a portfolio, the gas of a chain, or a transaction. */
  readonly symbol?: string;
  readonly portfolio?: string;
  readonly chain?: number;
  readonly txHash?: string;
  /** The state of the transaction when the rule fired. */
  readonly state?: TransactionState;
  readonly threshold?: number;
  /** Whether a person or a back end fired it, and no value. */
  readonly manual?: boolean;
}

/** The page of the log that a client asks for. */
export interface AlertLogQuery {
  readonly before?: string;
  readonly limit?: number;
  readonly alertId?: string;
}

/** A page of what fired, newest first. */
export interface AlertLog {
  readonly items: readonly AlertEvent[];
  /** The `before` of the next page. */
  readonly next?: string;
}

/** A value that a condition tested. */
export interface AlertTick {
  readonly value: number | null;
  readonly timestamp: Millis;
  readonly sources: readonly string[];
}

/** Why a rule did or did not fire. */
export interface AlertExplanation {
  readonly rule?: AlertRule;
  readonly value: number | null;
  readonly holds: boolean;
  readonly reason: string;
  readonly ruleVersion?: number;
  readonly previousTick?: AlertTick;
  readonly tick?: AlertTick;
  readonly decision?: Open<"fired" | "not_met" | "suppressed" | "unknown">;
}
