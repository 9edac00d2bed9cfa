/**
 * Exact numbers, as `@tidewire/client/exact`: the digits as the wire has them,
 * which a JavaScript number would round after the sixteenth.
 *
 * ```ts
 * const client = new WebSocketClient(url, { parse: parseExact });
 * client.subscribe("prices:BTC-USD", (message) => {
 *   if (message.type === "price") console.log(exact(message.data)?.price); // "61838.0100000000000001"
 * });
 * ```
 */

/** The same document with each number as the text of its digits. */
export type Exact<Data> = Data extends number
  ? string
  : Data extends string | boolean | null | undefined
    ? Data
    : { readonly [Key in keyof Data]: Exact<Data[Key]> };

/** A JSON text's strings, which stay, and its numbers, which become strings. */
const TOKEN = /"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*/g;

/** The exact form of each parsed object. Entries go with their objects. */
const exactForms = new WeakMap<object, object>();

/** Parses a frame as `JSON.parse` does, and remembers its digits: for the option `parse` of a client. */
export function parseExact(frame: string): unknown {
  const value: unknown = JSON.parse(frame);
  link(value, JSON.parse(frame.replace(TOKEN, (token) => (token.startsWith('"') ? token : `"${token}"`))));
  return value;
}

/**
 * Returns the document with every number as the string of its exact decimal
 * digits, or `undefined` for an object that `parseExact` did not make.
 */
export function exact<Data extends object>(data: Data): Exact<Data> | undefined {
  return exactForms.get(data) as Exact<Data> | undefined;
}

function link(value: unknown, form: unknown): void {
  if (typeof value === "object" && value !== null) {
    exactForms.set(value, form as object);
    for (const [key, inner] of Object.entries(value)) {
      link(inner, (form as Record<string, unknown>)[key]);
    }
  }
}
