// API calls: the server's RPCs without the page.

/** Calls a method. Throws if the server returns an error. */
export async function call(server, method, body) {
  const response = await fetch(`${server}/v1/rpc/${method}`, { method: "POST", body: JSON.stringify(body) });
  const reply = await response.json();
  if (!response.ok) {
    throw new Error(`${method}: ${reply.code}: ${reply.message}`);
  }
  return reply;
}

/** Publishes to a channel. */
export function publish(server, channel, data) {
  return call(server, "StreamService/Publish", { channel, data });
}
