// TCP proxy between the browser and the server that can cut or silence connections.
import { createServer, connect } from "node:net";

/** Starts a proxy in front of `target`. */
export async function startProxy(target) {
  const { hostname, port } = new URL(target);
  const sockets = new Set();
  let mode = "up";

  const server = createServer((near) => {
    if (mode === "cut") {
      near.destroy();
      return;
    }
    const far = connect(Number(port), hostname);
    for (const [from, to] of [[near, far], [far, near]]) {
      sockets.add(from);
      from.on("data", (bytes) => {
        if (mode !== "silent") {
          to.write(bytes);
        }
      });
      from.on("error", () => undefined);
      from.on("close", () => {
        sockets.delete(from);
        to.destroy();
      });
    }
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));

  const dropAll = () => {
    for (const socket of sockets) {
      socket.destroy();
    }
  };
  return {
    url: `http://127.0.0.1:${server.address().port}`,
    /** Ends all connections and refuses new ones. */
    cut() {
      mode = "cut";
      dropAll();
    },
    /** Keeps all connections open and forwards nothing. */
    silence() {
      mode = "silent";
    },
    /** Accepts new connections again. Silenced ones end. */
    restore() {
      mode = "up";
      dropAll();
    },
    close() {
      dropAll();
      server.close();
    },
  };
}
