import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { conditions: ["tidewire:source"] },
  ssr: { resolve: { conditions: ["tidewire:source"] } },
  test: { include: ["packages/*/src/**/*.test.ts", "packages/*/test/**/*.test.ts"] },
});
