// A server that welcomes, and then closes every connection in the way that a check wants.
import { WebSocketServer } from "ws";

/** Starts it. `opened` counts the connections. */
export async function startRefusing() {
  const listener = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "tidewire.v1.json" });
  await new Promise((resolve) => listener.once("listening", resolve));
  const tell = (socket, message) => socket.send(JSON.stringify(message));
  const self = {
    url: `ws://127.0.0.1:${listener.address().port}/v1/ws`,
    opened: 0,
    refuse(code, error) {
      for (const socket of listener.clients) {
        tell(socket, { type: "error", data: error });
        socket.close(code, error.message);
      }
    },
    close: () => listener.close(),
  };
  listener.on("connection", (socket) => {
    self.opened += 1;
    socket.on("message", (text) => {
      const { type, id, data } = JSON.parse(text);
      if (type === "ping" || type === "visibility") {
        tell(socket, { type: type === "ping" ? "pong" : type, id, data: { ...data, serverTime: Date.now(), heartbeatMs: 2_000 } });
      }
    });
    tell(socket, { type: "welcome", data: { connectionId: `c${self.opened}`, heartbeatMs: 2_000, serverTime: Date.now(), version: "0", subscriptions: [] } });
  });
  return self;
}
