// Front of a server: serves a built page at `/`, and passes everything else on.
import { readFileSync } from "node:fs";
import { createServer, request } from "node:http";
import { connect } from "node:net";

/** Starts a front of the server at `address`, such as `127.0.0.1:8080`. */
export async function startFront(address, page) {
  const [hostname, port] = address.split(":");
  const sockets = new Set();
  /** The server accepts pages of its own origin. */
  const headersOf = ({ headers: { origin, ...rest } }) => ({ ...rest, ...(origin !== undefined && { origin: `http://${address}` }), host: address });
  const front = createServer((incoming, response) => {
    if (new URL(incoming.url, "http://front").pathname === "/") {
      response.setHeader("content-type", "text/html; charset=utf-8").end(readFileSync(page));
      return;
    }
    const onward = request({ hostname, port, path: incoming.url, method: incoming.method, headers: headersOf(incoming) }, (reply) => {
      response.writeHead(reply.statusCode, reply.headers);
      reply.pipe(response);
      reply.on("error", () => response.destroy());
    });
    onward.on("error", () => response.destroy());
    response.on("close", () => onward.destroy());
    incoming.pipe(onward);
  });
  front.on("connection", (socket) => {
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket)).on("error", () => undefined);
  });
  front.on("upgrade", (incoming, socket, head) => {
    const server = connect(port, hostname, () => {
      const lines = Object.entries(headersOf(incoming)).map(([name, value]) => `${name}: ${value}`);
      server.write(`${incoming.method} ${incoming.url} HTTP/1.1\r\n${lines.join("\r\n")}\r\n\r\n`);
      server.write(head);
      socket.pipe(server).pipe(socket);
    });
    server.on("error", () => socket.destroy()).on("close", () => socket.destroy());
    socket.on("error", () => server.destroy()).on("close", () => server.destroy());
  });
  await new Promise((resolve) => front.listen(0, "127.0.0.1", resolve));
  return {
    url: `http://127.0.0.1:${front.address().port}`,
    close() {
      front.close();
      sockets.forEach((socket) => socket.destroy());
    },
  };
}
