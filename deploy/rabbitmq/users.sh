#!/usr/bin/env bash
# The users of a namespace, each with the least that it needs: NAMESPACE-worker, -publisher,
# -consumer, -operator.
#
#   deploy/rabbitmq/users.sh NAMESPACE [PASSWORDS] [--publisher-lane LANE]… [--console]
#
# PASSWORDS is a folder with a file for each: worker, publisher, consumer, operator. A user without
# a file has no password and can log in by certificate only. Run again, the script sets passwords
# and permissions anew and leaves all other users alone. The topology must exist already: none of
# the users may declare it.
#
# --publisher-lane makes one more user, NAMESPACE-publisher-LANE (file: publisher-LANE), which can
# reach the queue of that lane only. It publishes to an exchange of its own, NAMESPACE.jobs.LANE,
# because RabbitMQ does not restrict the routing keys of a direct exchange.
#
# --console lets the worker read dead letters and publish jobs, which the console's replay and
# look-up need (ops.admin_token_file).
#
#   VHOST=/                  the virtual host
#   RABBITMQCTL=rabbitmqctl  the command, such as "docker compose exec -T rabbitmq rabbitmqctl"
set -euo pipefail

die() { echo "users.sh: $*" >&2; exit 1; }
usage="usage: users.sh NAMESPACE [PASSWORDS] [--publisher-lane LANE]… [--console]"

positional=() lanes=() console=
while (($#)); do
  case $1 in
    --publisher-lane) lanes+=("${2:?$usage}"); shift ;;
    --console) console=1 ;;
    -*) die "unknown option '$1'; $usage" ;;
    *) positional+=("$1") ;;
  esac
  shift
done
namespace=${positional[0]:-}
passwords=${positional[1]:-}
vhost=${VHOST:-/}
read -ra ctl <<<"${RABBITMQCTL:-rabbitmqctl}"
((${#positional[@]} <= 2)) && [[ $namespace =~ ^[a-z0-9_.-]{1,64}$ ]] \
  || die "$usage; a namespace is 1 to 64 of a-z, 0-9, '_', '.', '-'"
[ -z "$passwords" ] || [ -d "$passwords" ] || die "$passwords is not a folder"
[[ $vhost != *[\"\\]* ]] || die "a virtual host whose name has quotes or backslashes is not supported"

# Permissions are regular expressions over names, and a dot is any character in them. The second
# backslash is for JSON.
n=${namespace//./\\\\.}
# The own queue of a replica, or of an operator, on the control exchange: a fresh name for each
# connection.
own="$n\\\\.control\\\\.[0-9a-f]{32}"

known=$("${ctl[@]}" --quiet list_users </dev/null)

# The bytes that hexadecimal digits stand for.
bytes() { printf '%b' "$(sed 's/../\\x&/g' <<<"$1")"; }

# RabbitMQ's format: a salt of 4 bytes, then SHA-256 of salt and password. printf is a command of
# the shell, so no process list shows the password.
hash_of() {
  local salt digest
  salt=$(od -An -N4 -tx1 /dev/urandom | tr -d ' \n')
  digest=$({ bytes "$salt"; printf '%s' "$1"; } | sha256sum | cut -d' ' -f1)
  bytes "$salt$digest" | base64 | tr -d '\n'
}

users='' permissions=''
user() {
  local name=$namespace-$1 file=$passwords/$1 hash='' tags password
  if [ -n "$passwords" ] && [ -e "$file" ]; then
    password=$(<"$file")
    [ -n "$password" ] || die "$file is empty"
    hash=$(hash_of "$password")
  else
    echo "$name: no password, log-in by certificate only"
  fi
  # An import replaces the tags of a user, so it gets those that it has: "name [administrator,
  # monitoring]".
  tags=$(awk -F'\t' -v name="$name" '$1 == name { gsub(/[][ ]/, "", $2); print $2 }' <<<"$known")
  users+="${users:+,}{\"name\":\"$name\",\"password_hash\":\"$hash\",\"hashing_algorithm\":\"rabbit_password_hashing_sha256\",\"tags\":\"$tags\"}"
  permissions+="${permissions:+,}{\"user\":\"$name\",\"vhost\":\"$vhost\",\"configure\":\"$2\",\"write\":\"$3\",\"read\":\"$4\"}"
}

# From RabbitMQ 4.2.6 on, a user who looks at the length of a queue needs a permission on it. Of the
# three, write allows least there: to bind the queue. The queues of lanes are NAMESPACE.jobs.LANE.
lanes_too="jobs(\\\\..+)?"
# For each user: configure, write, read.
#
# Tickets, retried jobs, the guard's state and replies go by the default exchange, which is called
# amq.default here. A user that may write to it reaches every queue of the virtual host, so only the
# worker may.
user worker    "^$own\$" "^(amq\\\\.default|$n\\\\.(${console:+$lanes_too|}outcomes|control|results|unrouted|(retry|dead)\\\\..+)|$own)\$" "^($n\\\\.($lanes_too|tickets|guard|control${console:+|dead\\\\..+})|$own)\$"
# Direct reply-to needs no permission.
user publisher '^$'      "^$n\\\\.$lanes_too\$"                                                        '^$'
user consumer  '^$'      '^$'                                                                        "^$n\\\\.results\$"
# Pauses, resumes, looks at dead letters, replays them, and sends on what had no queue.
user operator  "^$own\$" "^($n\\\\.($lanes_too|outcomes|control|tickets|results|retry\\\\..+)|$own)\$" "^($n\\\\.(dead\\\\..+|unrouted|control)|$own)\$"

exchanges='' bindings=''
((${#lanes[@]} == 0)) || queues=$("${ctl[@]}" --quiet list_queues --vhost "$vhost" name </dev/null)
for lane in ${lanes[@]+"${lanes[@]}"}; do
  [[ $lane =~ ^[a-z0-9][a-z0-9_-]{0,31}$ ]] || die "'$lane' is not the name of a lane: 1 to 32 of a-z, 0-9, '_', '-'"
  # RabbitMQ 3.10 ignores a binding to a queue that does not exist.
  grep -qxF "$namespace.jobs.$lane" <<<"$queues" || die "the queue $namespace.jobs.$lane does not exist; declare the topology with this lane first"
  user "publisher-$lane" '^$' "^$n\\\\.jobs\\\\.$lane\$" '^$'
  exchanges+="${exchanges:+,}{\"name\":\"$namespace.jobs.$lane\",\"vhost\":\"$vhost\",\"type\":\"fanout\",\"durable\":true,\"auto_delete\":false,\"internal\":false,\"arguments\":{}}"
  bindings+="${bindings:+,}{\"source\":\"$namespace.jobs.$lane\",\"vhost\":\"$vhost\",\"destination\":\"$namespace.jobs.$lane\",\"destination_type\":\"queue\",\"routing_key\":\"\",\"arguments\":{}}"
done

# Passwords do not go through add_user: it reads its input, for which RabbitMQ 4.0 waits without end
# and which it cannot read on Erlang 29. Only the file's rights count where it is opened again as
# /dev/stdin, which Debian's rabbitmqctl does as the user rabbitmq. The folder keeps everybody else
# out.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
definitions=$folder/definitions.json
install -m 644 /dev/stdin "$definitions" \
  <<<"{\"users\":[$users],\"permissions\":[$permissions],\"exchanges\":[$exchanges],\"bindings\":[$bindings]}"
import() { "${ctl[@]}" import_definitions "$@" <"$definitions" 2>&1; }
# Where the input is a pipe, as in a container, RabbitMQ before 3.11 takes /dev/stdin for an empty
# file, but reads its input itself.
if ! printed=$(import /dev/stdin) && ! { [[ $printed == *zero-sized* ]] && printed=$(import); }; then
  die "the import failed: $printed"
fi
