// uWebSockets beside the server under test: a URL names the channels that a socket
// follows, and on /pub a message is `channel\npayload`. Arguments name the files of a
// certificate and its key.
const [certificate, key] = process.argv.slice(2);
const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  tls: certificate && { cert: Bun.file(certificate), key: Bun.file(key) },
  fetch(request, server) {
    const url = new URL(request.url);
    const channels = (url.searchParams.get("ch") ?? "").split(",").filter((name) => name !== "");
    const data = { channels, publishes: url.pathname === "/pub" };
    return server.upgrade(request, { data }) ? undefined : new Response("a WebSocket, please", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    idleTimeout: 0,
    open(socket) {
      for (const channel of socket.data.channels) socket.subscribe(channel);
      socket.send("ready");
    },
    message(socket, message) {
      if (!socket.data.publishes) return;
      const end = message.indexOf("\n");
      server.publish(message.slice(0, end), message.slice(end + 1));
    },
  },
});
console.error(`listens on ${certificate ? "https" : "http"}://127.0.0.1:${server.port}`);
