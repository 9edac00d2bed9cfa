// One call, without a library: every unary method accepts JSON by POST.
const server = process.argv[2] ?? "http://127.0.0.1:8080";

/** Ends with why: `fetch` says only that it failed, and has the reason as its cause. */
function fail(error) {
  console.error(`${server}: ${error.message}${error.cause === undefined ? "" : `: ${error.cause.message || error.cause.code}`}`);
  process.exit(1);
}

async function call(method, body) {
  const response = await fetch(`${server}/v1/rpc/${method}`, { method: "POST", body: JSON.stringify(body) });
  const reply = await response.json();
  if (!response.ok) {
    throw new Error(`${method}: ${reply.code}: ${reply.message}`);
  }
  return reply;
}

const price = await call("PriceService/GetPrice", { symbol: "BTC-USD" }).catch(fail);
console.log("BTC-USD", price.price, price.sample ? "(sample data)" : "");
for (const source of price.sourceDetails) {
  console.log(`  ${source.source}: ${source.price}, ${source.state}, weight ${source.weight}`);
}
