import { expect, test } from "vitest";
import { chainFigures, chainName, coinName, chainParts, endpointState } from "./figures.ts";

const METRICS = `# HELP tidewire_chain_head Height
# TYPE tidewire_chain_head gauge
tidewire_chain_head{chain="1"} 20
tidewire_chain_reorgs_total{chain="1"} 3
tidewire_chain_endpoint_head{chain="1",endpoint="wss://a.example"} 20
tidewire_chain_endpoint_score{chain="1",endpoint="wss://a.example"} 0.99
tidewire_chain_calls_total{chain="1",endpoint="wss://a.example"} 41
tidewire_chain_call_seconds{chain="1",endpoint="wss://a.example",quantile="0.5"} 0.0125
tidewire_chain_call_seconds{chain="1",endpoint="wss://a.example",quantile="0.9"} 0.5
tidewire_chain_lies_total{chain="1",endpoint="https://\\"b\\".example"} 2
tidewire_chain_resyncs_total{chain="10"} 1
tidewire_part_degraded{part="chain 1"} 0
`;

test("the figures of chains and endpoints are read from the metrics", () => {
  const figures = chainFigures(METRICS);
  expect([...figures.keys()]).toEqual([1, 10]);
  expect(figures.get(1)).toMatchObject({ reorgs: 3, resyncs: 0 });
  expect(figures.get(1)?.endpoints).toEqual([
    { url: "wss://a.example", head: 20, score: 0.99, calls: 41, failures: 0, lies: 0, limits: 0, callSeconds: 0.0125 },
    { url: 'https://"b".example', head: undefined, score: undefined, calls: 0, failures: 0, lies: 2, limits: 0, callSeconds: undefined },
  ]);
  expect(figures.get(10)).toEqual({ reorgs: 0, resyncs: 1, endpoints: [] });
  expect(chainFigures("").size).toBe(0);
});

test("the health of an endpoint is one word", () => {
  const endpoint = { url: "", head: 20, score: 1, calls: 0, failures: 0, lies: 0, limits: 0, callSeconds: undefined };
  const word = (change: object) => endpointState({ ...endpoint, ...change }, 20).word;
  expect(word({})).toBe("healthy");
  expect(word({ head: 17 })).toBe("behind");
  expect(word({ score: 0.9 })).toBe("unsteady");
  expect(word({ score: 0.1 })).toBe("down");
  expect(word({ score: 1, lies: 1 })).toBe("failed a proof");
  expect(endpointState({ ...endpoint, head: undefined }, undefined).word).toBe("healthy");
});

test("the chains are the parts of the readiness", () => {
  const parts = [
    { part: "store", state: "ok" },
    { part: "chain 1", state: "ok" },
    { part: "chain 10", state: "degraded", reason: "no endpoint responds" },
  ];
  expect(chainParts({ parts })).toEqual([{ chain: 1, fault: undefined }, { chain: 10, fault: "no endpoint responds" }]);
  expect(chainParts(null)).toEqual([]);
  expect([1, 56, 31337].map(chainName)).toEqual(["Ethereum", "BNB Smart Chain", "Chain 31337"]);
  expect([1, 56, 31337].map(coinName)).toEqual(["ETH", "BNB", "coins"]);
});
