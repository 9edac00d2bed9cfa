// Webhook receiver: verifies each request after Standard Webhooks, and prints its notification.
//
//     export WEBHOOK_SECRET="whsec_$(openssl rand -base64 32)"
//     echo "$WEBHOOK_SECRET"
//     node examples/webhook_receiver.mjs            # listens on port 8090
//
// The server's configuration for it, with this secret, in the file tidewire.toml:
//
//     [[delivery.webhook]]
//     name = "example"
//     url = "http://127.0.0.1:8090/"
//     secrets = ["whsec_…"]
//     allow_private = true                          # this machine is no public address
//
// Start the server with the file, and notify a user. A back end on the server's machine needs no token:
//
//     cargo run --release -- --config tidewire.toml
//     curl -X POST http://127.0.0.1:8080/v1/rpc/NotifyService/Notify \
//       -d '{"user":"ada","notification":{"type":"payment_received","title":"Payment received"}}'
//
// The receiver prints: payment_received for ada: Payment received
//
// The libraries of https://www.standardwebhooks.com do the same in other languages.
import { createHmac, timingSafeEqual } from "node:crypto";
import { createServer } from "node:http";

/** An older request may be a repetition by somebody who recorded it. */
const TOLERANCE_S = 300;
const MAX_BYTES = 1_000_000;

const secret = process.env.WEBHOOK_SECRET ?? "";
const key = Buffer.from(secret.replace(/^whsec_/, ""), "base64");
if (key.length < 24) {
  console.error("WEBHOOK_SECRET: expected `whsec_` and at least 24 bytes in Base64");
  process.exit(2);
}

/** Whether the server signed this body, a short time ago. */
function isSigned(headers, body) {
  const { "webhook-id": id, "webhook-timestamp": timestamp, "webhook-signature": signatures = "" } = headers;
  const expected = createHmac("sha256", key).update(`${id}.${timestamp}.`).update(body).digest();
  const isRight = signatures.split(" ").some((signature) => {
    const given = Buffer.from(signature.replace(/^v1,/, ""), "base64");
    return given.length === expected.length && timingSafeEqual(given, expected);
  });
  return isRight && Math.abs(Date.now() / 1_000 - Number(timestamp)) <= TOLERANCE_S;
}

const receiver = createServer(async (request, response) => {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > MAX_BYTES) {
      response.writeHead(413).end();
      return;
    }
    parts.push(part);
  }
  const body = Buffer.concat(parts);
  if (!isSigned(request.headers, body)) {
    response.writeHead(401).end();
    return;
  }
  // `webhook-id` is the same in every attempt: store it with what you do, and do nothing twice.
  const { type, data } = JSON.parse(body.toString("utf8"));
  console.log(`${type} for ${data.user ?? "everyone"}: ${data.notification.title}`);
  response.writeHead(204).end();
});
receiver.listen(Number(process.env.PORT ?? 8090), "127.0.0.1", () => {
  console.log(`listens on http://127.0.0.1:${receiver.address().port}/`);
});
