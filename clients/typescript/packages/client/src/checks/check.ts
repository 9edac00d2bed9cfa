/**
 * Small checks of untyped values. A check names the fault and where it is, or
 * finds none; it never changes the value. Fields nobody knows are let through,
 * and so are new names of open sets: the protocol grows.
 */

/** Names the fault of `value`, or `undefined` if it is a `T`. The phantom field ties the check to its type. */
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

/** Any JSON value: what comes out of a JSON parser is one already. */
export const json: Check<never> = (value) => (value === undefined ? "is missing, expected a JSON value" : undefined);

/** What `inner` checks, or `null`. */
export function nullable<T>(inner: Check<T>): Check<T | null> {
  return (value) => (value === null ? undefined : inner(value));
}

/** What `inner` checks, or nothing; `null` means nothing too. */
export function optional<T>(inner: Check<T>): Check<T | undefined> {
  return (value) => (value === undefined || value === null ? undefined : inner(value));
}

/** A list of what `item` checks. */
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

/** An object whose known fields are as they should be. */
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

/** What any of `cases` checks; the fault is that of the last. */
export function anyOf<T>(...cases: readonly Check<T>[]): Check<T> {
  return (value) => {
    let fault: string | undefined = "fits no case";
    for (const check of cases) {
      fault = check(value);
      if (fault === undefined) {
        return undefined;
      }
    }
    return fault;
  };
}

/** An object whose field `tag` chooses the check; tags nobody knows are let through. */
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

/** Is it an object with string keys, and neither `null` nor a list? */
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

/** Puts a step in front of a fault's path: `.price: expected …` under `.data` is `.data.price: expected …`. */
function under(step: string, fault: string): string {
  return fault.startsWith(".") || fault.startsWith("[") ? step + fault : `${step}: ${fault}`;
}
