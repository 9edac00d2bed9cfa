#!/usr/bin/env bash
# Everything that curl can do with a server:
#
#     cargo run --release -- replay --loop      # a server, in another terminal
#     examples/curl.sh
#     examples/curl.sh http://127.0.0.1:8080 SOL-USD
set -euo pipefail
server="${1:-http://127.0.0.1:8080}" symbol="${2:-BTC-USD}"

# rpc SERVICE/METHOD JSON: calls an RPC, and fails with the server's own words.
rpc() { curl -sS --fail-with-body -X POST "$server/v1/rpc/$1" -d "$2" && echo; }

# events QUERY COUNT: the first so many events of a stream.
events() {
  local left="$2" line
  while [ "$left" -gt 0 ] && IFS= read -r line; do
    echo "$line"
    [ -n "$line" ] || left=$((left - 1))
  done < <(exec curl -sN "$server/v1/sse?$1")
  kill "$!" 2>/dev/null || true
  [ "$left" -eq 0 ]
}

echo "# a price, with how it came about"
rpc PriceService/GetPrice "{\"symbol\":\"$symbol\"}"

echo "# the sources, and how they do"
rpc PriceService/ListSources '{}'

echo "# publish; demo: channels are open to everyone on a server of this machine"
rpc StreamService/Publish '{"channel":"demo:curl","data":{"text":"hello"}}'

echo "# what was published on a channel"
rpc StreamService/GetHistory '{"channel":"demo:curl","limit":1}'

echo "# a price as it changes: welcome, the answer to the subscription, the newest price"
events "channels=prices:$symbol" 3
