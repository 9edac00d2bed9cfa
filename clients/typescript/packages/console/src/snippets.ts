/** What the page shows, elsewhere: what the copy buttons give. Pure text, so that tests run it. */
import type { Json } from "@tidewire/client";

/** The languages of the buttons. */
export const LANGUAGES = ["curl", "JavaScript", "Rust"] as const;

/** A language of a snippet. */
export type Language = (typeof LANGUAGES)[number];

/** What a snippet does: follow channels, or call a method once. */
export type Shown =
  | { readonly kind: "channels"; readonly channels: readonly string[] }
  | { readonly kind: "call"; readonly method: string; readonly body: Json };

/** Code that gets from the server at `origin` what is shown. */
export function snippet(language: Language, origin: string, shown: Shown): string {
  return shown.kind === "channels" ? follow(language, origin, shown.channels) : call(language, origin, shown.method, shown.body);
}

function follow(language: Language, origin: string, channels: readonly string[]): string {
  const socket = `${origin.replace(/^http/, "ws")}/v1/ws`;
  const subscribe = JSON.stringify({ type: "subscribe", id: "1", data: { channels } });
  switch (language) {
    case "curl":
      return `curl -N ${inShell(`${origin}/v1/sse?channels=${channels.map(inQuery).join(",")}`)}\n`;
    case "JavaScript":
      return `// Browsers, Node 22 and up, Deno, Bun
const socket = new WebSocket("${socket}", "tidewire.v1.json");
socket.onopen = () => socket.send(JSON.stringify(${subscribe}));
socket.onmessage = (event) => console.log(JSON.parse(event.data));
`;
    case "Rust":
      return `// cargo add tokio --features full
// cargo add futures-util
// cargo add tokio-tungstenite${socket.startsWith("wss:") ? " --features rustls-tls-webpki-roots" : ""}
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{connect_async, tungstenite::Message};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let (mut socket, _) = connect_async("${socket}").await?;
    let subscribe = ${inRust(subscribe)};
    socket.send(Message::text(subscribe)).await?;
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            println!("{text}");
        }
    }
    Ok(())
}
`;
  }
}

function call(language: Language, origin: string, method: string, body: Json): string {
  const url = `${origin}/v1/rpc/${method}`;
  const text = JSON.stringify(body);
  switch (language) {
    case "curl":
      return `curl -X POST ${inShell(url)} -d ${inShell(text)}\n`;
    case "JavaScript":
      return `const response = await fetch("${url}", {
  method: "POST",
  body: JSON.stringify(${text}),
});
console.log(await response.json());
`;
    case "Rust":
      return `// cargo add tokio --features full
// cargo add reqwest
#[tokio::main]
async fn main() -> Result<(), reqwest::Error> {
    let request = reqwest::Client::new()
        .post("${url}")
        .body(${inRust(text)});
    let reply = request.send().await?.text().await?;
    println!("{reply}");
    Ok(())
}
`;
  }
}

/** Escaped for a query; the colon and the at sign of channel names may stand there. */
function inQuery(channel: string): string {
  return encodeURIComponent(channel).replaceAll("%3A", ":").replaceAll("%40", "@");
}

/** One word of a POSIX shell. */
function inShell(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A raw string, with as many marks as the text asks for. */
function inRust(text: string): string {
  const runs = text.match(/"#*/g) ?? [];
  const marks = "#".repeat(Math.max(0, ...runs.map((run) => run.length)));
  return `r${marks}"${text}"${marks}`;
}
