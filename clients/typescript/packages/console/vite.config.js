// Build of the console: one page with its script and style inline, so that the server
// embeds and serves a single file.
import { defineConfig } from "vite";

const inlineAll = {
  name: "inline-all",
  enforce: "post",
  generateBundle(_options, bundle) {
    const page = bundle["index.html"];
    for (const file of Object.values(bundle)) {
      if (file.type === "chunk") {
        page.source = page.source.replace(/<script type="module"[^>]*src="[^"]*"[^>]*><\/script>/, "");
        const code = file.code.trim().replaceAll("</script", "<\\/script");
        page.source = page.source.replace("</body>", () => `<script type="module">${code}</script>\n</body>`);
      } else if (file.fileName.endsWith(".css")) {
        page.source = page.source.replace(/<link rel="stylesheet"[^>]*>/, () => `<style>${String(file.source).trim()}</style>`);
      } else {
        continue;
      }
      delete bundle[file.fileName];
    }
  },
};

// `npm run dev` serves the page from its sources, with the data of a server at the default address.
const target = "http://127.0.0.1:8080";
const proxy = { "/v1": { target, ws: true }, "/metrics": target, "/readyz": target, "/healthz": target };

// The console is written for React and runs on Preact's implementation of it: react-dom alone
// takes half of the size that the page may have. docs/decisions.md has the figures.
const alias = [
  { find: /^react-dom\/client$/, replacement: "preact/compat/client" },
  { find: /^react\/jsx-runtime$/, replacement: "preact/compat/jsx-runtime" },
  { find: /^react(-dom)?$/, replacement: "preact/compat" },
];

export default defineConfig({
  // Texts of the client's failures, which a build for production has as numbers: operators read them here.
  resolve: { conditions: ["tidewire:source", "development"], alias },
  build: { modulePreload: false, target: "es2022", cssTarget: ["chrome123", "firefox120", "safari17.5"], rolldownOptions: { checks: { moduleLevelDirective: false } } },
  server: { proxy },
  plugins: [inlineAll],
});
