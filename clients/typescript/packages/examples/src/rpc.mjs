// One call, without a library: every unary method accepts JSON by POST.
const server = process.argv[2] ?? "http://127.0.0.1:8080";

async function call(method, body) {
  const response = await fetch(`${server}/v1/rpc/${method}`, { method: "POST", body: JSON.stringify(body) });
  const reply = await response.json();
  if (!response.ok) {
    throw new Error(`${method}: ${reply.code}: ${reply.message}`);
  }
  return reply;
}

const price = await call("PriceService/GetPrice", { symbol: "BTC-USD" });
console.log("BTC-USD", price.price, price.sample ? "(sample data)" : "");
for (const source of price.sourceDetails) {
  console.log(`  ${source.source}: ${source.price}, ${source.state}, weight ${source.weight}`);
}
