// The server's API without the page.

/** One call. */
export async function call(server, method, body) {
  const response = await fetch(`${server}/v1/rpc/${method}`, { method: "POST", body: JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) {
    throw new Error(`${method}: ${answer.code}: ${answer.message}`);
  }
  return answer;
}

/** Publishes to a channel. */
export function publish(server, channel, data) {
  return call(server, "StreamService/Publish", { channel, data });
}
