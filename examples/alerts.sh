#!/usr/bin/env bash
# Alerts of a user with curl:
#
#     cargo run --release                       # a server, in another terminal
#     TOKEN=$(cargo run --release -- token --user ada) examples/alerts.sh
#     TOKEN=… examples/alerts.sh http://127.0.0.1:8080 SOL-USD
set -euo pipefail
server="${1:-http://127.0.0.1:8080}" symbol="${2:-BTC-USD}"
: "${TOKEN:?expected a token of a user, see the first lines of this file}"

# rpc METHOD JSON [OPTION…]: calls an RPC. If it fails, prints the server's error and ends the script.
rpc() {
  local answer
  if ! answer="$(curl -sS --fail-with-body -X POST "$server/v1/rpc/AlertService/$1" -d "$2" "${@:3}")"; then
    echo "$1: $answer" >&2
    return 1
  fi
  echo "$answer"
}

# user METHOD JSON: the same in the name of the token's user.
user() { rpc "$1" "$2" -H "authorization: Bearer $TOKEN"; }

echo "# a rule, with the text of its notifications"
rule="$(user RegisterAlert "{\"rule\":{
  \"name\": \"From curl\",
  \"condition\": {\"kind\": \"price_above\", \"symbol\": \"$symbol\", \"threshold\": 1000000000},
  \"template\": \"{symbol} is at {price}\"
}}")"
echo "$rule"
id="$(sed 's/^{"id":"\([^"]*\)".*/\1/' <<<"$rule")"

echo "# the same rule on past prices"
rpc Backtest "{
  \"rule\": {\"condition\": {\"kind\": \"price_above\", \"symbol\": \"$symbol\", \"threshold\": 100}},
  \"prices\": [
    {\"symbol\": \"$symbol\", \"price\": 99, \"timestamp\": 1750000000000},
    {\"symbol\": \"$symbol\", \"price\": 101, \"timestamp\": 1750000001000}
  ]
}"

echo "# the rule fires by hand, whatever the price"
user TriggerAlert "{\"id\":\"$id\"}"

echo "# what fired, newest first"
user ListFires '{"limit":1}'

echo "# why it did not fire by itself"
user ExplainAlert "{\"id\":\"$id\"}"

echo "# the rules"
user ListAlerts '{}'

echo "# the end of the rule; the log stays"
user DeleteAlert "{\"id\":\"$id\"}"
