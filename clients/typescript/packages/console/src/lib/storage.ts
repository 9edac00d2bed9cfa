/** Storage of the browser, which it may deny, or which may be full: then nothing outlasts the page. */

/** Names of the storages: of the browser, and of the tab. */
type StorageName = "localStorage" | "sessionStorage";

/** The stored text of a key, or `null`. */
export function readStored(storage: StorageName, key: string): string | null {
  try {
    return globalThis[storage].getItem(key);
  } catch {
    return null;
  }
}

/** Stores a text, or removes it: `null`. */
export function writeStored(storage: StorageName, key: string, text: string | null): void {
  try {
    if (text === null) {
      globalThis[storage].removeItem(key);
    } else {
      globalThis[storage].setItem(key, text);
    }
  } catch {
    // The page goes on with what it has in memory.
  }
}
