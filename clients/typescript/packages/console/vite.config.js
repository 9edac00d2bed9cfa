// Builds one self-contained page: the script is inlined, so that the server embeds
// and serves a single file.
import { defineConfig } from "vite";

const inlineScript = {
  name: "inline-script",
  enforce: "post",
  generateBundle(_options, bundle) {
    const page = Object.values(bundle).find((file) => file.fileName === "index.html");
    const scripts = Object.values(bundle).filter((file) => file.type === "chunk");
    for (const script of scripts) {
      page.source = page.source.replace(/<script type="module"[^>]*src="[^"]*"[^>]*><\/script>/, "");
      const code = script.code.trim().replaceAll("</script", "<\\/script");
      page.source = page.source.replace("</body>", () => `<script type="module">${code}</script>\n</body>`);
      delete bundle[script.fileName];
    }
  },
};

export default defineConfig({
  resolve: { conditions: ["tidewire:source"] },
  build: { modulePreload: false, target: "es2022" },
  plugins: [inlineScript],
});
