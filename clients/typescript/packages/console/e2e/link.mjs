// A TCP proxy between the browser and the server, whose line can be cut.
import { createServer, connect } from "node:net";

/** Starts one in front of `target`. */
export async function startLink(target) {
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
    /** All connections end, and new ones are refused. */
    cut() {
      mode = "cut";
      dropAll();
    },
    /** All connections stay, and nothing comes through them. */
    silence() {
      mode = "silent";
    },
    /** New connections work again; those that were silenced end. */
    mend() {
      mode = "up";
      dropAll();
    },
    close() {
      dropAll();
      server.close();
    },
  };
}
