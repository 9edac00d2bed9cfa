import { expect, test } from "vitest";
import { entriesOf, jsonFault, kindOf, matchOf, member, publishBody } from "./json.ts";

const pairs = (text: string) => entriesOf(text).map(({ key, text: value }) => [key, value]);

test("a level keeps digits, repeated keys, and their order", () => {
  expect(pairs('{ "b" : 1.50, "10":123456789012345678901234567890,\n "b":2e3, "a" : { "x": [1, 2] } , "é":"\\u00e9" }')).toEqual([
    ["b", "1.50"],
    ["10", "123456789012345678901234567890"],
    ["b", "2e3"],
    ["a", '{ "x": [1, 2] }'],
    ["é", '"\\u00e9"'],
  ]);
  expect(pairs('[1, "a,]\\"", [], {}, null, -0]')).toEqual([["0", "1"], ["1", '"a,]\\""'], ["2", "[]"], ["3", "{}"], ["4", "null"], ["5", "-0"]]);
  expect(pairs('{"a":{"b":"c:d"},"e":[{"f":1}]}')).toEqual([["a", '{"b":"c:d"}'], ["e", '[{"f":1}]']]);
  expect(pairs('{"a\\"b":":"}')).toEqual([['a"b', '":"']]);
});

test("empty containers have nothing, and a member is found by its key", () => {
  expect(pairs("{}")).toEqual([]);
  expect(pairs("[ ]")).toEqual([]);
  expect(member('{"a":1,"data":{"x":1},"data":{"x":2}}', "data")).toBe('{"x":2}');
  expect(member('{"a":1}', "data")).toBeUndefined();
  expect(member("1", "data")).toBeUndefined();
});

test("every level of generated documents is as JSON.parse reads it", () => {
  let seed = 7;
  const random = (below: number) => (seed = (seed * 1_103_515_245 + 12_345) % 2_147_483_648) % below;
  const make = (depth: number): unknown => {
    const kind = random(depth > 3 ? 4 : 6);
    const strings = ['"', "\\", "a,b", "{[", "]}", ":", "\n", "é😀", ""];
    if (kind < 4) {
      return [random(1_000) / 8, strings[random(strings.length)], null, true][kind];
    }
    const list = Array.from({ length: random(5) }, () => make(depth + 1));
    return kind === 4 ? list : Object.fromEntries(list.map((value, index) => [`${strings[random(strings.length)] ?? ""}${index}`, value]));
  };
  const check = (text: string): void => {
    const value: unknown = JSON.parse(text);
    if (typeof value === "object" && value !== null) {
      const entries = entriesOf(text);
      expect(entries.map(({ key, text: inner }) => [key, JSON.parse(inner) as unknown])).toEqual(Object.entries(value));
      for (const { text: inner } of entries) {
        check(inner);
      }
    }
  };
  for (let round = 0; round < 200; round += 1) {
    check(JSON.stringify(make(0), null, round % 3));
  }
});

test("a document of 20,000 levels is read level by level", () => {
  const deep = "[".repeat(20_000) + "]".repeat(20_000);
  expect(entriesOf(deep)[0]?.text).toHaveLength(39_998);
});

test("values have a kind, and a filter finds keys and values", () => {
  expect(['{"a":1}', "[1]", '"a"', "-1", "true"].map(kindOf)).toEqual(["object", "array", "string", "number", "word"]);
  expect(matchOf({ key: "price", text: "61838.01" }, "PRI")).toBe("self");
  expect(matchOf({ key: "price", text: "61838.01" }, "838")).toBe("self");
  expect(matchOf({ key: "data", text: '{"symbol":"BTC-USD"}' }, "btc")).toBe("inside");
  expect(matchOf({ key: "data", text: '{"symbol":"BTC-USD"}' }, "eth")).toBeUndefined();
});

test("a fault of what was typed is named with its place", () => {
  expect(jsonFault('{"a":1.50}')).toBeUndefined();
  expect(jsonFault("  ")).toBe("Nothing to publish: type a JSON document.");
  expect(jsonFault('{\n "a": nope }')).toMatch(/^This is no JSON/);
});

test("the document is in the request byte for byte", () => {
  expect(publishBody("demo:a", '{"a" : 1.50, "a":2}')).toBe('{"channel":"demo:a","data":{"a" : 1.50, "a":2}}');
});
