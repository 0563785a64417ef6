# Shell functions about the demonstration that "$node" runs in the folder "$work": to be sourced.

# What a key of a table says in each node's configuration, one line per node.
of_nodes() {
    local section=$1 key=$2 file
    for file in "$work"/pg_replica-demo-*/n?/pg_replica.toml; do
        sed -n "/^\[$section\]/,/^\[/s/^$key = \"\(.*\)\"/\1/p" "$file"
    done
}

# Where the nodes listen to operators, separated by commas.
apis() {
    of_nodes api listen | paste -sd,
}

holder() {
    "$node" status --json --api "$(apis)" 2>/dev/null | sed -n 's/^ *"holder": "\(n[0-9]*\)".*/\1/p'
}

# Runs the demonstration with these words, in the background, and returns when it has a primary.
begin() {
    TMPDIR=$work "$node" demo --json "$@" >"$work/out" 2>"$work/err" &
    local try
    for ((try = 0; try < 300; try++)); do
        has_served && [[ -n $(holder) ]] && return
        sleep 0.2
    done
    cat "$work/err" >&2
    exit 1
}

# psql at a node's own server, through its private socket.
psql_at() {
    local socket port
    socket=$(folder_of "$1")/state/home/socket
    port=$(find "$socket" -name '.s.PGSQL.*' -not -name '*.lock')
    shift
    PGPASSWORD=$(cat "$work"/pg_replica-demo-*/secret) \
        psql -h "$socket" -p "${port##*.}" -U replica_keeper -d demo "$@"
}

has_served() {
    grep -qs 'preparing -> primary' "$work"/pg_replica-demo-*/n?/log
}

folder_of() {
    echo "$work"/pg_replica-demo-*/"$1"
}

postmaster_of() {
    head -1 "$(folder_of "$1")/state/data/postmaster.pid"
}

manager_of() {
    pgrep -f "run --with-parent --config $(folder_of "$1")/"
}

guard_of() {
    pgrep -f "guard .*$(folder_of "$1")/"
}

# The postmaster and its children.
server_of() {
    postmaster_of "$1"
    pgrep -P "$(postmaster_of "$1")" || true
}

# Everything of a node: manager, guard, postmaster and its children.
all_of() {
    pgrep -f "$(folder_of "$1")/" || true
    server_of "$1"
}
