// One rule set for all packages: typescript-eslint's strictest, and no default exports.
import js from "@eslint/js";
import { defineConfig, globalIgnores } from "eslint/config";
import tseslint from "typescript-eslint";

const globals = (...names) => Object.fromEntries(names.map((name) => [name, "readonly"]));
const nodeGlobals = globals("AbortController", "clearTimeout", "console", "fetch", "process", "setTimeout", "TextDecoderStream", "URL", "WebSocket");
/** Globals of functions that the browser test runs in the page. */
const pageGlobals = globals("CSSStyleSheet", "DOMException", "FontFace", "Event", "addEventListener", "history", "localStorage", "MutationObserver", "NodeFilter", "atob", "document", "navigator", "window");

export default defineConfig(
  // The Next.js example has dependencies of its own; its build checks it.
  globalIgnores(["**/dist/", "**/node_modules/", "examples/next/"]),
  js.configs.recommended,
  {
    files: ["**/*.ts", "packages/console/src/**/*.tsx"],
    extends: [tseslint.configs.strictTypeChecked, tseslint.configs.stylisticTypeChecked],
    languageOptions: { parserOptions: { projectService: true, tsconfigRootDir: import.meta.dirname } },
    rules: {
      "@typescript-eslint/consistent-type-imports": "error",
      "@typescript-eslint/explicit-module-boundary-types": "error",
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_" }],
      "@typescript-eslint/restrict-template-expressions": ["error", { allowNumber: true }],
      "@typescript-eslint/switch-exhaustiveness-check": ["error", { considerDefaultExhaustiveForUnions: true }],
    },
  },
  {
    files: ["packages/**"],
    rules: {
      eqeqeq: "error",
      "max-lines": ["error", { max: 500 }],
      "no-restricted-syntax": [
        "error",
        { selector: "ExportDefaultDeclaration", message: "Name what is exported: no default exports." },
        {
          selector: "AssignmentExpression[left.property.name=/^(innerHTML|outerHTML)$/]",
          message: "Text from the wire goes through textContent.",
        },
        { selector: "CallExpression[callee.property.name='insertAdjacentHTML']", message: "Text from the wire goes through textContent." },
      ],
    },
  },
  { files: ["**/*.mjs", "**/*.js"], languageOptions: { globals: nodeGlobals } },
  { files: ["packages/*/e2e/*.mjs"], languageOptions: { globals: pageGlobals } },
  { files: ["**/*.config.ts", "**/*.config.js"], rules: { "no-restricted-syntax": "off" }, },
);
