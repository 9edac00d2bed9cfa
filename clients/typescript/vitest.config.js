import { createRequire } from "node:module";
import { dirname } from "node:path";
import { defineConfig } from "vitest/config";

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

export default defineConfig({
  test: {
    projects: [
      { ...shared, test: { name: "node", include: ["packages/*/{src,test}/**/*.test.ts"], exclude: ["packages/react/src/**", "**/node_modules/**"] } },
      react("react-19", "packages/react"),
      react("react-18", "packages/react-18"),
    ],
  },
});
