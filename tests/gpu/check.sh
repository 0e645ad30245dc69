#!/usr/bin/env bash
# Runs every test that needs a GPU, in every way that finds something else, and prints one table:
# a row a test, a column a way, in each cell the result and the seconds it took.
#
#   own, compute_80, stressed   the device's own image of the kernels, the portable one, and the one
#                               that looks for races (skipped where tests were built without it)
#   memcheck, synccheck         compute-sanitizer, on the device's own image, every buffer an
#   initcheck, racecheck        allocation of its own with a red zone behind it; a number is how many
#                               reports there were: docs/gpu-tests.md says which are known
#
#   tests/gpu/check.sh LOGS TEST_BINARY...      `make gpu-test` builds the binaries and calls this
#
# Needs a GPU, compute-sanitizer for the last four, and no cargo. Run in the repository's root.
# WAYS chooses columns, ONLY tests (a pattern), JOBS how many run at once, LIMIT_S the seconds of one,
# TOTAL_S of all.
set -uo pipefail

logs=$1
shift
ways=(${WAYS:-own compute_80 stressed memcheck synccheck initcheck racecheck})
limit_s=${LIMIT_S:-300}
mkdir -p "$logs"
: > "$logs/results"
export BINFER_REQUIRE_GPU=1

# What a way runs a test with.
command_of() {
    local way=$1 sanitizer
    sanitizer="env BINFER_SANITIZED=1 compute-sanitizer --tool $way --error-exitcode 99 --print-limit 20"
    [ "$way" = memcheck ] && sanitizer+=" --padding 512"
    case $way in
    own) echo env BINFER_KERNELS= ;;
    compute_80 | stressed) echo env "BINFER_KERNELS=$way" ;;
    *) echo "$sanitizer" ;;
    esac
}

# Runs one test in one way; appends "test way result seconds".
run() {
    local binary=$1 name=$2 way=$3 began log with code result
    log="$logs/$way.${name//::/.}.log"
    with=$(command_of "$way")
    began=$(date +%s%N)
    # shellcheck disable=SC2086
    timeout "$limit_s" $with "$binary" --exact "$name" --nocapture --test-threads=1 > "$log" 2>&1
    code=$?
    result=FAILED
    [ $code -eq 0 ] && result=ok
    [ $code -eq 124 ] && result=LATE
    [ $code -eq 99 ] && result=$(grep -oE 'SUMMARY: [0-9]+' "$log" | tail -1 | grep -oE '[0-9]+')
    echo "$name $way ${result:-FAILED} $((($(date +%s%N) - began) / 100000000))" >> "$logs/results"
}
export -f run command_of
export logs limit_s

# Tests that match a pattern, with every way: binary, name, way, each ending with 0.
runs() {
    local binary name way
    for binary in "${binaries[@]}"; do
        "$binary" --list --format terse | sed -n 's/: test$//p' |
            grep -E '(^|::)(cuda::tests|gpu)::' | grep -E "${ONLY:-.}" | grep -E "$@" |
            while read -r name; do
                for way in "${ways[@]}"; do
                    [[ $name =~ $alone && $way != own ]] ||
                        printf '%s\0%s\0%s\0' "$binary" "$name" "$way"
                done
            done
    done
}

binaries=("$@")
# These watch the device's memory, are several processes that wait for each other, or repeat small
# steps a thousand times on all images by themselves.
alone='mixed_load|rank|::stress::'
runs "$alone" | timeout "${TOTAL_S:-3600}" xargs -r -0 -n 3 -P 1 bash -c 'run "$@"' run
runs -v "$alone" |
    timeout "${TOTAL_S:-3600}" xargs -r -0 -n 3 -P "${JOBS:-4}" bash -c 'run "$@"' run

awk -v ways="${ways[*]}" '
    { cell[$1, $2] = $3 " " $4 / 10; if ($3 != "ok") bad++ }
    !seen[$1]++ { order[++count] = $1 }
    END {
        columns = split(ways, way, " ")
        printf "%-66s", "test"
        for (c = 1; c <= columns; c++) printf " %11s", way[c]
        printf "\n"
        for (row = 1; row <= count; row++) {
            name = order[row]
            sub(/.*(cuda::tests|gpu)::/, "", name)
            printf "%-66.66s", name
            for (c = 1; c <= columns; c++) {
                key = order[row] SUBSEP way[c]
                printf " %11s", key in cell ? cell[key] : "-"
            }
            printf "\n"
        }
        printf "%d tests, %d not ok; logs of all in the folder\n", count, bad
        exit bad > 0
    }' <(sort "$logs/results")
