/**
 * Checks of untyped values. A check returns the fault with its path, or
 * `undefined`, and never changes the value. Unknown fields pass, and so do
 * unknown names of open sets, because a newer server may send them.
 */

/** Returns the fault of `value`, or `undefined` if it is a `T`. The field `checks` exists for the compiler only. */
export interface Check<T> {
  (value: unknown): string | undefined;
  readonly checks?: T;
}

/** A check for every field of `T`. */
export type Fields<T> = { readonly [Key in keyof T]-?: Check<T[Key]> };

/** A string. */
export const text: Check<string> = (value) => (typeof value === "string" ? undefined : expected("a string", value));

/** A number. */
export const number: Check<number> = (value) => (typeof value === "number" ? undefined : expected("a number", value));

/** A whole number from 0 up. */
export const count: Check<number> = (value) =>
  typeof value === "number" && Number.isInteger(value) && value >= 0 ? undefined : expected("a whole number from 0 up", value);

/** A whole number. */
export const millis: Check<number> = (value) => (Number.isInteger(value) ? undefined : expected("a whole number", value));

/** A boolean. */
export const flag: Check<boolean> = (value) => (typeof value === "boolean" ? undefined : expected("a boolean", value));

/** Any JSON value. A JSON parser returns nothing else. */
export const json: Check<never> = (value) => (value === undefined ? "is missing, expected a JSON value" : undefined);

/** A value that passes `inner`, or `null`. */
export function nullable<T>(inner: Check<T>): Check<T | null> {
  return (value) => (value === null ? undefined : inner(value));
}

/** A value that passes `inner`, `null`, or no value. */
export function optional<T>(inner: Check<T>): Check<T | undefined> {
  return (value) => (value === undefined || value === null ? undefined : inner(value));
}

/** A list whose items pass `item`. */
export function list<T>(item: Check<T>): Check<readonly T[]> {
  return (value) => {
    if (!Array.isArray(value)) {
      return expected("a list", value);
    }
    for (let index = 0; index < value.length; index += 1) {
      const fault = item(value[index]);
      if (fault !== undefined) {
        return under(`[${index}]`, fault);
      }
    }
    return undefined;
  };
}

/** An object whose known fields pass their checks. */
export function object<T>(fields: Fields<T>): Check<T> {
  const entries = Object.entries<Check<unknown>>(fields as Readonly<Record<string, Check<unknown>>>);
  return (value) => {
    if (!isRecord(value)) {
      return expected("an object", value);
    }
    for (const [name, check] of entries) {
      const fault = check(value[name]);
      if (fault !== undefined) {
        return under(`.${name}`, fault);
      }
    }
    return undefined;
  };
}

/** A value that passes one of `cases`. Returns the fault of the last one. */
export function anyOf<T>(...cases: readonly Check<T>[]): Check<T> {
  return (value) => {
    let fault: string | undefined = "matches no case";
    for (const check of cases) {
      fault = check(value);
      if (fault === undefined) {
        return undefined;
      }
    }
    return fault;
  };
}

/** An object whose field `tag` chooses the check. An unknown tag passes. */
export function tagged<T>(tag: string, cases: Readonly<Record<string, Check<T>>>): Check<T> {
  return (value) => {
    if (!isRecord(value)) {
      return expected("an object", value);
    }
    const name = value[tag];
    if (typeof name !== "string") {
      return under(`.${tag}`, expected("a string", name));
    }
    return Object.hasOwn(cases, name) ? cases[name]?.(value) : undefined;
  };
}

/** Returns whether `value` is an object, and neither `null` nor a list. */
export function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function expected(what: string, value: unknown): string {
  return value === undefined ? `is missing, expected ${what}` : `expected ${what}, found ${describe(value)}`;
}

function describe(value: unknown): string {
  const shown = JSON.stringify(value);
  return shown.length > 40 ? `${shown.slice(0, 40)}…` : shown;
}

/** Puts `step` in front of a fault's path: `.price: expected …` under `.data` becomes `.data.price: expected …`. */
function under(step: string, fault: string): string {
  return fault.startsWith(".") || fault.startsWith("[") ? step + fault : `${step}: ${fault}`;
}
