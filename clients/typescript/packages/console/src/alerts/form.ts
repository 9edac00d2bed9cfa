/**
 * Alert form: the fields of each simple kind of condition, the rule that a filled form makes, and the
 * field that a refusal of the server is about.
 */
import type { AlertDraft, AlertRule } from "@tidewire/client";
import { duration, parseDuration } from "./words.ts";

/** How a field is typed, and what becomes of it: exact decimals stay strings, so that no digit is lost. */
export type FieldType = "symbol" | "exact" | "number" | "integer" | "duration" | "text" | "choice";

/** A field of a form. */
export interface Field {
  readonly name: string;
  readonly label: string;
  readonly type: FieldType;
  readonly initial: string;
  readonly choices?: readonly string[];
  readonly isOptional?: boolean;
  /** What it means, where the name does not say it. */
  readonly hint?: string;
}

const symbol: Field = { name: "symbol", label: "Symbol", type: "symbol", initial: "BTC-USD" };
const threshold: Field = { name: "threshold", label: "Threshold", type: "exact", initial: "" };
const hysteresis: Field = { name: "hysteresis", label: "Hysteresis", type: "exact", initial: "", isOptional: true, hint: "How far the price must move back before it can cross again." };
const direction: Field = { name: "direction", label: "Direction", type: "choice", initial: "either", choices: ["either", "up", "down"] };
const windowMs: Field = { name: "windowMs", label: "Within", type: "duration", initial: "5 min" };
const chain: Field = { name: "chain", label: "Chain id", type: "integer", initial: "1" };
const gwei: Field = { name: "gwei", label: "Gwei", type: "number", initial: "", hint: "Price of a unit of gas: 1 gwei is 1,000,000,000 wei, a billionth of a coin." };
const STATES = ["pending", "confirming", "confirmed", "finalized", "failed", "replaced", "cancelled", "dropped"];

/** The kinds that have a form, with their fields. Others are written as JSON. */
export const KINDS: Readonly<Record<string, { readonly label: string; readonly fields: readonly Field[] }>> = {
  price_above: { label: "Price is at or above", fields: [symbol, threshold, hysteresis] },
  price_below: { label: "Price is at or below", fields: [symbol, threshold, hysteresis] },
  price_crosses: { label: "Price crosses", fields: [symbol, threshold, direction, hysteresis] },
  price_channel: {
    label: "Price enters or leaves a range",
    fields: [symbol, { ...threshold, name: "low", label: "Low" }, { ...threshold, name: "high", label: "High" }, { name: "on", label: "When it", type: "choice", initial: "enter", choices: ["enter", "exit"] }],
  },
  percent_change: { label: "Price changes by percent", fields: [symbol, { name: "percent", label: "Percent", type: "number", initial: "1" }, windowMs] },
  moving_average_cross: {
    label: "Averages cross",
    fields: [symbol, { ...windowMs, name: "fastMs", label: "Fast average", initial: "1 min" }, { ...windowMs, name: "slowMs", label: "Slow average", initial: "10 min" }, direction],
  },
  volume_spike: { label: "Volume spikes", fields: [symbol, { name: "multiple", label: "Times the usual", type: "number", initial: "3" }, windowMs] },
  price_stale: { label: "Price is stale", fields: [symbol, { ...windowMs, name: "afterMs", label: "For", initial: "1 min" }] },
  gas_above: { label: "Gas is at or above", fields: [chain, gwei] },
  gas_below: { label: "Gas is at or below", fields: [chain, gwei] },
  transaction_state: {
    label: "Transaction reaches a state",
    fields: [chain, { name: "txHash", label: "Transaction hash", type: "text", initial: "" }, { name: "state", label: "State", type: "choice", initial: "confirmed", choices: STATES }],
  },
};

/** Fields of every rule. */
export const COMMON: readonly Field[] = [
  { name: "name", label: "Name", type: "text", initial: "", isOptional: true },
  { name: "repeat", label: "Fires", type: "choice", initial: "recurring", choices: ["once", "recurring"] },
  { name: "cooldownMs", label: "Cooldown", type: "duration", initial: "5 min", isOptional: true, hint: "After a fire, the least time until the next one. Empty: none, and a value that moves to and fro fires each time." },
  { name: "priority", label: "Priority", type: "choice", initial: "medium", choices: ["low", "medium", "high", "urgent"] },
  { name: "template", label: "Text of the notification", type: "text", initial: "", isOptional: true },
];

/** What was typed, by field. */
export type Values = Readonly<Record<string, string>>;

/** A fault, beside the field that it is about. Without a field it is about the whole. */
export interface Fault {
  readonly field: string | undefined;
  readonly text: string;
}

/** The values of an empty form of a kind, with those typed before that still fit. */
export function initialValues(kind: string, before: Values = {}): Values {
  const fields = [...(KINDS[kind]?.fields ?? []), ...COMMON];
  return { ...Object.fromEntries(fields.map(({ name, initial }) => [name, before[name] ?? initial])), kind };
}

function read({ label, type, isOptional = false, name }: Field, text: string): { readonly value: unknown } | Fault {
  const typed = text.trim();
  if (typed === "") {
    return isOptional ? { value: undefined } : { field: name, text: `${label}: nothing typed.` };
  }
  switch (type) {
    case "symbol":
      return { value: typed.toUpperCase() };
    case "duration": {
      const value = parseDuration(typed);
      return value === undefined ? { field: name, text: `${label}: expected a time such as 90 s, 5 min or 1 h.` } : { value };
    }
    case "exact":
    case "number":
    case "integer": {
      const plain = typed.replaceAll(",", "");
      const isNumber = type === "integer" ? /^\d+$/.test(plain) : /^-?\d+(\.\d+)?$/.test(plain);
      return isNumber ? { value: type === "exact" ? plain : Number(plain) } : { field: name, text: `${label}: expected a ${type === "integer" ? "whole number" : "number"}.` };
    }
    default:
      return { value: typed };
  }
}

/** Returns the rule of a filled form, or its first fault. With `isChange`, emptied fields are removed from the rule. */
export function draftOf(values: Values, isChange = false): { readonly draft: AlertDraft } | { readonly fault: Fault } {
  const kind = values["kind"] ?? "";
  const condition: Record<string, unknown> = { kind };
  const rule: Record<string, unknown> = {};
  for (const [target, fields] of [[condition, KINDS[kind]?.fields ?? []], [rule, COMMON]] as const) {
    for (const field of fields) {
      const result = read(field, values[field.name] ?? "");
      if ("text" in result) {
        return { fault: result };
      }
      if (result.value !== undefined) {
        target[field.name] = result.value;
      } else if (isChange && target === rule) {
        target[field.name] = field.type === "duration" ? 0 : "";
      }
    }
  }
  return { draft: { ...rule, condition } as unknown as AlertDraft };
}

/** Returns the values of a form for a rule, or `undefined` if only JSON can say it. */
export function valuesOf({ condition, repeat = "once", ...rule }: AlertRule): Values | undefined {
  const fields = KINDS[condition.kind]?.fields;
  if (fields === undefined || typeof repeat !== "string") {
    return undefined;
  }
  const known = { ...rule, ...condition, repeat } as unknown as Readonly<Record<string, string | number | undefined>>;
  const text = ({ name, type, initial, isOptional = false }: Field): string => {
    const value = known[name];
    return value === undefined ? (isOptional ? "" : initial) : type === "duration" ? duration(Number(value)) : String(value);
  };
  return { ...Object.fromEntries([...fields, ...COMMON].map((field) => [field.name, text(field)])), kind: condition.kind };
}

/** The fields of a rule that a client may send, for the JSON of an existing rule. */
export function jsonOf({ name, condition, repeat, cooldownMs, expiresAt, snoozedUntil, priority, template }: AlertDraft): string {
  return JSON.stringify({ name, condition, repeat, cooldownMs, expiresAt, snoozedUntil, priority, template }, null, 2);
}

/** Reads a rule written as JSON. */
export function draftOfJson(text: string): { readonly draft: AlertDraft } | { readonly fault: Fault } {
  try {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null && "condition" in value) {
      return { draft: value as AlertDraft };
    }
    return { fault: { field: "json", text: "Expected an object with `condition`." } };
  } catch (error) {
    return { fault: { field: "json", text: `This is no JSON: ${error instanceof Error ? error.message : String(error)}.` } };
  }
}

/** Finds the field that a refusal is about: the server begins with its path in backticks. */
export function faultOf(message: string, fields: readonly string[]): Fault {
  const [, path = "", text = ""] = /^`([^`]+)`: (.*)$/s.exec(message) ?? [];
  const name = path.split(".").at(-1) ?? "";
  return fields.includes(name) ? { field: name, text } : { field: undefined, text: message };
}
