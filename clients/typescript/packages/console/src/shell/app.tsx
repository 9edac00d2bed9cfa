/** App: the header, the tabs, and the page of the address. */
import { WebSocketProvider } from "@tidewire/react";
import { type ComponentType, type ReactElement, useLayoutEffect, useRef } from "react";
import { type Page, useRoute } from "../lib/route.ts";
import { logFault, useSession } from "../lib/session.ts";
import { useTitlePart } from "../lib/title.ts";
import { AlertsPage } from "../pages/alerts.tsx";
import { ChainsPage } from "../pages/chains.tsx";
import { ChannelsPage } from "../pages/channels.tsx";
import { ConnectionsPage } from "../pages/connections.tsx";
import { InboxPage } from "../pages/inbox.tsx";
import { MarketPage } from "../pages/market.tsx";
import { OverviewPage } from "../pages/overview.tsx";
import { PricesPage } from "../pages/prices.tsx";
import { SetupPage } from "../pages/setup.tsx";
import { SymbolPage } from "../pages/symbol.tsx";
import { PageHead } from "../ui/card.tsx";
import { CopyDialog } from "../ui/copy.tsx";
import { Fence } from "../ui/fence.tsx";
import { HintBox } from "../ui/hint.tsx";
import { Empty } from "../ui/state.tsx";
import { AccountDialog, SignInCard } from "./account.tsx";
import { ConnectionBar, Header, SampleBanner } from "./header.tsx";
import { PAGE_NAMES, Tabs } from "./tabs.tsx";

/** Props of a page: the parts of the address behind its name. */
export interface PageProps {
  readonly args: readonly string[];
}

const PAGE_COMPONENTS: Readonly<Record<Page, ComponentType<PageProps>>> = {
  overview: OverviewPage,
  prices: ({ args }) => (args[0] === undefined ? <PricesPage /> : <SymbolPage key={args[0]} symbol={args[0]} />),
  market: MarketPage,
  chains: ChainsPage,
  inbox: InboxPage,
  alerts: AlertsPage,
  channels: ChannelsPage,
  connections: ConnectionsPage,
  setup: SetupPage,
};

/** The whole page. */
export function App(): ReactElement {
  const { client } = useSession();
  return (
    // The parts of the page show what they are refused, and the header why a connection ended.
    <WebSocketProvider client={client} onError={logFault}>
      <a
        className="skip"
        href="#main"
        onClick={(event) => {
          // The hash belongs to the routes.
          event.preventDefault();
          document.getElementById("main")?.focus();
        }}
      >
        Skip to the page
      </a>
      <Header />
      <Tabs />
      <div className="page">
        <ConnectionBar />
        <Fence fallback={null}>
          <SampleBanner />
        </Fence>
        <Main />
      </div>
      <AccountDialog />
      <CopyDialog />
      <HintBox />
    </WebSocketProvider>
  );
}

function Main(): ReactElement {
  const { page, args } = useRoute();
  const { wantsToken, token } = useSession();
  const main = useRef<HTMLElement>(null);
  const address = [page, ...args].join("/");
  // Pages with parts behind their name keep what they have loaded, except that each symbol has a page of its own.
  const place = page === "prices" ? address : page;
  const first = useRef<string | undefined>(place);
  useTitlePart("page", page === undefined ? "No such page" : [...args, PAGE_NAMES[page]].join(" · "));
  // Before the page is painted: the focus is at the title as soon as the page is seen.
  useLayoutEffect(() => {
    if (first.current !== place) {
      first.current = undefined;
      // As after a load of a page: at its top, and read out by its title.
      scrollTo(0, 0);
      main.current?.querySelector("h1")?.focus({ preventScroll: true });
    }
  }, [place]);
  return (
    <main id="main" ref={main} tabIndex={-1}>
      {wantsToken && token === undefined ? (
        <>
          <PageHead title="This server wants a token" />
          <SignInCard what="this server" />
        </>
      ) : page === undefined ? (
        <>
          <PageHead title="No such page" />
          <Empty title="The address names no page">Choose one of the pages in the navigation.</Empty>
        </>
      ) : (
        <Fence key={place}>
          <PageOf page={page} args={args} />
        </Fence>
      )}
    </main>
  );
}

function PageOf({ page, args }: PageProps & { readonly page: Page }): ReactElement {
  const Shown = PAGE_COMPONENTS[page];
  return <Shown args={args} />;
}
