/** WebSocket class of Node. A file of its own, by the condition `node` of package.json: a browser does not load it. */
import type { WebSocketConstructor } from "../environment.ts";

export { diagnose } from "./diagnosis.ts";
export { say } from "./texts.ts";

/** Returns the global WebSocket. Node 20 has none: there, that of the package `ws`, beside the folder that the application runs in or beside this package. */
export function findWebSocket(): WebSocketConstructor | undefined {
  const { WebSocket, process } = globalThis as {
    readonly WebSocket?: WebSocketConstructor;
    readonly process?: {
      cwd(): string;
      getBuiltinModule?(name: "module"): { createRequire(path: string): (name: string) => WebSocketConstructor };
    };
  };
  if (WebSocket) {
    return WebSocket;
  }
  for (const place of [`${process?.cwd() ?? ""}/`, import.meta.url]) {
    try {
      // Not `import("ws")`: a bundler for browsers would search for the package.
      return process?.getBuiltinModule?.("module").createRequire(place)("ws");
    } catch {
      // It is not there.
    }
  }
  return undefined;
}
