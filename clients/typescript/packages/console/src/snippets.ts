/** The same subscription elsewhere: what the copy buttons give. */

export const KINDS = ["curl", "JavaScript", "Rust"] as const;

export type Kind = (typeof KINDS)[number];

/** Code that follows these channels of the server at `origin`. */
export function snippet(kind: Kind, origin: string, channels: readonly string[]): string {
  const socket = `${origin.replace(/^http/, "ws")}/v1/ws`;
  const subscribe = JSON.stringify({ type: "subscribe", id: "1", data: { channels } });
  switch (kind) {
    case "curl":
      return `curl -N '${origin}/v1/sse?channels=${channels.map(inQuery).join(",")}'`;
    case "JavaScript":
      return `const socket = new WebSocket("${socket}", "tidewire.v1.json");
socket.onopen = () => socket.send(JSON.stringify(${subscribe}));
socket.onmessage = (event) => console.log(JSON.parse(event.data));
`;
    case "Rust":
      return `// cargo add tokio --features full; cargo add tokio-tungstenite futures-util
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{connect_async, tungstenite::Message};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut socket, _) = connect_async("${socket}").await?;
    socket.send(Message::text(r#"${subscribe}"#)).await?;
    while let Some(message) = socket.next().await {
        println!("{}", message?);
    }
    Ok(())
}
`;
  }
}

/** Escaped for a query; the colon and the at sign of channel names may stand there. */
function inQuery(channel: string): string {
  return encodeURIComponent(channel).replaceAll("%3A", ":").replaceAll("%40", "@");
}
