// Publishes to a channel and subscribes to it. After a lost connection, the client receives the
// missed messages once and in order, or a `gap` if the server no longer has them.
import { WebSocketClient } from "@tidewire/client";

const server = process.argv[2] ?? "http://127.0.0.1:8080";
const client = new WebSocketClient(`${server.replace(/^http/, "ws")}/v1/ws`);

client.subscribe("demo:messages", (message) => {
  if (message.type === "gap") {
    console.log("messages were lost: read the state again");
  } else if (message.type === "message") {
    console.log(`seq ${String(message.seq)}:`, message.data);
  }
});
client.on("state", (state) => {
  if (state.status === "connected") {
    void publish({ text: "hello" });
  } else if ("end" in state) {
    console.error(`${server}: ${state.status}, ${state.end.reason}`);
  }
});
client.connect();

async function publish(data: { text: string }): Promise<void> {
  // If the reply is lost, a second try with the same key returns the same seq and publishes nothing.
  const { channel, seq } = await client.publish("demo:messages", data, { idempotencyKey: crypto.randomUUID() });
  console.log(`published to ${channel} with seq ${seq}`);
}
