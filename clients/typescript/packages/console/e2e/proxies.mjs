// Test of the proxies of docs/deployment.md: `node e2e/proxies.mjs BINARY`. It starts a server, and
// nginx and Caddy with the files of examples/proxies in front of it, and Caddy with that of deploy/. Envoy is run if
// there is a program `envoy`, or ENVOY names one. It prints a line for each check.
import { spawn } from "node:child_process";
import { connect } from "node:http2";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket from "ws";
import { assert, check, failed, openBrowser, until } from "./harness.mjs";

const binary = process.argv[2];
if (binary === undefined) {
  console.error("usage: node e2e/proxies.mjs BINARY");
  process.exit(2);
}

const examples = new URL("../../../../../examples/proxies/", import.meta.url);
const folder = mkdtempSync(join(tmpdir(), "tidewire-proxies-"));
const children = [];
process.once("exit", () => {
  for (const child of children) {
    child.kill("SIGKILL");
  }
  rmSync(folder, { recursive: true, force: true });
});

/** Starts a program. Resolves to the match of `ready` in its output. */
function start(command, args, ready, env = {}) {
  const child = spawn(command, args, { cwd: folder, env: { ...process.env, ...env, HOME: folder }, stdio: ["ignore", "pipe", "pipe"] });
  children.push(child);
  return new Promise((resolve, reject) => {
    let output = "";
    const read = (bytes) => {
      output += output.length < 100_000 ? String(bytes) : "";
      const match = ready.exec(output);
      if (match !== null) {
        resolve(match);
      }
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("error", reject);
    child.on("close", () => reject(new Error(`${command} ended:\n${output}`)));
  });
}

/** A port that was free a moment ago. */
async function freePort() {
  const { createServer } = await import("node:net");
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

// A server that pings three times as often as the proxies lose patience.
writeFileSync(join(folder, "tidewire.toml"), '[server]\nlisten = "127.0.0.1:0"\nkeepalive = "1s"\ntrusted_proxies = ["127.0.0.1"]\n');
const [, upstream] = await start(binary, ["replay", "--loop", "--config", "tidewire.toml"], /listens on http:\/\/([0-9.:]+)/);

const [nginxPort, caddyPort, kitPort] = [await freePort(), await freePort(), await freePort()];
const nginx = readFileSync(new URL("nginx.conf", examples), "utf8")
  .replaceAll("127.0.0.1:8080", upstream)
  .replace("listen 8000", `listen ${String(nginxPort)}`)
  .replaceAll("75s", "3s");
writeFileSync(join(folder, "nginx.conf"), `daemon off;\npid ${folder}/nginx.pid;\nerror_log stderr notice;\n${nginx.replace("http {", "http {\naccess_log off;")}`);
const caddy = readFileSync(new URL("Caddyfile", examples), "utf8").replaceAll("127.0.0.1:8080", upstream).replaceAll(":8001", `:${String(caddyPort)}`);
writeFileSync(join(folder, "Caddyfile"), `{\n\tadmin off\n}\n${caddy}`);
await start("nginx", ["-p", folder, "-c", join(folder, "nginx.conf"), "-e", "stderr"], /start worker process /);
await start("caddy", ["run", "--adapter", "caddyfile", "--config", "Caddyfile"], /serving initial configuration/);

// Without a name, Caddy serves no TLS. gRPC then comes over HTTP/2 without TLS.
const kit = readFileSync(new URL("../../deploy/Caddyfile", examples), "utf8");
writeFileSync(join(folder, "Kitfile"), `{\n\tadmin off\n\tservers {\n\t\tprotocols h1 h2 h2c\n\t}\n}\n${kit}`);
const addresses = { SITE_ADDRESS: `:${String(kitPort)}`, UPSTREAM: upstream };
await start("caddy", ["run", "--adapter", "caddyfile", "--config", "Kitfile"], /serving initial configuration/, addresses);

const fronts = [["nginx", nginxPort, "/tidewire"], ["Caddy", caddyPort, "/tidewire"], ["Caddy of the kit", kitPort, ""]];
const envoyPort = await freePort();
const [host, upstreamPort] = upstream.split(":");
const envoy = readFileSync(new URL("envoy.yaml", examples), "utf8")
  .replaceAll("address: 127.0.0.1, port_value: 8080", `address: ${host}, port_value: ${upstreamPort}`)
  .replaceAll("port_value: 8002", `port_value: ${String(envoyPort)}`)
  .replaceAll("75s", "3s");
writeFileSync(join(folder, "envoy.yaml"), envoy);
try {
  await start(process.env.ENVOY ?? "envoy", ["-c", "envoy.yaml", "--concurrency", "2", "--use-dynamic-base-id"], /starting main dispatch loop/);
  fronts.push(["Envoy", envoyPort, "/tidewire"]);
} catch (error) {
  if (error.code !== "ENOENT") {
    throw error;
  }
  console.log("# Envoy is not run: there is no such program");
}

/** Reads a stream until `isEnough` says so. Returns the text. */
async function read(url, isEnough) {
  const stop = new AbortController();
  const response = await fetch(url, { signal: stop.signal });
  let text = "";
  for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
    text += bytes;
    if (isEnough(text)) {
      break;
    }
  }
  stop.abort();
  return text;
}

const browser = await openBrowser();
for (const [name, port, path] of fronts) {
  const origin = `http://localhost:${String(port)}`;
  const url = `${origin}${path}`;

  await check(`${name}: calls pass, from a page of its own origin too`, async () => {
    for (const headers of [{}, { origin }]) {
      const response = await fetch(`${url}/v1/rpc/PriceService/GetPrice`, { method: "POST", headers, body: '{"symbol":"BTC-USD"}' });
      assert(response.status === 200, `status ${String(response.status)}`);
    }
  });

  await check(`${name}: a page of another origin is refused`, async () => {
    const response = await fetch(`${url}/v1/rpc/PriceService/ListSources`, { method: "POST", headers: { origin: "https://evil.example" }, body: "{}" });
    assert(response.status === 403, `status ${String(response.status)}`);
  });

  await check(`${name}: its clients do not operate the server`, async () => {
    for (const headers of [{}, { "x-forwarded-for": "127.0.0.1" }]) {
      const { status } = await fetch(`${url}/metrics`, { headers });
      assert(status === 403 || status === 401, `status ${String(status)}`);
    }
  });

  await check(`${name}: events come at once, and pings keep a quiet stream open`, async () => {
    const text = await read(`${url}/v1/sse?channels=demo:quiet`, (all) => all.split("event: ping").length > 2);
    assert(text.includes("event: welcome"), text);
  });

  await check(`${name}: a quiet WebSocket outlives the proxy's patience`, async () => {
    const socket = new WebSocket(`${url.replace("http", "ws")}/v1/ws`, { origin });
    let pings = 0;
    let end;
    socket.on("ping", () => (pings += 1));
    socket.on("close", (code) => (end = code));
    socket.on("error", (error) => (end = error.message));
    // Five pings, a second apart, are longer than the three seconds of the proxy.
    await until("five pings", () => pings >= 5 || end !== undefined);
    assert(end === undefined, `closed with ${String(end)}`);
    socket.terminate();
  });

  await check(`${name}: the console page works under its path`, async () => {
    const page = await browser.context.newPage();
    await page.goto(`${url}/#/prices`);
    await page.locator("#state", { hasText: /^Connected$/ }).waitFor();
    await page.locator('tr[data-symbol="BTC-USD"] .digits', { hasText: /\d/ }).waitFor();
    await page.close();
  });
}
await check("Caddy of the kit: native gRPC passes", async () => {
  const session = connect(`http://localhost:${String(kitPort)}`);
  session.on("error", () => undefined);
  const call = session.request({ ":method": "POST", ":path": "/grpc.health.v1.Health/Check", "content-type": "application/grpc", te: "trailers" });
  const status = new Promise((resolve, reject) => {
    call.on("trailers", (trailers) => resolve(trailers["grpc-status"]));
    call.on("error", reject);
    call.on("end", () => resolve("no trailers"));
  });
  call.end(new Uint8Array(5)); // an empty message
  call.resume();
  assert(String(await status) === "0", `status ${String(await status)}`);
  session.close();
});
await browser.close();
process.exit(failed() === 0 ? 0 : 1);
