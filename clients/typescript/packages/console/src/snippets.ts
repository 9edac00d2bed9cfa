/** Code snippets of the copy buttons: how to get the data on the page from other programs. */
import type { Json } from "@tidewire/client";

/** The languages of the buttons. */
export const LANGUAGES = ["curl", "JavaScript", "Rust"] as const;

/** A language of a snippet. */
export type Language = (typeof LANGUAGES)[number];

/** The subject of a snippet: channels to subscribe to, or a method to call once. */
export type SnippetSubject =
  | { readonly kind: "channels"; readonly channels: readonly string[] }
  | { readonly kind: "call"; readonly method: string; readonly body: Json };

/** Returns code that gets the subject from the server at `origin`. */
export function snippet(language: Language, origin: string, subject: SnippetSubject): string {
  return subject.kind === "channels"
    ? subscribeSnippet(language, origin, subject.channels)
    : callSnippet(language, origin, subject.method, subject.body);
}

function subscribeSnippet(language: Language, origin: string, channels: readonly string[]): string {
  const socket = `${origin.replace(/^http/, "ws")}/v1/ws`;
  const subscribe = JSON.stringify({ type: "subscribe", id: "1", data: { channels } });
  switch (language) {
    case "curl":
      return `curl -N ${shellWord(`${origin}/v1/sse?channels=${channels.map(queryValue).join(",")}`)}\n`;
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
    let subscribe = ${rustString(subscribe)};
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

function callSnippet(language: Language, origin: string, method: string, body: Json): string {
  const url = `${origin}/v1/rpc/${method}`;
  const text = JSON.stringify(body);
  switch (language) {
    case "curl":
      return `curl -X POST ${shellWord(url)} -d ${shellWord(text)}\n`;
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
        .body(${rustString(text)});
    let reply = request.send().await?.text().await?;
    println!("{reply}");
    Ok(())
}
`;
  }
}

/** Escapes a channel for a query. The colon and the at sign of channel names need no escape. */
function queryValue(channel: string): string {
  return encodeURIComponent(channel).replaceAll("%3A", ":").replaceAll("%40", "@");
}

/** Quotes text as one word of a POSIX shell. */
function shellWord(text: string): string {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

/** Returns a raw string of Rust, with as many `#` as the text needs. */
function rustString(text: string): string {
  const quotes = text.match(/"#*/g) ?? [];
  const marks = "#".repeat(Math.max(0, ...quotes.map((quote) => quote.length)));
  return `r${marks}"${text}"${marks}`;
}
