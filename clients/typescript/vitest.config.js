import { createRequire } from "node:module";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";
import { compile } from "./packages/client/scripts/compile.mjs";

const resolve = { conditions: ["tidewire:source", "node"] };
const shared = { resolve, ssr: { resolve } };

/**
 * The tests of the hooks with one version of React. They render into a DOM in Node (happy-dom). Files
 * share one process: each test has a client of its own, and loading React and a DOM takes longest.
 */
function react(name, folder) {
  const require = createRequire(new URL(`${folder}/package.json`, import.meta.url));
  const alias = Object.fromEntries(["react-dom", "react"].map((id) => [id, dirname(require.resolve(`${id}/package.json`))]));
  return { ...shared, resolve: { ...resolve, alias }, test: { name, include: ["packages/react/src/**/*.test.{ts,tsx}"], environment: "happy-dom", isolate: false } };
}

const CLIENT = fileURLToPath(new URL("packages/client", import.meta.url));
/** A folder that does not exist: the compiled files are in memory alone. */
const COMPILED = join(CLIENT, "compiled/");

/** The compiled client in the place of its source: what the compiler makes of it passes the same tests. */
function compiled() {
  const entries = { "client.ts": "index.js", "state-sync.ts": "index.js", "tabs/index.ts": "tabs/index.js" };
  let files;
  return {
    name: "compiled",
    enforce: "pre",
    resolveId(id, importer = "") {
      if (importer.startsWith(COMPILED)) {
        return id === "#runtime" ? `${COMPILED}runtime/node.js` : join(dirname(importer), id);
      }
      const entry = Object.entries(entries).find(([name]) => join(dirname(importer), id) === join(CLIENT, "src", name));
      return entry && COMPILED + entry[1];
    },
    async load(id) {
      if (id.startsWith(COMPILED)) {
        files ??= compile(CLIENT);
        return (await files).get(id.slice(COMPILED.length));
      }
      return undefined;
    },
  };
}

export default defineConfig({
  test: {
    projects: [
      { ...shared, test: { name: "node", include: ["packages/*/{src,test}/**/*.test.ts"], exclude: ["packages/react/src/**", "**/node_modules/**"] } },
      { ...shared, plugins: [compiled()], test: { name: "compiled", include: ["packages/client/src/**/*.test.ts"] } },
      react("react-19", "packages/react"),
      react("react-18", "packages/react-18"),
    ],
  },
});
