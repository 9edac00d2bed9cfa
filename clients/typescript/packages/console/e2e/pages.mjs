// Pages of the console that need no user, each with what it shows once its data is there.

export const PUBLIC_PAGES = [
  ["overview", "tr[data-venue]"],
  ["prices", "tr[data-symbol] .digits"],
  ["prices/BTC-USD", "tr[data-source]"],
  ["market", ".trades tbody th"],
  ["chains", "tr[data-block]"],
  ["channels/demo:layout", ".pane"],
  ["connections", "tr[data-connection-id]"],
  ["setup", 'tr[data-part="TLS"]'],
];
