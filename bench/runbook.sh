#!/usr/bin/env bash
# The runbook: move a scope's writers from $SOURCE to $TARGET as a careful person does it at a terminal, with Kafka's
# own command-line tools and curl, one command after the other, looking again once a second where something takes time.
#
# It is the baseline the bench compares with, and it is meant to be a good one: the tools run with small heaps and the
# fast compiler, nothing is polled more slowly than a person would, and the estate is left as a switchover leaves it.
# What it cannot do: prove the drain where a log ends in transaction markers (it waits until the mirror stands still),
# fence the mirror (so the connector is stopped inside the outage), place a lagging group exactly, or go on by itself
# when it dies half-way.
#
# usage: runbook.sh ESTATE TIMES
#   ESTATE  shell variables: addresses and paths, as bench/runbook.py writes them; passwords stay in the files they name
#   TIMES   one line a step is appended: name, title, start and end in Unix nanoseconds, separated by tabs
# Exit codes: 0 done; else the command that failed is named, and the estate is where the last step left it.
set -Eeuo pipefail
# shellcheck disable=SC1090
source "$1"
TIMES=$2
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
trap 'echo "runbook: line $LINENO failed: $BASH_COMMAND" >&2' ERR
LOOKS=120

# --- tools ---

tool() { "$JAVA" -Xmx128m -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -XX:-UsePerfData -cp "$KAFKA_CLASSPATH" "org.apache.kafka.tools.$@"; }
get() { curl --silent --show-error --fail --max-time 30 "$@"; }
send() { get --header 'Content-Type: application/json' --request "$@"; }
json() { "$PYTHON" -I -S -c $'import base64, json, sys\n'"$1" "${@:2}"; }

step() { # name, title, command...
    local name=$1 title=$2 began
    echo "  $title" >&2
    began=$(date +%s%N)
    "${@:3}"
    printf '%s\t%s\t%s\t%s\n' "$name" "$title" "$began" "$(date +%s%N)" >>"$TIMES"
}

gave_up() {
    echo "runbook: $1 did not happen in $LOOKS looks" >&2
    exit 1
}

# --- looks ---

offsets() { # bootstrap, time (-1 end, -2 start): topic:partition:offset of the users' topics
    tool GetOffsetShell --bootstrap-server "$1" --command-config "$ADMIN" --time "$2" |
        grep -Ev '^(__|heartbeats:|[^:]*\.internal:)' | sort
}

settled() { # bootstrap, file: the end offsets, once two looks a second apart agree
    local before='' now
    for _ in $(seq $LOOKS); do
        now=$(offsets "$1" -1)
        if [[ $now == "$before" ]]; then
            echo "$now" >"$2"
            return
        fi
        before=$now
        sleep 1
    done
    gave_up "settling of $1"
}

connector_is() { # url, connector, state: the state, and no task (STOPPED) or only such tasks
    local found
    for _ in $(seq $LOOKS); do
        found=$(get "$1/connectors/$2/status" | json '
d = json.load(sys.stdin); t = {one["state"] for one in d["tasks"]}; s = d["connector"]["state"]
print(s if t <= ({s} if s == "RUNNING" else set()) else "not yet")')
        [[ $found == "$3" ]] && return
        sleep 1
    done
    gave_up "$2: $3"
}

canary() { # bootstrap: "accepted", or the tool's complaint
    local said
    said=$(echo "runbook $(date +%s)" | tool ConsoleProducer --bootstrap-server "$1" --topic "$CANARY_TOPIC" \
        --command-config "$CANARY" --max-block-ms 10000 2>&1) || true
    case $said in
        *AuthorizationException*) echo refused ;;
        *[Ee]xception* | *ERROR*) echo "$said" >&2 ;;
        *) echo accepted ;;
    esac
}

# --- steps ---

check_lease() {
    get "http://$ETCD/v3/kv/range" --data "{\"key\": \"$(printf %s "$LEASE_KEY" | base64 -w0)\"}" >"$WORK/lease"
    json 'kv = json.load(open(sys.argv[1]))["kvs"][0]; r = json.loads(base64.b64decode(kv["value"]))
ok = r["holder"] == sys.argv[2] and r["phase"] == "OPEN" and not r.get("op_id")
sys.exit(0 if ok else "the lease is not OPEN with %s: %s" % (sys.argv[2], r))' "$WORK/lease" "$SOURCE"
    connector_is "$TARGET_CONNECT" "mm2-source.$SOURCE-to-$TARGET" RUNNING
}

stop_connector() { # url, connector
    send PUT "$1/connectors/$2/stop"
    connector_is "$1" "$2" STOPPED
}

close_users() {
    tool AclCommand --bootstrap-server "$SOURCE_KAFKA" --command-config "$ADMIN" --add --force \
        --deny-principal 'User:*' --deny-host '*' --topic '*' \
        --operation Write --operation Create --operation Delete --operation Alter >/dev/null
    for _ in $(seq $LOOKS); do
        [[ $(canary "$SOURCE_KAFKA") == refused ]] && return
        sleep 1
    done
    gave_up "a refusal on $SOURCE"
}

freeze_groups() {
    tool AclCommand --bootstrap-server "$SOURCE_KAFKA" --command-config "$ADMIN" --add --force \
        --deny-principal 'User:*' --deny-host '*' --group '*' --operation Read >/dev/null
}

end_transactions() {
    local open id
    for _ in $(seq $LOOKS); do
        open=$(tool TransactionsCommand --bootstrap-server "$SOURCE_KAFKA" --command-config "$ADMIN" list |
            awk '$4 ~ /^(Ongoing|Prepare)/ && $1 !~ /^connect-/ {print $1}')
        [[ -z $open ]] && return
        for id in $open; do
            tool TransactionsCommand --bootstrap-server "$SOURCE_KAFKA" --command-config "$ADMIN" \
                forceTerminateTransaction --transactionalId "$id" >/dev/null
        done
        sleep 1
    done
    gave_up "the end of transactions $open"
}

take_cut() {
    settled "$SOURCE_KAFKA" "$WORK/cut"
    offsets "$SOURCE_KAFKA" -2 >"$WORK/starts"
}

drain() {
    local before='' now same=0 behind
    for _ in $(seq $LOOKS); do
        get "$TARGET_CONNECT/connectors/mm2-source.$SOURCE-to-$TARGET/offsets" >"$WORK/mirrored"
        now=$(json '
at = {(o["partition"]["topic"], str(o["partition"]["partition"])): o["offset"]["offset"]
      for o in json.load(open(sys.argv[3]))["offsets"] if o["partition"]["cluster"] == sys.argv[4]}
def read(path): return {tuple(line.split(":")[:2]): int(line.split(":")[2]) for line in open(path)}
ends, starts = read(sys.argv[1]), read(sys.argv[2])
behind = sorted("%s-%s at %s of %s" % (*p, at.get(p), end) for p, end in ends.items()
                if end > starts[p] and at.get(p, -1) < end - 1)
print(*behind, sep="\n")' "$WORK/cut" "$WORK/starts" "$WORK/mirrored" "$SOURCE")
        [[ -z $now ]] && return
        # A log that ends in transaction markers never gets there: what stands still for three looks is taken for drained.
        if [[ $now == "$before" ]]; then same=$((same + 1)); else same=0; fi
        [[ $same -ge 2 ]] && return
        before=$now
        sleep 1
    done
    gave_up "the drain"
}

target_ends() { settled "$TARGET_KAFKA" "$WORK/ends"; }

move_groups() {
    # A group that has read everything goes to the end; a lagging one keeps what MirrorMaker synchronised.
    tool consumer.group.ConsumerGroupCommand --bootstrap-server "$SOURCE_KAFKA" --command-config "$ADMIN" \
        --describe --all-groups --offsets 2>/dev/null |
        awk '$3 ~ /^[0-9]+$/ && $6 == 0 && $1 !~ /^(connect|dcdr)-/ {print $1, $2, $3}' >"$WORK/at-the-end" || true
    awk -F'[: ]' 'NR == FNR {end[$1 " " $2] = $3; next} ($2 " " $3) in end {print $1 "," $2 "," $3 "," end[$2 " " $3]}' \
        "$WORK/ends" "$WORK/at-the-end" >"$WORK/groups.csv"
    [[ -s $WORK/groups.csv ]] || return 0
    local names=() arguments=() one
    mapfile -t names < <(cut -d, -f1 "$WORK/groups.csv" 2>/dev/null | sort -u)
    for one in "${names[@]}"; do arguments+=(--group "$one"); done
    # With one group the tool wants the file without that column.
    if [[ ${#names[@]} -eq 1 ]]; then sed -i 's/^[^,]*,//' "$WORK/groups.csv"; fi
    tool consumer.group.ConsumerGroupCommand --bootstrap-server "$TARGET_KAFKA" --command-config "$ADMIN" \
        --reset-offsets "${arguments[@]}" --from-file "$WORK/groups.csv" --execute >"$WORK/groups.out"
}

hand_over() {
    for _ in $(seq $LOOKS); do # the holder's next sign of life may come between the look and the swap
        if swap_lease; then return; fi
    done
    gave_up "the lease handed to $TARGET"
}

swap_lease() {
    get "http://$ETCD/v3/kv/range" --data "{\"key\": \"$(printf %s "$LEASE_KEY" | base64 -w0)\"}" >"$WORK/lease"
    json 'kv = json.load(open(sys.argv[1]))["kvs"][0]; r = json.loads(base64.b64decode(kv["value"]))
r.update(holder=sys.argv[2], epoch=r["epoch"] + 1, seq=r.get("seq", 0) + 1, turn=r.get("turn", 0) + 1,
         phase="OPEN", ledger=None)
value = base64.b64encode(json.dumps(r).encode()).decode()
print(json.dumps({"compare": [{"key": kv["key"], "target": "MOD", "modRevision": kv["mod_revision"]}],
                  "success": [{"requestPut": {"key": kv["key"], "value": value}}]}))
open(sys.argv[3], "w").write(str(r["epoch"]))' "$WORK/lease" "$TARGET" "$WORK/epoch" >"$WORK/swap"
    get "http://$ETCD/v3/kv/txn" --data "@$WORK/swap" |
        json 'sys.exit(0 if json.load(sys.stdin).get("succeeded") else 1)'
}

open_users() {
    tool AclCommand --bootstrap-server "$TARGET_KAFKA" --command-config "$ADMIN" --remove --force \
        --deny-principal 'User:*' --deny-host '*' --topic '*' \
        --operation Write --operation Create --operation Delete --operation Alter >/dev/null
    for _ in $(seq $LOOKS); do
        [[ $(canary "$TARGET_KAFKA") == accepted ]] && return
        sleep 1
    done
    gave_up "an accepted record on $TARGET"
}

flip() {
    json 'addresses, target, epoch, name = sys.argv[1].split(","), *sys.argv[2:]
hosts, port = [one.rpartition(":")[0] for one in addresses], int(addresses[0].rpartition(":")[2])
print(json.dumps({
    "metadata": {"annotations": {"dcdr.io/epoch": epoch, "dcdr.io/active": target}},
    "ports": [{"name": name, "port": port, "protocol": "TCP"}],
    "endpoints": [{"addresses": [host], "conditions": {"ready": True}} for host in hosts]}))' \
        "$TARGET_ENDPOINT" "$TARGET" "$(cat "$WORK/epoch")" "$PORT_NAME" >"$WORK/slice"
    get --cacert "$API_CA" --header "@$API_TOKEN_HEADER" --header 'Content-Type: application/merge-patch+json' \
        --request PATCH --data "@$WORK/slice" "$API_SLICE" >/dev/null
}

open_groups() {
    tool AclCommand --bootstrap-server "$TARGET_KAFKA" --command-config "$ADMIN" --remove --force \
        --deny-principal 'User:*' --deny-host '*' --group '*' --operation Read >/dev/null
}

seed() {
    local name="mm2-source.$TARGET-to-$SOURCE"
    connector_is "$SOURCE_CONNECT" "$name" STOPPED
    get "$SOURCE_CONNECT/connectors/$name/offsets" >"$WORK/stored"
    json 'rows = {}
for line in open(sys.argv[1]):
    topic, partition, end = line.split(":")
    rows[topic, int(partition)] = {"offset": int(end) - 1} if int(end) else None
for one in json.load(open(sys.argv[2]))["offsets"]:
    rows.setdefault((one["partition"]["topic"], one["partition"]["partition"]), None)
print(json.dumps({"offsets": [{"partition": {"cluster": sys.argv[3], "topic": t, "partition": p}, "offset": o}
                              for (t, p), o in sorted(rows.items())]}))' \
        "$WORK/ends" "$WORK/stored" "$TARGET" >"$WORK/seed"
    send PATCH "$SOURCE_CONNECT/connectors/$name/offsets" --data "@$WORK/seed" >/dev/null
    get "$SOURCE_CONNECT/connectors/$name/offsets" >"$WORK/stored"
    json 'def read(path): return {(o["partition"]["topic"], o["partition"]["partition"]): o["offset"]["offset"]
        for o in json.load(open(path))["offsets"] if o["offset"]}
sys.exit(0 if read(sys.argv[1]) == read(sys.argv[2]) else "the seed does not read back")' "$WORK/seed" "$WORK/stored"
}

start_mirror() {
    local kind
    for kind in source checkpoint heartbeat; do
        send PUT "$SOURCE_CONNECT/connectors/mm2-$kind.$TARGET-to-$SOURCE/resume"
    done
    connector_is "$SOURCE_CONNECT" "mm2-source.$TARGET-to-$SOURCE" RUNNING
}

step preflight "the lease and the mirror are as they should be" check_lease
step checkpoint.stop "stop the checkpoint connector $SOURCE to $TARGET" \
    stop_connector "$TARGET_CONNECT" "mm2-checkpoint.$SOURCE-to-$TARGET"
step fence.close "close users on $SOURCE, see a record refused" close_users
step groups.freeze "freeze consumer groups on $SOURCE" freeze_groups
step transactions.fence "end open transactions on $SOURCE" end_transactions
step cut.take "end offsets of $SOURCE, twice the same" take_cut
step drain.prove "wait until the mirror has copied them" drain
step mirror.close "stop the mirror $SOURCE to $TARGET" \
    stop_connector "$TARGET_CONNECT" "mm2-source.$SOURCE-to-$TARGET"
step target.ends "end offsets of $TARGET, twice the same" target_ends
step groups.carry_over "set the consumer groups on $TARGET" move_groups
step lease.hand_over "hand the lease to $TARGET" hand_over
step fence.open "open users on $TARGET, see a record accepted" open_users
step endpoint.flip "point the endpoint at $TARGET" flip
step groups.open "let consumers in on $TARGET" open_groups
step mirror.retire "stop the heartbeats $SOURCE to $TARGET" \
    stop_connector "$TARGET_CONNECT" "mm2-heartbeat.$SOURCE-to-$TARGET"
step mirror.seed "seed the mirror $TARGET to $SOURCE, read it back" seed
step mirror.start "start the mirror $TARGET to $SOURCE" start_mirror
