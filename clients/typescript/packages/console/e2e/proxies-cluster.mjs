// Test of the proxies in front of three nodes: `node e2e/proxies-cluster.mjs BINARY`. It starts Redis, three nodes,
// nginx and Caddy with the files of examples/proxies/cluster, and Caddy with that of deploy/cluster. Envoy is run if
// there is a program `envoy`, or ENVOY names one. A node is stopped, and then killed, under clients over WebSocket,
// SSE and gRPC. It prints a line for each check.
import { Buffer } from "node:buffer";
import { spawn } from "node:child_process";
import { connect } from "node:http2";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import WebSocket from "ws";
import { assert, check, failed, until } from "./harness.mjs";

const binary = process.argv[2];
if (binary === undefined) {
  console.error("usage: node e2e/proxies-cluster.mjs BINARY");
  process.exit(2);
}

const CLIENTS = 10; // of each transport
const CHANNEL = "demo:cluster";
const examples = new URL("../../../../../examples/proxies/cluster/", import.meta.url);
const folder = mkdtempSync(join(tmpdir(), "tidewire-proxies-"));
const children = new Set();
process.once("exit", () => {
  for (const child of children) {
    child.kill("SIGKILL");
  }
  rmSync(folder, { recursive: true, force: true });
});

/** Starts a program. Resolves once `ready` is in its output. */
function start(command, args, ready, env = {}) {
  const child = spawn(command, args, { cwd: folder, env: { ...process.env, ...env, HOME: folder }, stdio: ["ignore", "pipe", "pipe"] });
  children.add(child);
  child.ended = new Promise((resolve) => child.on("close", resolve));
  return new Promise((resolve, reject) => {
    let output = "";
    const read = (bytes) => {
      output += output.length < 100_000 ? String(bytes) : "";
      if (ready.test(output)) {
        resolve(child);
      }
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("error", reject);
    child.on("close", () => {
      children.delete(child);
      reject(new Error(`${command} ended:\n${output}`));
    });
  });
}

/** A port that was free a moment ago. */
async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address();
  await new Promise((resolve) => server.close(resolve));
  return port;
}

const pause = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

const redis = await freePort();
await start("redis-server", ["--port", String(redis), "--save", "", "--dir", folder], /Ready to accept connections/);
// No venues: a replay would keep its channels to itself.
writeFileSync(join(folder, "tidewire.toml"), "[prices]\nsymbols = []\n");
const nodes = [];
for (let index = 0; index < 3; index += 1) {
  const port = await freePort();
  nodes.push({ port, child: undefined });
}

/** Starts a node, and waits until it is ready. */
async function startNode(node) {
  node.child = await start(binary, ["--config", "tidewire.toml", "--port", String(node.port)], /listens on /, {
    TIDEWIRE_BROKER__KIND: "redis",
    TIDEWIRE_BROKER__URL: `redis://127.0.0.1:${String(redis)}`,
    TIDEWIRE_AUTH__HMAC_SECRET: "a secret for all three, 32 bytes",
    TIDEWIRE_STORE__PATH: join(folder, `data-${String(node.port)}`),
    TIDEWIRE_SERVER__DRAIN: "4s",
  });
  await until("a node that is ready", async () => (await fetch(`http://127.0.0.1:${String(node.port)}/readyz`)).ok);
}
await Promise.all(nodes.map(startNode));

/** The text of an example, with the addresses of the nodes and the ports of this test. */
function example(name, ports) {
  let text = readFileSync(new URL(name, examples), "utf8");
  nodes.forEach(({ port }, index) => {
    text = text.replaceAll(`10.0.0.${String(index + 1)}:8080`, `127.0.0.1:${String(port)}`);
    text = text.replaceAll(`address: 10.0.0.${String(index + 1)}, port_value: 8080`, `address: 127.0.0.1, port_value: ${String(port)}`);
  });
  for (const [from, to] of ports) {
    text = text.replaceAll(new RegExp(`\\b${String(from)}\\b`, "g"), String(to));
  }
  return text;
}

/** A message of protobuf: the values of its fields by number, the last of each. */
function decode(bytes) {
  const fields = {};
  let at = 0;
  const number = () => {
    let value = 0;
    for (let factor = 1; ; factor *= 128) {
      const byte = bytes[at++];
      value += (byte & 127) * factor;
      if (byte < 128) {
        return value;
      }
    }
  };
  while (at < bytes.length) {
    const key = number();
    let value = 0;
    if (key % 8 === 2) {
      const length = number();
      value = bytes.subarray(at, at + length);
      at += length;
    } else if (key % 8 === 1) {
      at += 8;
    } else {
      value = number();
    }
    fields[key >> 3] = value;
  }
  return fields;
}

/** A field of protobuf: bytes or a small number. */
function field(number, value) {
  if (typeof value === "number") {
    const digits = [];
    for (let rest = value; rest > 127; rest = Math.floor(rest / 128)) {
      digits.push((rest % 128) + 128);
    }
    digits.push(Math.floor(value / 128 ** digits.length));
    return Buffer.from([number << 3, ...digits]);
  }
  return Buffer.concat([Buffer.from([(number << 3) | 2, value.length]), value]);
}

/** One connection over each transport. `listener` hears `(type, data, seq)`; the result ends it. */
const transports = {
  WebSocket(address, position, listener, end) {
    const socket = new WebSocket(`ws://${address.http}/v1/ws`);
    socket.on("open", () => socket.send(JSON.stringify({ type: "subscribe", data: { channels: [{ channel: CHANNEL, since: position }] } })));
    socket.on("message", (text) => {
      for (const line of String(text).split("\n")) {
        const { type, data, seq } = JSON.parse(line);
        listener(type, type === "subscribed" ? data.channels[0] : data, seq);
      }
    });
    socket.on("error", (error) => end(error.message));
    socket.on("close", (code) => end(`closed with ${String(code)}`));
    return () => socket.terminate();
  },
  SSE(address, position, listener, end) {
    const stop = new AbortController();
    const cursor = position && `&lastEventId=${Buffer.from(`${position.epoch} ${String(position.seq)} ${CHANNEL}`).toString("base64url")}`;
    const read = async () => {
      const response = await fetch(`http://${address.http}/v1/sse?channels=${CHANNEL}${cursor ?? ""}`, { signal: stop.signal });
      assert(response.ok, `status ${String(response.status)}`);
      let text = "";
      for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
        const lines = (text + part).split("\n");
        text = lines.pop();
        for (const line of lines) {
          if (line.startsWith("data:")) {
            const { type, data, seq } = JSON.parse(line.slice(5));
            listener(type, type === "subscribed" ? data.channels[0] : data, seq);
          }
        }
      }
    };
    read().then(() => end("ended"), (error) => end(String(error.cause ?? error)));
    return () => stop.abort();
  },
  gRPC(address, position, listener, end) {
    const session = connect(`http://${address.grpc}`);
    session.on("error", (error) => end(error.message));
    session.on("close", () => end("closed"));
    const path = "/tidewire.v1.StreamService/Subscribe";
    const call = session.request({ ":method": "POST", ":path": path, "content-type": "application/grpc", te: "trailers" });
    const since = position === undefined ? [] : [field(2, Buffer.concat([field(1, Buffer.from(position.epoch)), field(2, position.seq)]))];
    const request = field(1, Buffer.concat([field(1, Buffer.from(CHANNEL)), ...since]));
    call.end(Buffer.concat([Buffer.from([0, 0, 0, 0, request.length]), request]));
    // The status is in the headers of a response without messages.
    const status = (headers) => headers["grpc-status"] !== undefined && end(`grpc-status ${headers["grpc-status"]} ${String(headers["grpc-message"])}`);
    call.on("response", (headers) => (headers[":status"] === 200 ? status(headers) : end(`status ${String(headers[":status"])}`)));
    call.on("trailers", status);
    call.on("end", () => end("ended"));
    call.on("error", (error) => end(error.message));
    let bytes = Buffer.alloc(0);
    call.on("data", (part) => {
      bytes = Buffer.concat([bytes, part]);
      while (bytes.length >= 5 && bytes.length >= 5 + bytes.readUInt32BE(1)) {
        const length = bytes.readUInt32BE(1);
        const fields = decode(bytes.subarray(5, 5 + length));
        bytes = bytes.subarray(5 + length);
        if (fields[12] !== undefined) {
          const result = decode(decode(fields[12])[1]);
          listener("subscribed", { epoch: String(result[2]), seq: result[3] ?? 0 });
        } else if (fields[40] !== undefined) {
          listener("message", JSON.parse(String(fields[40])), fields[3]);
        } else if (fields[42] !== undefined) {
          listener("reconnect", { afterMs: decode(fields[42])[2] ?? 0 });
        }
      }
    });
    return () => session.destroy();
  },
};

/** A client that comes back, and goes on at its position. */
class Client {
  received = new Set();
  reconnects = 0;
  faults = [];
  subscribed = false;
  #position;
  #stop = () => undefined;
  #isOver = false;

  constructor(transport, address) {
    this.transport = transport;
    this.address = address;
    this.#connect();
  }

  #connect() {
    let isOpen = true;
    const again = (milliseconds) => {
      isOpen = false;
      this.subscribed = false;
      setTimeout(() => {
        this.#stop();
        if (!this.#isOver) {
          this.#connect();
        }
      }, milliseconds);
    };
    const listener = (type, data, seq) => {
      if (type === "subscribed") {
        this.subscribed = isOpen;
        this.#position = { epoch: data.epoch, seq: this.#position?.seq ?? data.seq };
      } else if (type === "message") {
        this.received.add(data.n);
        this.#position.seq = Math.max(this.#position.seq, seq);
      } else if (type === "reconnect" && isOpen) {
        this.reconnects += 1;
        again(data.afterMs);
      }
    };
    const end = (fault) => {
      if (isOpen && !this.#isOver) {
        this.faults.push(fault);
        again(200);
      }
    };
    this.#stop = transports[this.transport](this.address, this.#position, listener, end);
  }

  stop() {
    this.#isOver = true;
    this.#stop();
  }
}

/** Stops or kills a node under clients of all transports. `leave` and `join` tell the proxy, if it has to be told. */
async function drain(address, { leave, join: rejoin, kill = false }) {
  await pause(2500); // until the proxy has found all nodes ready
  const clients = Object.keys(transports).flatMap((transport) => Array.from({ length: CLIENTS }, () => new Client(transport, address)));
  let published = 0;
  let isOver = false;
  const publisher = async () => {
    for (; !isOver; published += 1) {
      // A node that stays.
      const body = JSON.stringify({ channel: CHANNEL, data: { n: published } });
      const response = await fetch(`http://127.0.0.1:${String(nodes[1].port)}/v1/rpc/StreamService/Publish`, { method: "POST", body });
      assert(response.ok, await response.text());
      await pause(20);
    }
  };
  try {
    await until("all clients are subscribed", () => clients.every((client) => client.subscribed));
    const done = publisher();
    await pause(300);
    const first = published;
    const [node] = nodes;
    await leave?.();
    node.child.kill(kill ? "SIGKILL" : "SIGTERM");
    await node.child.ended;
    await until("all clients are subscribed again", () => clients.every((client) => client.subscribed));
    await startNode(node);
    await rejoin?.();
    await pause(300);
    isOver = true;
    await done;
    const all = Array.from({ length: published - first }, (_, index) => first + index);
    const missed = () => clients.filter((client) => !all.every((n) => client.received.has(n)));
    await until("every publication at every client", () => missed().length === 0);
    return {
      moved: clients.filter((client) => client.reconnects > 0).length,
      twice: clients.filter((client) => client.reconnects > 1).length,
      faults: clients.flatMap((client) => client.faults),
    };
  } catch (error) {
    const lost = clients.filter((client) => !client.subscribed || client.faults.length > 0 || client.received.size < published - 5);
    console.log(lost.map((client) => `#   ${client.transport}: ${client.subscribed ? "subscribed" : "not subscribed"}, ${String(client.received.size)} of ${String(published)}, ${client.faults.join("; ")}`).join("\n"));
    throw error;
  } finally {
    isOver = true;
    clients.forEach((client) => client.stop());
  }
}

const proxies = {
  async nginx() {
    const [http, grpc] = [await freePort(), await freePort()];
    const text = example("nginx.conf", [[8000, http], [8003, grpc]]);
    const file = join(folder, "nginx.conf");
    const write = (body) => writeFileSync(file, `daemon off;\npid ${folder}/nginx.pid;\nerror_log stderr notice;\n${body.replace("http {", "http {\naccess_log off;")}`);
    write(text);
    const child = await start("nginx", ["-p", folder, "-c", file, "-e", "stderr"], /start worker process /);
    const reload = async (body) => {
      write(body);
      child.kill("SIGHUP");
      await pause(700);
    };
    const first = `server 127.0.0.1:${String(nodes[0].port)}`;
    const leave = () => reload(text.replaceAll(first, `${first} down`));
    return { address: { http: `127.0.0.1:${String(http)}/tidewire`, grpc: `127.0.0.1:${String(grpc)}` }, leave, join: () => reload(text) };
  },
  async Caddy() {
    const port = await freePort();
    writeFileSync(join(folder, "Caddyfile"), example("Caddyfile", [[8001, port]]).replace("{\n", "{\n\tadmin off\n"));
    await start("caddy", ["run", "--adapter", "caddyfile", "--config", "Caddyfile"], /serving initial configuration/);
    return { address: { http: `127.0.0.1:${String(port)}/tidewire`, grpc: `127.0.0.1:${String(port)}` } };
  },
  async "Caddy of the kit"() {
    const port = await freePort();
    const text = readFileSync(new URL("../../../deploy/cluster/Caddyfile", examples), "utf8");
    // Without a name, Caddy serves no TLS. gRPC then comes over HTTP/2 without TLS.
    writeFileSync(join(folder, "Kitfile"), `{\n\tadmin off\n\tservers {\n\t\tprotocols h1 h2 h2c\n\t}\n}\n${text}`);
    const upstreams = nodes.map((node, index) => [`UPSTREAM_${String(index + 1)}`, `127.0.0.1:${String(node.port)}`]);
    const addresses = { SITE_ADDRESS: `:${String(port)}`, ...Object.fromEntries(upstreams) };
    await start("caddy", ["run", "--adapter", "caddyfile", "--config", "Kitfile"], /serving initial configuration/, addresses);
    return { address: { http: `127.0.0.1:${String(port)}`, grpc: `127.0.0.1:${String(port)}` } };
  },
  async Envoy() {
    const port = await freePort();
    writeFileSync(join(folder, "envoy.yaml"), example("envoy.yaml", [[8002, port]]));
    await start(process.env.ENVOY ?? "envoy", ["-c", "envoy.yaml", "--concurrency", "2", "--use-dynamic-base-id"], /starting main dispatch loop/);
    return { address: { http: `127.0.0.1:${String(port)}/tidewire`, grpc: `127.0.0.1:${String(port)}` } };
  },
};
const only = process.env.PROXIES?.split(",");
for (const [name, run] of Object.entries(proxies)) {
  if (only !== undefined && !only.includes(name)) {
    continue;
  }
  let proxy;
  try {
    proxy = await run();
  } catch (error) {
    if (name !== "Envoy" || error.code !== "ENOENT") {
      throw error;
    }
    console.log(`# no program ${process.env.ENVOY ?? "envoy"}: Envoy is not run`);
    continue;
  }
  await check(`${name}: the clients of a node that stops move once, and miss nothing`, async () => {
    const { moved, twice, faults } = await drain(proxy.address, proxy);
    console.log(`# ${String(moved)} of ${String(3 * CLIENTS)} moved, ${String(twice)} of them twice`);
    assert(moved > 0 && twice === 0, `${String(moved)} moved, ${String(twice)} of them twice`);
    assert(faults.length === 0, faults.join(", "));
  });

  await check(`${name}: the clients of a node that is killed miss nothing`, async () => {
    const { faults } = await drain(proxy.address, { kill: true });
    assert(faults.length > 0, "no client was on the node");
    assert(faults.length <= 2 * CLIENTS, `${String(faults.length)} faults: ${faults.join(", ")}`);
  });
}
process.exit(failed() === 0 ? 0 : 1);
