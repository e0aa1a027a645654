#!/usr/bin/env bash
# Retention of a namespace, by policies of the broker.
#
#   deploy/rabbitmq/policies.sh NAMESPACE              bounds the results, moves old dead letters to
#                                                      NAMESPACE.dead.raw; loses nothing
#   deploy/rabbitmq/policies.sh NAMESPACE --discard    and discards what is old in
#                                                      NAMESPACE.dead.raw
#   deploy/rabbitmq/policies.sh NAMESPACE --clear      takes all of that back
#
# Where the results are full, raise RESULTS and run it again before you clear: a quorum queue whose
# limit is taken away tells no channel that it takes messages again, and workers would wait until
# their next session.
#
# Jobs, tickets, retried jobs and the guard's state are never bounded: a full queue there would
# stall what dead-letters into it, and an expired job is a lost one.
#
#   RESULTS=1000000        results kept; then the broker takes no more, and workers keep answers in
#                          tickets and take no jobs
#   DEAD_DAYS=14           days in the dead letters of a class, and as many again in dead.raw where
#                          those are discarded
#   RAW=1000000            with --discard: messages kept in dead.raw
#   VHOST=/  RABBITMQCTL=rabbitmqctl     as for users.sh
set -euo pipefail

die() { echo "policies.sh: $*" >&2; exit 1; }

namespace=${1:-}
mode=${2:-}
vhost=${VHOST:-/} results=${RESULTS:-1000000} days=${DEAD_DAYS:-14} raw=${RAW:-1000000}
read -ra ctl <<<"${RABBITMQCTL:-rabbitmqctl}"
[[ $namespace =~ ^[a-z0-9_.-]{1,64}$ ]] || die "usage: policies.sh NAMESPACE [--discard|--clear]"
for number in "$results" "$raw"; do
  [[ $number =~ ^[1-9][0-9]{0,9}$ ]] || die "RESULTS and RAW are whole numbers from 1"
done
[[ $days =~ ^[0-9]+(\.[0-9]+)?$ ]] || die "DEAD_DAYS is a number of days"
ttl=$(awk -v days="$days" 'BEGIN { printf "%.0f", days * 86400000 }')
# The broker's own limit, in milliseconds, is 2^32 - 1.
((ttl >= 1 && ttl <= 4294967295)) || die "DEAD_DAYS: at most 49"
n=${namespace//./\\.}

policy() {
  "${ctl[@]}" --quiet set_policy --vhost "$vhost" --apply-to queues --priority 10 "$namespace-$1" "$2" "$3" </dev/null >/dev/null
}

clear() {
  if awk -v name="$namespace-$1" '$2 == name { found = 1 } END { exit !found }' <<<"$known"; then
    "${ctl[@]}" --quiet clear_policy --vhost "$vhost" "$namespace-$1" </dev/null
  fi
}

known=$("${ctl[@]}" --quiet list_policies --vhost "$vhost" </dev/null)
case $mode in
  '' | --discard)
    # No "overflow": the queue's own is reject-publish, by which nothing is lost.
    policy results "^$n\\.results\$" "{\"max-length\": $results}"
    # Expired, they go to dead.raw, at least once.
    policy dead "^$n\\.dead\\.(?!raw\$).+\$" "{\"message-ttl\": $ttl}"
    ;;
  --clear) clear results; clear dead; clear raw; clear unrouted ;;
  *) die "unknown option '$mode'" ;;
esac
case $mode in
  '') clear raw; clear unrouted ;;
  --discard)
    # Whatever leaves dead.raw goes to unrouted, and from there to dead.raw again: a cycle. With
    # "drop-head" the broker ends it by discarding; with the queues' own reject-publish it would
    # keep such messages for ever, where nobody can read them. Never give unrouted a time without
    # it.
    policy raw "^$n\\.dead\\.raw\$" "{\"message-ttl\": $ttl, \"max-length\": $raw, \"overflow\": \"drop-head\"}"
    # Outcomes that no queue was bound for move on to dead.raw after this second, and are kept there
    # like the rest.
    policy unrouted "^$n\\.unrouted\$" '{"message-ttl": 1000, "overflow": "drop-head"}'
    ;;
esac
