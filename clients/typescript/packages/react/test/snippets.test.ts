/**
 * Snippets of the documentation: each piece of JavaScript and TypeScript in a README, in a page of `docs/` and in a comment
 * of the packages has the types of the packages, in a project as strict as these are.
 *
 * Names that a snippet leaves out, such as `client`, are in `GLOBALS`. A file of an application in JavaScript (```` ```jsx file=main.jsx ````)
 * names no types of parameters; that alone is not a fault in it.
 */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import ts from "typescript";
import { describe, expect, it } from "vitest";

const LIMIT = 120_000;
const ROOT = fileURLToPath(new URL("../../../../..", import.meta.url));
const TYPESCRIPT = join(ROOT, "clients/typescript");
/** A folder that does not exist: it finds modules as a file of this package does. */
const FOLDER = join(TYPESCRIPT, "packages/react/snippets");

/** Names that the text around a snippet, or a snippet before it, has made. */
const GLOBALS = `
declare const WebSocketClient: typeof import("@tidewire/client").WebSocketClient;
declare const client: import("@tidewire/client").WebSocketClient;
declare const useClient: typeof import("@tidewire/react").useClient;
declare const useChannel: typeof import("@tidewire/react").useChannel;
declare const useNotifications: typeof import("@tidewire/react").useNotifications;
declare const useEffect: typeof import("react").useEffect;
declare const parseExact: typeof import("@tidewire/client/exact").parseExact;
declare const exact: typeof import("@tidewire/client/exact").exact;
declare const FakeServer: typeof import("@tidewire/client/testing").FakeServer;
declare const server: import("@tidewire/client/testing").FakeServer;
declare const url: string;
declare const getToken: () => Promise<string>;
declare const hash: string;
declare const threshold: number;
declare const render: (state: readonly string[]) => void;
declare const toast: (title: string) => void;
declare const show: (...values: readonly (string | number | null)[]) => void;
declare const worker: ServiceWorkerRegistration;
declare const call: (method: string, request: object) => Promise<{ readonly publicKey: string }>;
declare const body: string;
declare const headers: Record<string, string>;
/** The page of each tutorial has this element. */
interface Document {
  getElementById(id: "root"): HTMLElement;
}
declare module "*/alerts.jsx" {
  export const Alerts: () => import("react").ReactElement;
}
declare module "standardwebhooks" {
  export class Webhook {
    constructor(secret: string);
    verify(body: string, headers: Record<string, string>): unknown;
  }
}
`;

/** A piece of code, and where it stands. */
interface Snippet {
  readonly document: string;
  /** The line of its first one, from 0. */
  readonly line: number;
  readonly language: string;
  /** What the fence says after the language: `file=main.jsx`, or `worker`. */
  readonly info: string;
  readonly code: string;
}

const LANGUAGES = ["js", "jsx", "ts", "tsx", "javascript", "typescript", "mjs"];

function snippetsOf(document: string): Snippet[] {
  const text = readFileSync(join(ROOT, document), "utf8");
  // In a comment, each line begins with a star.
  const lines = text.split("\n").map((line) => (document.endsWith(".md") ? line : line.replace(/^ *\* ?/, "")));
  const snippets: Snippet[] = [];
  for (let start = 0; start < lines.length; start += 1) {
    const [, language, info = ""] = /^```(\w+) ?(.*)$/.exec(lines[start] ?? "") ?? [];
    if (language !== undefined) {
      const end = lines.indexOf("```", start + 1);
      if (LANGUAGES.includes(language)) {
        snippets.push({ document, line: start + 1, language, info, code: lines.slice(start + 1, end).join("\n") });
      }
      start = end;
    }
  }
  return snippets;
}

const list = (folder: string, pattern: RegExp): string[] =>
  readdirSync(join(ROOT, folder), { recursive: true, encoding: "utf8" })
    .filter((name) => pattern.test(name))
    .map((name) => join(folder, name));

const PAGES = [
  "README.md",
  ...list("docs", /\.md$/),
  ...["packages", "examples"].flatMap((folder) =>
    readdirSync(join(TYPESCRIPT, folder))
      .map((name) => join("clients/typescript", folder, name, "README.md"))
      .filter((name) => existsSync(join(ROOT, name))),
  ),
];
const SOURCES = ["client", "react"].flatMap((name) => list(`clients/typescript/packages/${name}/src`, /(?<!\.test)\.tsx?$/));
const ALL = [...PAGES, ...SOURCES].flatMap(snippetsOf);

/** The options of the packages. */
const { compilerOptions } = ts.readConfigFile(join(TYPESCRIPT, "tsconfig.base.json"), (path) => readFileSync(path, "utf8")).config as { compilerOptions: Record<string, unknown> };

/** The files of the libraries and packages, which all programs share. */
const shared = new Map<string, ts.SourceFile | undefined>();

/** Compiles snippets together. Returns what is wrong with them, by their places. */
function faultsOf(snippets: readonly Snippet[], more: Record<string, unknown>): string[] {
  const texts = new Map([[join(FOLDER, "globals.d.ts"), GLOBALS]]);
  const places = new Map<string, Snippet>();
  snippets.forEach((snippet, index) => {
    const { language, info, code, document } = snippet;
    const file = /file=(\S+)\.jsx/.exec(info)?.[1];
    // The files of one application import each other.
    const path = join(FOLDER, file === undefined ? String(index) : document.replace(/\W/g, "-"), `${file ?? "snippet"}${language.endsWith("x") ? ".tsx" : ".ts"}`);
    texts.set(path, `${code}\nexport {};\n${info === "worker" ? "declare const self: ServiceWorkerGlobalScope;" : ""}`);
    places.set(path, snippet);
  });
  const { options, errors } = ts.convertCompilerOptionsFromJson({ ...compilerOptions, noUnusedLocals: false, jsx: "react-jsx", noEmit: true, ...more }, FOLDER);
  expect(errors).toEqual([]);
  const host = ts.createCompilerHost(options);
  const [fileExists, readFile, getSourceFile] = [host.fileExists.bind(host), host.readFile.bind(host), host.getSourceFile.bind(host)];
  host.directoryExists = (path) => path.startsWith(FOLDER) || ts.sys.directoryExists(path);
  host.fileExists = (path) => texts.has(path) || fileExists(path);
  host.readFile = (path) => texts.get(path) ?? readFile(path);
  host.getSourceFile = (path, version, ...rest) => {
    const text = texts.get(path);
    if (text !== undefined) {
      return ts.createSourceFile(path, text, version);
    }
    const file = shared.get(path) ?? getSourceFile(path, version, ...rest);
    shared.set(path, file);
    return file;
  };
  const program = ts.createProgram([...texts.keys()], options, host);
  // The packages have their own check.
  const own = [...texts.keys()].flatMap((path) => {
    const file = program.getSourceFile(path);
    return [...program.getSyntacticDiagnostics(file), ...program.getSemanticDiagnostics(file)];
  });
  return [...program.getOptionsDiagnostics(), ...program.getGlobalDiagnostics(), ...own].map(({ file, start = 0, messageText }) => {
    const { document = file?.fileName ?? "", line = 0 } = places.get(file?.fileName ?? "") ?? {};
    const found = file?.getLineAndCharacterOfPosition(start).line ?? 0;
    return `${document}:${String(line + found + 1)}: ${ts.flattenDiagnosticMessageText(messageText, "\n")}`;
  });
}

const isFile = ({ info }: Snippet): boolean => info.startsWith("file=");
const isWorker = ({ info }: Snippet): boolean => info === "worker";

describe("the snippets of the documentation", () => {
  it("are found: none of the client's pages is without one", () => {
    const found = new Set(ALL.map(({ document }) => document));
    for (const name of ["docs/tutorial-prices.md", "docs/tutorial-checkout.md", "docs/tutorial-alerts.md", "client", "react"]) {
      expect(found).toContain(name.startsWith("docs") ? name : `clients/typescript/packages/${name}/README.md`);
    }
  });

  it("stand in fences, where they are found", () => {
    const hidden = PAGES.flatMap((page) => {
      const text = readFileSync(join(ROOT, page), "utf8").replace(/^```[^]*?^```$/gm, (fence) => fence.replace(/[^\n]/g, ""));
      return text.split("\n").flatMap((line, index) => (/^ {4}((export )?(const|let|import|function|async|await)\b|\w+\.\w+\()/.test(line) ? [`${page}:${String(index + 1)}: ${line.trim()}`] : []));
    });
    expect(hidden).toEqual([]);
  });

  it("have the types of the packages", { timeout: LIMIT }, () => {
    expect(faultsOf(ALL.filter((snippet) => !isFile(snippet) && !isWorker(snippet)), {})).toEqual([]);
  });

  it("have them in a service worker too", { timeout: LIMIT }, () => {
    const snippets = ALL.filter(isWorker);
    expect(snippets).not.toEqual([]);
    expect(faultsOf(snippets, { lib: ["ES2023", "DOM", "WebWorker"] })).toEqual([]);
  });

  it("have them in applications in JavaScript, whose parameters have no types", { timeout: LIMIT }, () => {
    expect(faultsOf(ALL.filter(isFile).filter(({ language }) => LANGUAGES.includes(language)), { noImplicitAny: false })).toEqual([]);
  });
});
