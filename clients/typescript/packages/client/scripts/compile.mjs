/**
 * Compiler of a package's JavaScript: one file for each entry, and those that entries share.
 *
 * A build of an application minifies what it gets, and two things remain that it can not do: it does not know which
 * properties nobody else reads, and it keeps a function of its own for what is called once. Both are done here, over
 * all of a package. A property whose name begins with `_` gets a short one, and `flatten.mjs` does the other.
 */
import { readFileSync } from "node:fs";
import { join, posix } from "node:path";
import { rolldown } from "rolldown";
import { minify } from "terser";
import { flatten } from "./flatten.mjs";

/** Entries that share no file with others. */
const APART = ["reconnection-manager"];

/** A plugin of Rolldown that bundles the files of this package for browsers, by their path in `dist`. */
export function filesOf(files) {
  return {
    name: "package",
    resolveId: (id, importer) => (id === "#runtime" ? "runtime/default.js" : files.get(id) ? id : posix.join(posix.dirname(importer ?? ""), id)),
    load: (id) => files.get(id),
  };
}

/** Compiles the package in a folder. Returns its files by their path in `dist`. */
export async function compile(root) {
  const { exports, imports } = JSON.parse(readFileSync(join(root, "package.json"), "utf8"));
  const sources = [...JSON.stringify({ exports, imports }).matchAll(/"tidewire:source":"\.\/src\/([^"]+)\.ts"/g)].map(([, name]) => name);
  const output = [];
  // A part of the client that such an entry uses is in it once more, so that it can be a part of the client.
  for (const group of [sources.filter((name) => !APART.includes(name)), sources.filter((name) => APART.includes(name))]) {
    if (group.length) {
      const bundle = await rolldown({
        input: Object.fromEntries(group.map((name) => [name, join(root, "src", `${name}.ts`)])),
        // `#runtime` stays: the application's bundler or runtime chooses it.
        external: /^[^./]/,
        logLevel: "silent",
        plugins: [flatten()],
      });
      output.push(...(await bundle.generate({ dir: join(root, "dist"), format: "es", sourcemap: true, chunkFileNames: "shared/[name].js" })).output);
    }
  }
  const files = new Map();
  let props;
  for (const { type, fileName, code, map } of output) {
    if (type === "chunk") {
      // A property has one name in all files.
      const nameCache = { props };
      const result = await minify(code, {
        module: true,
        ecma: 2022,
        compress: { inline: 1, passes: 2, directives: false, sequences: false, join_vars: false },
        mangle: { properties: { regex: /^_[a-z]/ } },
        nameCache,
        format: { beautify: true, preserve_annotations: true },
        // The sources are in it, since the package has none. A file that only exports again has no map.
        sourceMap: map && { content: JSON.stringify(map), includeSources: true, url: `${fileName.split("/").at(-1)}.map` },
      });
      ({ props } = nameCache);
      files.set(fileName, result.code);
      if (map) {
        files.set(`${fileName}.map`, result.map);
      }
    }
  }
  return files;
}
