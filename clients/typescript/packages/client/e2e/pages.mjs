// Pages of the browser checks, with the client as it is published.
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { rolldown } from "rolldown";
import { compile, filesOf } from "../scripts/compile.mjs";

const ENTRY = "entry.js";

/** The client and its tabs as one script, which puts them in `window.tidewire`. As published: what tests on the sources do not see. */
async function bundle() {
  const files = await compile(fileURLToPath(new URL("..", import.meta.url)));
  files.set(ENTRY, `import * as client from "./index.js"; import * as tabs from "./tabs/index.js"; window.tidewire = { ...client, ...tabs };`);
  const built = await rolldown({ input: ENTRY, plugins: [filesOf(files)] });
  const { output } = await built.generate({ format: "iife" });
  return output[0].code;
}

/** A page of an application: a button that publishes, what the channel has, and a link away. */
const APP = `<!doctype html><meta name="viewport" content="width=device-width, initial-scale=1"><title>app</title><script src="/client.js"></script>
<button>Send</button> <a href="/other">Away</a><ul></ul>
<script>
  const url = new URLSearchParams(location.search).get("url");
  const channel = new URLSearchParams(location.search).get("channel");
  window.client = new tidewire.WebSocketClient(url);
  client.subscribe(channel, ({ type, data, replayed }) => {
    const line = document.createElement("li");
    line.textContent = type === "gap" ? "gap" : data + (replayed ? " (missed)" : "");
    document.querySelector("ul").append(line);
  });
  let count = 0;
  document.querySelector("button").onclick = () => client.publish(channel, "tap " + (count += 1));
  client.connect();
</script>`;
/** A page that may share and store nothing: a frame in a sandbox. It tells its state to the page around it. */
const SANDBOX = '<!doctype html><iframe sandbox="allow-scripts" src="/frame"></iframe>';

/** Serves the pages. `origin` is their address. */
export async function startPages() {
  const script = await bundle();
  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, "http://pages");
    response.setHeader("content-type", pathname === "/client.js" ? "text/javascript" : "text/html");
    response.end({ "/client.js": script, "/app": APP, "/sandbox": SANDBOX }[pathname] ?? '<!doctype html><title>test</title><script src="/client.js"></script>');
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  return { origin: `http://127.0.0.1:${server.address().port}`, close: () => server.close() };
}
