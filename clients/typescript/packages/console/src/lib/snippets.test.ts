import { describe, expect, it } from "vitest";
import { LANGUAGES, snippet } from "./snippets.ts";

const ORIGIN = "http://h:1";

function subscribeSnippet(language: (typeof LANGUAGES)[number], origin: string, ...channels: string[]): string {
  return snippet(language, origin, { kind: "channels", channels });
}

describe("snippets", () => {
  it.each(LANGUAGES)("name exactly the channels, or the method and its body, in %s", (language) => {
    expect(subscribeSnippet(language, ORIGIN, "prices:BTC-USD", "demo:a")).toMatch(/prices:BTC-USD.*demo:a/);
    const call = snippet(language, ORIGIN, { kind: "call", method: "PriceService/GetPrice", body: { symbol: "BTC-USD" } });
    expect(call).toContain("http://h:1/v1/rpc/PriceService/GetPrice");
    expect(call.replaceAll("\\", "")).toContain('{"symbol":"BTC-USD"}');
  });

  it("escape the special characters of a query and a shell", () => {
    expect(subscribeSnippet("curl", ORIGIN, "a:b@c", "c:&")).toBe("curl -N 'http://h:1/v1/sse?channels=a:b@c,c:%26'\n");
    expect(subscribeSnippet("curl", ORIGIN, "a:';ls;'")).toBe("curl -N 'http://h:1/v1/sse?channels=a:'\\''%3Bls%3B'\\'''\n");
    const call = snippet("curl", ORIGIN, { kind: "call", method: "StreamService/Publish", body: { data: "it's" } });
    expect(call).toBe(`curl -X POST 'http://h:1/v1/rpc/StreamService/Publish' -d '{"data":"it'\\''s"}'\n`);
  });

  it("give a raw string of Rust as many # as it needs", () => {
    const call = snippet("Rust", ORIGIN, { kind: "call", method: "S/M", body: { data: 'a"##b' } });
    // The backslash of JSON does not keep the quotation mark from ending a raw string.
    expect(call).toContain('r###"{"data":"a\\"##b"}"###');
  });

  it.each(LANGUAGES)("take a token from the environment, in %s", (language) => {
    for (const subject of [{ kind: "channels", channels: ["a:b"] }, { kind: "call", method: "S/M", body: {} }] as const) {
      expect(snippet(language, ORIGIN, subject)).not.toContain("TOKEN");
      const code = snippet(language, ORIGIN, subject, "ada");
      expect(code).toMatch(/^(#|\/\/) export TOKEN="\$\(tidewire token --user ada\)"\n/);
      expect(code).toContain("not set: see the first line");
      // The server takes variables of this prefix for its own.
      expect(code).not.toContain("TIDEWIRE_");
    }
  });

  it("name the scope of a method for operators", () => {
    expect(snippet("curl", ORIGIN, { kind: "channels", channels: ["a:b"] }, "ada", " --config /etc/t.toml")).toContain('"$(tidewire token --user ada --config /etc/t.toml)"');
    expect(snippet("curl", ORIGIN, { kind: "call", method: "AdminService/ListConnections", body: {} }, "ada")).toContain("tidewire token --user ada --scope admin");
  });

  it("quote a user for the shell", () => {
    const code = snippet("curl", ORIGIN, { kind: "channels", channels: ["a:b"] }, "$(id)");
    expect(code).toContain("tidewire token --user '$(id)')");
  });

  it.each(LANGUAGES)("send a text as it was typed, in %s", (language) => {
    const call = snippet(language, ORIGIN, { kind: "call", method: "S/M", text: '{"a": 1.0,  "b":1e400}' });
    expect(call.replaceAll("\\", "")).toContain('{"a": 1.0,  "b":1e400}');
  });

  it("use TLS when the page does", () => {
    const rust = subscribeSnippet("Rust", "https://h", "a:b");
    expect(rust).toContain("wss://h/v1/ws");
    expect(rust).toContain("rustls-tls-webpki-roots");
    expect(subscribeSnippet("Rust", ORIGIN, "a:b")).not.toContain("rustls");
  });
});
