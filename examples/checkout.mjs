// The back end of a shop: waits for a payment to the shop's wallet, and delivers once it is confirmed.
// docs/tutorial-checkout.md explains it step by step.
//
//     cargo run --release -- replay --loop      # a server with a made-up chain, in another terminal
//     node examples/checkout.mjs
//     node examples/checkout.mjs http://127.0.0.1:8080 1 0x52908400098527886e0f7030069857d2e4169ee7
const [server = "http://127.0.0.1:8080", chain = "7357", wallet = "0x5a3b1e00000000000000000000000000000000a1"] =
  process.argv.slice(2);
/** The price of the order, in wei. */
const PRICE = 10n ** 16n;

/** The last event of each channel. */
const cursors = new Map();

/** Yields `welcome` and the messages of a channel. After a lost connection, and when it is called again, it goes on where it was. */
async function* messages(channel) {
  for (;;) {
    try {
      const headers = cursors.has(channel) ? { "last-event-id": cursors.get(channel) } : {};
      const response = await fetch(`${server}/v1/sse?channels=${channel}`, { headers });
      if (!response.ok) {
        throw new Error(`${response.status}: ${await response.text()}`);
      }
      let text = "";
      for await (const bytes of response.body.pipeThrough(new TextDecoderStream())) {
        text += bytes;
        const events = text.split("\n\n");
        text = events.pop();
        for (const event of events) {
          const field = (name) => event.split("\n").find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
          if (field("id") !== undefined) {
            cursors.set(channel, field("id"));
          }
          const message = JSON.parse(field("data") ?? "{}");
          if (message.channel === channel || message.type === "welcome") {
            yield message;
          }
        }
      }
    } catch (error) {
      // `fetch` says only that it failed, and has the reason as its cause.
      const why = error.cause === undefined ? "" : `: ${error.cause.message || error.cause.code}`;
      console.log(`${channel} of ${server}: ${error.message}${why}; trying again`);
    }
    await new Promise((resolve) => setTimeout(resolve, 1_000));
  }
}

/** States of a payment that is under way. One that was confirmed already was made before the order. */
const UNDER_WAY = ["pending", "confirming"];

/** The hash of the first transaction that pays the order. */
async function payment() {
  for await (const { type, data } of messages(`wallet:${wallet}`)) {
    const { hash, value, direction, from, status: state } = type === "wallet_update" && data.type === "transaction" ? data.data : {};
    // Nobody pays by mistake what another one pays on purpose: see `suspicious`.
    if (direction === "in" && UNDER_WAY.includes(state) && BigInt(value) >= PRICE && data.suspicious === undefined) {
      console.log(`${from} pays ${Number(value) / 1e18}`);
      return hash;
    }
  }
}

/** The state of a transaction now. */
async function status(txHash) {
  const body = JSON.stringify({ chain: Number(chain), txHash });
  const response = await fetch(`${server}/v1/rpc/WatchService/GetTransactionStatus`, { method: "POST", body });
  const reply = await response.json();
  if (!response.ok) {
    throw new Error(`${reply.code}: ${reply.message}`);
  }
  return reply;
}

/** Follows a transaction to its end. Returns whether the order is paid. */
async function isPaid(hash) {
  let shown;
  for await (const message of messages(`tx:${chain}:${hash}`)) {
    // The stream sends changes. So the state of now is read once the stream is open, and none is missed.
    const data = message.type === "transaction" ? message.data : await status(hash);
    switch (data.state) {
      case "confirmed":
      case "finalized":
        return true;
      case "replaced":
        // The customer raised the fee. The other transaction has to pay the same, which the wallet's channel tells:
        // from where it was left, so also if the other one is in a block already.
        console.log(`replaced by ${data.replacedBy}`);
        return false;
      case "failed":
      case "cancelled":
      case "dropped":
        console.log(`${data.state}: ${data.reason ?? ""}`);
        return false;
      default: {
        // The state that is read and the first of the stream are often the same.
        const line = `${data.state}, ${data.confirmations} of ${data.required}${data.reorged ? ", after a reorg" : ""}`;
        if (line !== shown) {
          console.log(line);
        }
        shown = line;
      }
    }
  }
}

console.log(`waiting for a payment to ${wallet}`);
for (;;) {
  const hash = await payment();
  if (await isPaid(hash)) {
    console.log(`paid with ${hash}: deliver the order`);
    process.exit(0);
  }
}
