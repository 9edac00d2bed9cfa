/** Selection: the names that a hook was called with, and those that its component adds and removes. */
import { useMemo, useState } from "react";
import type { Source } from "./live.ts";

/** One name or several. */
export type Names = string | readonly string[];

/** A source, and the name that the component chose it by. */
export type Named<T> = Source<T> & { readonly name: string };

/** The sources of the chosen names, `subscribe` and `unsubscribe`. `given` may be another array in each render. */
export function useSelection<T>(
  given: Names,
  sourceOf: (name: string) => Source<T>,
): readonly [sources: readonly Named<T>[], subscribe: (names: Names) => void, unsubscribe: (names: Names) => void] {
  const [changes, setChanges] = useState(new Map<string, boolean>());
  const [subscribe, unsubscribe] = useMemo(
    () =>
      [true, false].map((isChosen) => (names: Names) => {
        setChanges((before) => new Map([...before, ...[names].flat().map((name) => [name, isChosen] as const)]));
      }) as [(names: Names) => void, (names: Names) => void],
    [],
  );
  const key = JSON.stringify(given);
  const sources = useMemo(() => {
    const names = new Set([given].flat());
    for (const [name, isChosen] of changes) {
      // Nothing is left of a name that was removed, and that the hook is not called with.
      if (!names[isChosen ? "add" : "delete"](name)) {
        changes.delete(name);
      }
    }
    return [...names].map((name) => ({ ...sourceOf(name), name }));
    // The key stands for `given`.
  }, [key, changes]);
  return [sources, subscribe, unsubscribe];
}
