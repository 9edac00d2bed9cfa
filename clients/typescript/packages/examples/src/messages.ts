// Publishes to a channel and follows it. A client that was away gets what it missed,
// each message once and in order, or a `gap` that says that it cannot be had.
import { TidewireClient } from "@tidewire/client";

const server = process.argv[2] ?? "http://127.0.0.1:8080";
const client = new TidewireClient({ url: `${server.replace(/^http/, "ws")}/v1/ws` });

client.subscribe("demo:messages", (message) => {
  if (message.type === "gap") {
    console.log("something was missed: read the state again");
  } else if (message.type === "message") {
    console.log(`number ${String(message.seq)}:`, message.data);
  }
});
client.on("state", ({ status }) => {
  if (status === "live") {
    void say({ text: "hello" });
  }
});
client.connect();

async function say(data: { text: string }): Promise<void> {
  // Should the reply be lost, the same key gives the same place: nothing is published twice.
  const { channel, seq } = await client.publish("demo:messages", data, crypto.randomUUID());
  console.log(`published to ${channel} as number ${seq}`);
}
