#!/usr/bin/env bash
# Calls and streams of a server with curl:
#
#     cargo run --release -- replay --loop      # a server, in another terminal
#     examples/curl.sh
#     examples/curl.sh http://127.0.0.1:8080 SOL-USD
set -euo pipefail
server="${1:-http://127.0.0.1:8080}" symbol="${2:-BTC-USD}"

# rpc SERVICE/METHOD JSON: calls an RPC. If it fails, prints the server's error.
rpc() { curl -sS --fail-with-body -X POST "$server/v1/rpc/$1" -d "$2" && echo; }

# events QUERY COUNT: prints the first COUNT events of a stream.
events() {
  local left="$2" line
  while [ "$left" -gt 0 ] && IFS= read -r line; do
    echo "$line"
    [ -n "$line" ] || left=$((left - 1))
  done < <(exec curl -sN "$server/v1/sse?$1")
  kill "$!" 2>/dev/null || true
  [ "$left" -eq 0 ]
}

echo "# a price, with its sources and its method"
rpc PriceService/GetPrice "{\"symbol\":\"$symbol\"}"

echo "# the sources, and their state"
rpc PriceService/ListSources '{}'

echo "# publish; demo: channels exist on loopback, where this machine's user needs no token for them"
rpc StreamService/Publish '{"channel":"demo:curl","data":{"text":"hello"}}'

echo "# what was published on a channel"
rpc StreamService/GetHistory '{"channel":"demo:curl","limit":1}'

echo "# a price as it changes: welcome, the answer to the subscription, the newest price"
events "channels=prices:$symbol" 3
