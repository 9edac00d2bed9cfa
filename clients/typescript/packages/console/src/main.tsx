/** Console: the page that a Tidewire server shows at `/`. */
// The sheets of pages come after these, and may refine them.
import "./styles/theme.css";
import "./styles/parts.css";
import "./styles/shell.css";
import { createRoot } from "react-dom/client";
import { startInbox } from "./inbox/current.ts";
import { startCommandOptions } from "./lib/command.ts";
import { followAddress } from "./lib/route.ts";
import { startSession } from "./lib/session.ts";
import { startTheme } from "./lib/theme.ts";
import { App } from "./shell/app.tsx";

startTheme();
followAddress();
startInbox();
startSession();
startCommandOptions();
const root = document.getElementById("root");
if (root) {
  createRoot(root).render(<App />);
}
