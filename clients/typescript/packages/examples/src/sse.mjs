// Server-Sent Events without a library. In a browser, `new EventSource(url)` does all of
// this, and reconnects by itself with the last event's id.
const server = process.argv[2] ?? "http://127.0.0.1:8080";

/** Ends with why: `fetch` says only that it failed, and has the reason as its cause. */
function fail(error) {
  console.error(`${server}: ${error.message}${error.cause === undefined ? "" : `: ${error.cause.message || error.cause.code}`}`);
  process.exit(1);
}

const response = await fetch(`${server}/v1/sse?channels=prices:BTC-USD,market:overview`).catch(fail);
if (!response.ok) {
  fail(new Error(`the server returned ${response.status}: ${await response.text()}`));
}
let rest = "";
for await (const text of response.body.pipeThrough(new TextDecoderStream())) {
  const events = (rest + text).split("\n\n");
  rest = events.pop();
  for (const event of events) {
    const field = (name) => event.match(new RegExp(`^${name}: ?(.*)$`, "m"))?.[1];
    const data = field("data");
    if (data !== undefined) {
      console.log(field("event"), JSON.parse(data).data);
    }
  }
}
