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
const proxy = { "/v1": { target: "http://127.0.0.1:8080", ws: true } };

export default defineConfig({
  // One React: that of this package. Newer ones are 9 kB larger, compressed.
  resolve: { conditions: ["tidewire:source"], dedupe: ["react", "react-dom"] },
  build: { modulePreload: false, target: "es2022", cssTarget: ["chrome123", "firefox120", "safari17.5"], rolldownOptions: { checks: { moduleLevelDirective: false } } },
  server: { proxy },
  plugins: [inlineAll],
});
