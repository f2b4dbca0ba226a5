#!/bin/sh
# Publishes lobby changes and consumes room updates of lobbyd, with amqp-tools and jq.
#
#     apt-get install amqp-tools jq
#     AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f ./webinar.sh publish webinar 1 1767225600
#     AMQP_URL=amqp://lobbyd:SECRET@localhost:5672/%2f ./webinar.sh consume
#
# amqp-publish does not wait for the broker's confirm. `lobbyd publish` does, and until the change was
# applied. amqp-tools cannot bind a queue, so that has to be done once, for example by
#
#     rabbitmqadmin declare queue name=webinars durable=true queue_type=quorum
#     rabbitmqadmin declare binding source=lobbyd.events destination=webinars routing_key='room.updated.#'
set -eu

exchange=${EXCHANGE:-lobbyd.events} queue=${QUEUE:-webinars}
# The last version of each room, a file for each. It may be kept from one run to the next.
versions=${VERSIONS:-./versions}

publish() {
  version=$(date +%s%3N)
  jq --null-input --compact-output --arg token "$1" --argjson state "$2" --argjson timer "$3" \
    --argjson version "$version" '{$token, $state, $timer, $version}' |
    amqp-publish --url="$AMQP_URL" --exchange="$exchange" --routing-key="lobby.changed.$1" \
      --content-type=application/json --persistent
}

consume() {
  mkdir -p "$versions"
  echo "waiting for updates"
  amqp-consume --url="$AMQP_URL" --queue="$queue" --prefetch-count=1 "$0" receive
}

# Reads one update from standard input. The message is acknowledged when this ends with status 0.
receive() {
  jq --raw-output '.data | "\(.token) \(.version) \(.reason) \(.lobbyState)"' | {
    read -r token version reason state
    last=$(cat "$versions/$token" 2>/dev/null || echo 0)
    if [ "$version" -gt "$last" ]; then
      echo "$version" >"$versions/$token"
      echo "$token $reason $state"
    fi
  }
}

case "${1:-} $#" in
  'publish 4') publish "$2" "$3" "$4" ;;
  'consume 1') consume ;;
  'receive 1') receive ;;
  *) echo "usage: webinar.sh publish TOKEN STATE TIMER | consume" >&2; exit 1 ;;
esac
