/** The source maps of the package as it is published. */
import { SourceMap } from "node:module";
import { fileURLToPath } from "node:url";
import { expect, it } from "vitest";
import { compile } from "../scripts/compile.mjs";

it("a place in a compiled file is that of its source, which the map has", async () => {
  const files = await compile(fileURLToPath(new URL("..", import.meta.url)));
  for (const [file, source, text] of [
    ["tabs/index.js", "../../src/tabs/index.ts", "`tidewire/2|"],
    ["tabs/index.js", "../../src/tabs/leader.ts", '"the server drains"'],
    ["shared/client.js", "../../src/wires.ts", '"tidewire.v1.json"'],
    ["testing/index.js", "../../src/testing/server.ts", '"failed_precondition"'],
  ] as const) {
    const lines = files.get(file)?.split("\n") ?? [];
    const line = lines.findIndex((each) => each.includes(text));
    const map = JSON.parse(files.get(`${file}.map`) ?? "{}") as { sources: string[]; sourcesContent: string[] };
    const found = new SourceMap(map as unknown as ConstructorParameters<typeof SourceMap>[0]).findEntry(line, lines[line]?.indexOf(text) ?? 0);
    expect(found).toMatchObject({ originalSource: source });
    const original = map.sourcesContent[map.sources.indexOf(source)]?.split("\n");
    expect(original?.["originalLine" in found ? found.originalLine : 0]).toContain(text);
  }
  const maps = [...files].filter(([file]) => file.endsWith(".map"));
  const sources = maps.flatMap(([, map]) => (JSON.parse(map) as { sources: string[] }).sources);
  expect(sources.filter((source) => !/^(\.\.\/)+src\/.+\.ts$/.test(source))).toEqual([]);
}, 60_000);
