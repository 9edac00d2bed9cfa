// Checks of the examples: each runs against the server as the README shows.
import { spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { assert, check, runUntil, WEB_SOCKET_FLAG } from "./harness.mjs";

const ROOT = fileURLToPath(new URL("../../..", import.meta.url));

export async function checkExamples(server) {
  const run = (file, expected) => runUntil(expected, process.execPath, [...WEB_SOCKET_FLAG, `packages/examples/${file}`, server], { cwd: ROOT });

  await check("the examples build", async () => {
    for (const folder of ["client", "examples"]) {
      await runUntil(/built/, "sh", ["-c", `npx tsc -p packages/${folder}/tsconfig.build.json && echo built`], { cwd: ROOT });
    }
  });
  await check("the example of prices", () => run("dist/prices.js", /connected\n[^]*BTC-USD \d+/));
  await check("the example of messages", () => run("dist/messages.js", /seq \d+: \{ text: 'hello' \}/));
  await check("the example of Server-Sent Events", () => run("src/sse.mjs", /^price \{/m));
  await check("examples say why a server cannot be reached, and what is missing", () => {
    const bare = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== "TOKEN"));
    for (const [program, file, expected] of [
      [process.execPath, "packages/examples/src/rpc.mjs", /^http:\/\/127\.0\.0\.1:1: .*(bad port|ECONNREFUSED)/],
      [process.execPath, "packages/examples/src/sse.mjs", /^http:\/\/127\.0\.0\.1:1: .*(bad port|ECONNREFUSED)/],
      ["bash", "../../examples/alerts.sh", /TOKEN: expected a token of a user/],
    ]) {
      const { status, stderr } = spawnSync(program, [file, "http://127.0.0.1:1"], { cwd: ROOT, env: bare, encoding: "utf8" });
      assert(status === 1 && expected.test(stderr), `${file}: status ${status}, ${stderr}`);
    }
  });
  await check("the example of a call", () => run("src/rpc.mjs", /BTC-USD \d+[^]*: \d+[.\d]*, live, weight/));
}
