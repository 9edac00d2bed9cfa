// Live prices over one WebSocket that reconnects by itself.
import { WebSocketClient } from "@tidewire/client";

const server = process.argv[2] ?? "http://127.0.0.1:8080";
const client = new WebSocketClient(`${server.replace(/^http/, "ws")}/v1/ws`);

client.on("state", (state) => {
  // Why a connection ended, or could not be made.
  console.log("end" in state ? `${state.status}: ${state.end.reason}` : state.status);
});
for (const symbol of ["BTC-USD", "ETH-USD"]) {
  client.subscribe(
    `prices:${symbol}`,
    (message) => {
      if (message.type === "price") {
        const { price, sources, stale, sample } = message.data;
        console.log(symbol, price ?? "unknown", `from ${sources} sources`, stale ? "STALE" : "", sample === true ? "(sample data)" : "");
      }
    },
    {
      onError: (error) => {
        console.error(symbol, error.message);
      },
    },
  );
}
client.connect();
