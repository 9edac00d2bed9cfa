/** TCP proxy that cuts its first connection that lives so long after a number of bytes from the server. */
import { createConnection, createServer, type Server, type Socket } from "node:net";

/** How a connection is cut: with a reset, or silently, so that both ends believe in it. */
export type Cut = "reset" | "black hole";

/** A proxy in front of one server, for one client. */
export class CutProxy {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  /** Bytes from the server, over all connections. */
  bytes = 0;
  /** Connections so far. */
  accepted = 0;
  /** The time of the cut, by `performance.now()`. */
  cutAt: number | undefined;

  constructor(target: string, offset = Infinity, cut: Cut = "reset") {
    const [host = "", port = ""] = target.split(":");
    this.#server = createServer((near) => {
      this.accepted += 1;
      const isCut = this.cutAt === undefined;
      const far = createConnection({ host, port: Number(port), noDelay: true });
      let left = isCut ? offset : Infinity;
      for (const socket of [near, far]) {
        this.#sockets.add(socket);
        socket.setNoDelay(true);
        socket.on("error", () => undefined);
        socket.on("close", () => {
          this.#sockets.delete(socket);
          if (left > 0) {
            near.destroy();
            far.destroy();
          }
        });
      }
      near.on("data", (data) => {
        if (left > 0) {
          far.write(data);
        }
      });
      far.on("data", (data) => {
        if (left <= 0) {
          return;
        }
        const part = data.subarray(0, left);
        left -= part.length;
        this.bytes += part.length;
        near.write(part, () => {
          if (left <= 0 && cut === "reset") {
            near.resetAndDestroy();
            far.destroy();
          }
        });
        if (left <= 0) {
          this.cutAt = performance.now();
        }
      });
    });
  }

  /** Listens, and resolves to the address. */
  async listen(): Promise<string> {
    await new Promise<void>((resolve) => this.#server.listen(0, "127.0.0.1", resolve));
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? `127.0.0.1:${address.port}` : "";
  }

  close(): void {
    this.#server.close();
    for (const socket of this.#sockets) {
      socket.destroy();
    }
  }
}
