/** Several live values shown as one: it changes when one of them does, and is the same object until then. */
import { useCallback, useMemo, useSyncExternalStore } from "react";
import { type Source, useSession, watch } from "./session.ts";

/** Shows several values, in the order of `names`. `names` and `sourceOf` must stay the same between changes. */
export function useSources<T>(names: readonly string[], sourceOf: (name: string) => Source<T>): readonly T[] {
  const session = useSession();
  const sources = useMemo(() => names.map(sourceOf), [names, sourceOf]);
  const subscribe = useCallback(
    (listener: () => void) => {
      const stops = sources.map((source) => watch(session, source, listener));
      return () => {
        for (const stop of stops) {
          stop();
        }
      };
    },
    [session, sources],
  );
  const [read, readInitial] = useMemo(
    () => [stable(() => sources.map(({ key, initial }) => session.values.read(key, initial))), stable(() => sources.map(({ initial }) => initial))],
    [session, sources],
  );
  return useSyncExternalStore(subscribe, read, readInitial);
}

/** Returns the same list while its items are the same. */
function stable<T>(read: () => readonly T[]): () => readonly T[] {
  let last: readonly T[] | undefined;
  return () => {
    const next = read();
    if (last === undefined || next.some((item, index) => item !== last?.[index])) {
      last = next;
    }
    return last;
  };
}
