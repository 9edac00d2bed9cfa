/** Selection: the names that a hook was called with, and those that its component adds and removes. */
import { useCallback, useMemo, useState } from "react";

/** One name or several. */
export type Names = string | readonly string[];

/** The chosen names, and how to change them. */
export interface Selection {
  readonly names: readonly string[];
  readonly subscribe: (names: Names) => void;
  readonly unsubscribe: (names: Names) => void;
}

/** Keeps a selection. `given` may be another array in each render. */
export function useSelection(given: Names): Selection {
  const key = JSON.stringify(given);
  const [changes, setChanges] = useState<ReadonlyMap<string, boolean>>(new Map());
  const change = useCallback((names: Names, isChosen: boolean) => {
    setChanges((before) => new Map([...before, ...[names].flat().map((name) => [name, isChosen] as const)]));
  }, []);
  const names = useMemo(() => {
    const added = [...changes].filter(([, isChosen]) => isChosen).map(([name]) => name);
    return [...new Set([given, added].flat())].filter((name) => changes.get(name) !== false);
    // The key stands for `given`.
  }, [key, changes]);
  return {
    names,
    subscribe: useCallback((names: Names) => {
      change(names, true);
    }, [change]),
    unsubscribe: useCallback((names: Names) => {
      change(names, false);
    }, [change]),
  };
}
