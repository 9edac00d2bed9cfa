/** JSON tree: a document level by level, with what a filter finds opened and marked. */
import { type ReactElement, useState } from "react";
import { type Entry, entriesOf, isContainer, kindOf, matchOf } from "./json.ts";

/** Members of a level that show at once. */
const PAGE = 50;
/** A container below this length shows open without a click. */
const SHORT = 400;

/** Props of a `JsonTree`. */
export interface JsonTreeProps {
  /** The text of the document. */
  readonly text: string;
  readonly filter: string;
}

/** The tree of a document. */
export function JsonTree({ text, filter }: JsonTreeProps): ReactElement {
  return isContainer(text) ? <ul className="json"><Members text={text} filter={filter} depth={0} /></ul> : <Value text={text} isHit={filter !== "" && matchOf({ key: "", text }, filter) !== undefined} />;
}

function Members({ text, filter, depth }: JsonTreeProps & { readonly depth: number }): ReactElement {
  const [shown, setShown] = useState(PAGE);
  const all = entriesOf(text);
  const entries = filter === "" ? all : all.filter((entry) => matchOf(entry, filter) !== undefined);
  return (
    <>
      {entries.slice(0, shown).map((entry, index) => (
        <Member key={`${entry.key}/${index}`} entry={entry} filter={filter} depth={depth} />
      ))}
      {entries.length > shown && (
        <li>
          <button type="button" className="small quiet" onClick={() => { setShown(shown + PAGE); }}>
            {entries.length - shown} more
          </button>
        </li>
      )}
      {all.length === 0 && <li className="soft">empty</li>}
    </>
  );
}

function Member({ entry, filter, depth }: { readonly entry: Entry; readonly filter: string; readonly depth: number }): ReactElement {
  const { key, text } = entry;
  const match = filter === "" ? undefined : matchOf(entry, filter);
  const [isOpen, setOpen] = useState<boolean>();
  if (!isContainer(text)) {
    return (
      <li>
        <span className="json-key">{key}</span> <Value text={text} isHit={match === "self"} />
      </li>
    );
  }
  const isArray = text.startsWith("[");
  const shows = isOpen ?? (match === "inside" || (depth < 2 && text.length < SHORT));
  return (
    <li>
      <button type="button" className="json-toggle" aria-expanded={shows} onClick={() => { setOpen(!shows); }}>
        <span className={`json-key ${match === "self" ? "hit" : ""}`}>{key}</span> <span className="soft">{isArray ? "[…]" : "{…}"}</span>
      </button>
      {shows && <ul><Members text={text} filter={match === "self" ? "" : filter} depth={depth + 1} /></ul>}
    </li>
  );
}

function Value({ text, isHit }: { readonly text: string; readonly isHit: boolean }): ReactElement {
  return <span className={`json-${kindOf(text)} ${isHit ? "hit" : ""}`}>{text}</span>;
}
