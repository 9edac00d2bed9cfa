/** Build of the package in the working directory: its types by the TypeScript compiler, its JavaScript by `compile.mjs`. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { compile } from "./compile.mjs";

execFileSync("npx", ["--no-install", "tsc", "-p", "tsconfig.build.json", "--emitDeclarationOnly"], { stdio: "inherit" });
const files = await compile(process.cwd());
for (const [name, text] of files) {
  const path = join("dist", name);
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}
// Of an older build.
for (const name of readdirSync("dist", { recursive: true })) {
  if (/\.js(\.map)?$/.test(name) && !files.has(name.replaceAll("\\", "/"))) {
    rmSync(join("dist", name));
  }
}
