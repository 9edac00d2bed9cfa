import { rolldown } from "rolldown"; import { gzipSync } from "node:zlib";
const b = await rolldown({ input: process.argv[2], resolve:{conditionNames:["tidewire:source"]}, external: ["react"] });
const { output } = await b.generate({ minify: true, format: "es" });
console.log(output[0].code.length, gzipSync(output[0].code,{level:9}).length);
if (process.argv[3]) (await import("node:fs")).writeFileSync(process.argv[3], output[0].code);
