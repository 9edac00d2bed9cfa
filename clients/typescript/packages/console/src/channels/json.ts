/**
 * JSON text, level by level: the tree of a message keeps each number's digits, repeated keys and the
 * order of keys, all of which `JSON.parse` loses. A level is read when it is opened, so that a deep or
 * large document costs nothing until then.
 */

/** A member of an object or an item of an array. */
export interface Entry {
  /** The key, or the index. */
  readonly key: string;
  /** The text of the value, without the space around it. */
  readonly text: string;
}

/** Whether the text of a value is an object or an array. */
export function isContainer(text: string): boolean {
  return text.startsWith("{") || text.startsWith("[");
}

/** A string, a bracket, a comma, a colon, or a run of anything else but space. */
const TOKEN = /"(?:[^"\\]|\\.)*"|[[\]{},:]|[^[\]{},:"\s]+/gs;

/** Returns what is in an object or array. `text` is valid JSON. */
export function entriesOf(text: string): readonly Entry[] {
  const entries: Entry[] = [];
  const isObject = text.startsWith("{");
  let depth = 0;
  let key: string | undefined;
  let start = -1;
  let end = -1;
  let lastString = "";
  for (const { 0: token, index } of text.matchAll(TOKEN)) {
    if (depth === 1 && (token === "," || token === "}" || token === "]") && start >= 0) {
      entries.push({ key: key ?? String(entries.length), text: text.slice(start, end) });
      start = -1;
      key = undefined;
    } else if (depth === 1 && isObject && key === undefined && token === ":") {
      key = JSON.parse(lastString) as string;
      start = -1;
      continue;
    } else if (depth >= 1) {
      start = start < 0 ? index : start;
    }
    depth += token === "{" || token === "[" ? 1 : token === "}" || token === "]" ? -1 : 0;
    end = index + token.length;
    lastString = token;
  }
  return entries;
}

/** Returns the text of a member, the last one of several with this key, as `JSON.parse` does. */
export function member(text: string, key: string): string | undefined {
  return isContainer(text) ? entriesOf(text).findLast((entry) => entry.key === key)?.text : undefined;
}

/** The kind of a value, for its colour. */
export type Kind = "object" | "array" | "string" | "number" | "word";

/** Returns the kind of a value. */
export function kindOf(text: string): Kind {
  const first = text.charAt(0);
  return first === "{" ? "object" : first === "[" ? "array" : first === '"' ? "string" : /[-\d]/.test(first) ? "number" : "word";
}

/**
 * Returns where a filter matches a value: `self` if the key or the value itself has the words, `inside`
 * if something in it has, or nothing. Upper and lower case are the same.
 */
export function matchOf({ key, text }: Entry, filter: string): "self" | "inside" | undefined {
  const wanted = filter.toLowerCase();
  if (key.toLowerCase().includes(wanted) || (!isContainer(text) && text.toLowerCase().includes(wanted))) {
    return "self";
  }
  return isContainer(text) && text.toLowerCase().includes(wanted) ? "inside" : undefined;
}

/** Names the fault of a text that is no JSON, in this page's words, or returns `undefined`. */
export function jsonFault(text: string): string | undefined {
  if (text.trim() === "") {
    return "Nothing to publish: type a JSON document.";
  }
  try {
    JSON.parse(text);
    return undefined;
  } catch (error) {
    const said = error instanceof Error ? error.message : String(error);
    const at = /position (\d+)/.exec(said)?.[1];
    const place = at === undefined ? "" : placeOf(text, Number(at));
    return `This is no JSON${place}: ${said.replace(/ in JSON at.*$| at position.*$/, "")}.`;
  }
}

function placeOf(text: string, at: number): string {
  const lines = text.slice(0, at).split("\n");
  return ` (line ${lines.length}, column ${(lines.at(-1)?.length ?? 0) + 1})`;
}

/** Returns the body of `StreamService/Publish`. The document is in it byte for byte. */
export function publishBody(channel: string, document: string): string {
  return `{"channel":${JSON.stringify(channel)},"data":${document}}`;
}
