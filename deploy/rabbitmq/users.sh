#!/usr/bin/env bash
# Four users of a namespace, each with the least that it needs: NAMESPACE-worker, -publisher, -consumer, -operator.
#
#   deploy/rabbitmq/users.sh NAMESPACE [PASSWORDS]
#
# PASSWORDS is a folder with a file for each: worker, publisher, consumer, operator. Whoever has none there has no password and can log in by
# certificate only. Run again, it sets passwords and permissions anew and leaves everybody else alone. The topology must be there already: none
# of the four may declare it.
#
#   VHOST=/                the virtual host
#   RABBITMQCTL=rabbitmqctl  what is called; "docker compose exec -T rabbitmq rabbitmqctl" does as well
set -euo pipefail

die() { echo "users.sh: $*" >&2; exit 1; }

namespace=${1:-}
passwords=${2:-}
vhost=${VHOST:-/}
read -ra ctl <<<"${RABBITMQCTL:-rabbitmqctl}"
[[ $namespace =~ ^[a-z0-9_.-]{1,64}$ ]] || die "usage: users.sh NAMESPACE [PASSWORDS]; a namespace is 1 to 64 of a-z, 0-9, '_', '.', '-'"
[ -z "$passwords" ] || [ -d "$passwords" ] || die "$passwords is not a folder"

# Permissions are regular expressions over names, and a dot is any character in them.
n=${namespace//./\\.}
# A replica's, or an operator's, own queue on the control exchange: a fresh name for each connection.
own="$n\\.control\\.[0-9a-f]{32}"

known=$("${ctl[@]}" --quiet list_users)

# Passwords go by standard input: what stands in a command line can be read by every process of the machine. Without --quiet here: rabbitmqctl 4
# tells by the number of its arguments whether it needs its input, and would wait for ever.
user() {
  local name=$namespace-$1 file=$passwords/$1 verb=add_user
  # awk reads to the end, or the writer would be told of a closed pipe.
  if awk -v name="$name" '$1 == name { found = 1 } END { exit !found }' <<<"$known"; then verb=change_password; fi
  if [ -n "$passwords" ] && [ -e "$file" ]; then
    local password
    password=$(<"$file")
    [ -n "$password" ] || die "$file is empty"
    "${ctl[@]}" "$verb" "$name" <<<"$password" >/dev/null
  else
    if [ "$verb" = add_user ]; then
      head -c 32 /dev/urandom | base64 | "${ctl[@]}" add_user "$name" >/dev/null
    fi
    "${ctl[@]}" --quiet clear_password "$name"
    echo "$name: no password, log-in by certificate only"
  fi
  "${ctl[@]}" --quiet set_permissions --vhost "$vhost" "$name" "$2" "$3" "$4" </dev/null
}

#                configure      write                                              read
# Tickets, retried jobs, the guard's state and replies go by the default exchange, which is called amq.default here. Whoever may write to it
# reaches every queue of the virtual host, so that the worker alone may.
user worker    "^$own\$"      "^(amq\\.default|$n\\.outcomes|$n\\.control|$own)\$" "^($n\\.(jobs|tickets|guard|control)|$own)\$"
# Direct reply-to needs no permission.
user publisher '^$'           "^$n\\.jobs\$"                                     '^$'
user consumer  '^$'           '^$'                                               "^$n\\.results\$"
# Pauses, resumes, looks at dead letters, replays them, and sends on what had no queue.
user operator  "^$own\$"      "^($n\\.(jobs|outcomes|control)|$own)\$"            "^($n\\.(dead\\..+|unrouted|control)|$own)\$"
