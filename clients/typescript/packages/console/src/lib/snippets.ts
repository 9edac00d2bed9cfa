/** Code snippets of the Copy menus: how to get what the page shows from other programs. */
import type { Json } from "@tidewire/client";
import { shellWord } from "./shell-word.ts";

/** The languages of the menus. */
export const LANGUAGES = ["curl", "TypeScript", "Python", "Rust"] as const;

/** A language of a snippet. */
export type Language = (typeof LANGUAGES)[number];

/** The subject of a snippet: channels to subscribe to, or a method to call once. */
export type SnippetSubject =
  | { readonly kind: "channels"; readonly channels: readonly string[] }
  | { readonly kind: "call"; readonly method: string; readonly body: Json }
  /** A body that is sent as it was typed. */
  | { readonly kind: "call"; readonly method: string; readonly text: string };

/**
 * Returns code that gets the subject from the server at `origin`. With a user it needs a token, and
 * reads that from the environment variable `TOKEN`, as the examples do: code is pasted and shared, a
 * token is neither. The first line says how to get one, with `options` that name the server's
 * configuration, and the code says so again where it is missing.
 */
export function snippet(language: Language, origin: string, subject: SnippetSubject, user?: string, options = ""): string {
  const hasToken = user !== undefined;
  const head = hasToken ? `${language === "curl" || language === "Python" ? "#" : "//"} export TOKEN="$(${tokenCommand(subject, user)}${options})"\n` : "";
  if (subject.kind === "channels") {
    return head + SUBSCRIBE[language](origin, subject.channels, hasToken);
  }
  const text = "text" in subject ? subject.text : JSON.stringify(subject.body);
  return head + CALL[language](`${origin}/v1/rpc/${subject.method}`, text, hasToken);
}

/** The command that prints a token of a user for development which may do this. */
function tokenCommand(subject: SnippetSubject, user: string): string {
  return `tidewire token --user ${/^[\w.-]+$/.test(user) ? user : shellWord(user)}${subject.kind === "call" && subject.method.startsWith("AdminService/") ? " --scope admin" : ""}`;
}

/** Says what is missing. The first line of the code has the command. */
const NO_TOKEN = "TOKEN is not set: see the first line";

const SUBSCRIBE: Readonly<Record<Language, (origin: string, channels: readonly string[], hasToken: boolean) => string>> = {
  curl: (origin, channels, hasToken) => `curl -N ${curlToken(hasToken)}${shellWord(streamUrl(origin, channels))}\n`,
  TypeScript: (origin, channels, hasToken) => `// ${hasToken ? "" : "Browsers, "}Node 22 and up, Deno, Bun
${scriptToken(hasToken)}const socket = new WebSocket("${socketUrl(origin)}", ${hasToken ? "[\"tidewire.v1.json\", `tidewire.bearer.${token}`]" : `"tidewire.v1.json"`});
socket.onopen = () => socket.send(JSON.stringify(${subscribeMessage(channels)}));
socket.onmessage = (event) => console.log(JSON.parse(event.data));
`,
  Python: (origin, channels, hasToken) => `# Python 3.9 and up, without packages
import json
${hasToken ? "import os\nimport sys\n" : ""}import urllib.request

${pythonToken(hasToken)}request = urllib.request.Request(${pythonString(streamUrl(origin, channels))}${pythonHeaders(hasToken)})
with urllib.request.urlopen(request) as stream:
    for line in stream:
        if line.startswith(b"data: "):
            print(json.loads(line[6:]), flush=True)
`,
  Rust: (origin, channels, hasToken) => {
    const socket = socketUrl(origin);
    return `// cargo add tokio --features full
// cargo add futures-util
// cargo add tokio-tungstenite${socket.startsWith("wss:") ? " --features rustls-tls-webpki-roots" : ""}
use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::{connect_async, tungstenite::${hasToken ? "{Message, client::IntoClientRequest}" : "Message"}};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
${
  hasToken
    ? `    let mut request = "${socket}".into_client_request()?;
    let token = std::env::var("TOKEN").map_err(|_| "${NO_TOKEN}")?;
    request.headers_mut().insert("Authorization", format!("Bearer {token}").parse()?);
    let (mut socket, _) = connect_async(request).await?;`
    : `    let (mut socket, _) = connect_async("${socket}").await?;`
}
    let subscribe = ${rustString(subscribeMessage(channels))};
    socket.send(Message::text(subscribe)).await?;
    while let Some(message) = socket.next().await {
        if let Message::Text(text) = message? {
            println!("{text}");
        }
    }
    Ok(())
}
`;
  },
};

const CALL: Readonly<Record<Language, (url: string, text: string, hasToken: boolean) => string>> = {
  curl: (url, text, hasToken) => `curl -X POST ${curlToken(hasToken)}${shellWord(url)} -d ${shellWord(text)}\n`,
  TypeScript: (url, text, hasToken) => `${scriptToken(hasToken)}const response = await fetch("${url}", {
  method: "POST",
${hasToken ? "  headers: { authorization: `Bearer ${token}` },\n" : ""}  body: ${JSON.stringify(text)},
});
console.log(await response.json());
`,
  Python: (url, text, hasToken) => `# Python 3.9 and up, without packages
${hasToken ? "import os\nimport sys\n" : ""}import urllib.request

${pythonToken(hasToken)}body = ${pythonString(text)}
request = urllib.request.Request("${url}", body.encode()${pythonHeaders(hasToken)})
with urllib.request.urlopen(request) as response:
    print(response.read().decode())
`,
  Rust: (url, text, hasToken) => `// cargo add tokio --features full
// cargo add reqwest
#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
${hasToken ? `    let token = std::env::var("TOKEN").map_err(|_| "${NO_TOKEN}")?;\n` : ""}    let request = reqwest::Client::new()
        .post("${url}")
${hasToken ? "        .bearer_auth(token)\n" : ""}        .body(${rustString(text)});
    let reply = request.send().await?.text().await?;
    println!("{reply}");
    Ok(())
}
`,
};

function subscribeMessage(channels: readonly string[]): string {
  return JSON.stringify({ type: "subscribe", id: "1", data: { channels } });
}

function socketUrl(origin: string): string {
  return `${origin.replace(/^http/, "ws")}/v1/ws`;
}

function streamUrl(origin: string, channels: readonly string[]): string {
  return `${origin}/v1/sse?channels=${channels.map(queryValue).join(",")}`;
}

/** Escapes a channel for a query. The colon and the at sign of channel names need no escape. */
function queryValue(channel: string): string {
  return encodeURIComponent(channel).replaceAll("%3A", ":").replaceAll("%40", "@");
}

function curlToken(hasToken: boolean): string {
  // The shell says the name and the text if the variable is not set.
  return hasToken ? `-H "Authorization: Bearer \${TOKEN:?${NO_TOKEN.replace("TOKEN is ", "")}}" ` : "";
}

function scriptToken(hasToken: boolean): string {
  return hasToken ? `const token = process.env.TOKEN;\nif (!token) {\n  throw new Error("${NO_TOKEN}");\n}\n` : "";
}

function pythonToken(hasToken: boolean): string {
  return hasToken ? `token = os.environ.get("TOKEN") or sys.exit("${NO_TOKEN}")\n` : "";
}

function pythonHeaders(hasToken: boolean): string {
  return hasToken ? `, headers={"Authorization": "Bearer " + token}` : "";
}

/** Quotes text for Python, where the escapes of JSON mean the same. */
function pythonString(text: string): string {
  return JSON.stringify(text);
}

/** Returns a raw string of Rust, with as many `#` as the text needs. */
function rustString(text: string): string {
  const quotes = text.match(/"#*/g) ?? [];
  const marks = "#".repeat(Math.max(0, ...quotes.map((quote) => quote.length)));
  return `r${marks}"${text}"${marks}`;
}
