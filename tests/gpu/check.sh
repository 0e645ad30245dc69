#!/usr/bin/env bash
# Runs every test that needs a GPU, in every way that finds something else, and prints one table:
# a row a test, a column a way, in each cell the result and the seconds it took.
#
#   own, compute_80, stressed   the device's own image of the kernels, the portable one, and the one
#                               that looks for races (skipped where tests were built without it)
#   memcheck, synccheck         compute-sanitizer, on the device's own image, every buffer an
#   initcheck, racecheck        allocation of its own with a red zone behind it; a number is how many
#                               reports there were, `known` and a number where known.txt has them all
#
#   tests/gpu/check.sh LOGS TEST_BINARY...      `make gpu-test` builds the binaries and calls this
#
# Needs a GPU, compute-sanitizer for the last four, and no cargo. Run in the repository's root. In
# pieces: WAYS chooses columns, ONLY tests (a pattern), and results of earlier calls with the same LOGS
# stay in the table unless run again. JOBS is how many run at once, LIMIT_S the seconds of one, TOTAL_S
# of each of the three parts; what was not reached is a dash.
set -uo pipefail

logs=$1
shift
ways=(${WAYS:-own compute_80 stressed memcheck synccheck initcheck racecheck})
limit_s=${LIMIT_S:-300}
reports_max=300000
known=$(dirname "$0")/known.txt
mkdir -p "$logs"
touch "$logs/results"
export BINFER_REQUIRE_GPU=1

# What a way runs a test with. Of the portable image sanitizers see the kernels that no other has.
command_of() {
    local way=$1 name=$2 sanitizer image=
    [[ $name == *::stream_k_gemm::* ]] && image=compute_80
    sanitizer="env BINFER_SANITIZED=1 BINFER_KERNELS=$image"
    sanitizer+=" compute-sanitizer --tool $way --error-exitcode 99"
    sanitizer+=" --print-limit $reports_max --show-backtrace no"
    [ "$way" = memcheck ] && sanitizer+=" --padding 512"
    # Calls of the driver that fail are what this one is about.
    [[ $name == *::a_capture_that_fails_is_dropped_* ]] && sanitizer+=" --report-api-errors no"
    case $way in
    own) echo env BINFER_KERNELS= ;;
    compute_80 | stressed) echo env "BINFER_KERNELS=$way" ;;
    *) echo "$sanitizer" ;;
    esac
}

# The kernel that each report in a sanitizer's log names.
kernels_of() {
    sed -nE -e 's/^=+     at (void )?([A-Za-z0-9_]+).*/\2/p' \
        -e 's/^.*=+ (Error|Warning): .*Race.* at (void )?([A-Za-z0-9_]+).*/\3/p' "$1"
}

# Says how many reports a log has, and whether known.txt has all of them.
reports_of() {
    local log=$1 name=$2 way=$3 count
    count=$(grep -oE 'SUMMARY: [0-9]+' "$log" | tail -1 | grep -oE '[0-9]+')
    if [ -z "$count" ] || [ "$count" -ge "$reports_max" ]; then
        echo "${count:-FAILED}"
        return
    fi
    kernels_of "$log" | awk -v name="$name" -v way="$way" -v count="$count" '
        NR == FNR { if ($1 == way && name ~ ("(^|::)" $2 "$")) known[$3]; next }
        { for (kernel in known) if ($1 ~ ("^" kernel "$")) { explained++; break } }
        END { print (explained == count ? "known-" : "") count }' "$known" -
}

# Runs one test in one way; appends "test way result seconds".
run() {
    local binary=$1 name=$2 way=$3 began log with code result
    log="$logs/$way.${name//::/.}.log"
    with=$(command_of "$way" "$name")
    began=$(date +%s%N)
    # shellcheck disable=SC2086
    timeout "$limit_s" $with "$binary" --exact "$name" --nocapture --test-threads=1 > "$log" 2>&1
    code=$?
    result=FAILED
    [ $code -eq 0 ] && result=ok
    [ $code -eq 0 ] && grep -q 'skipped: ' "$log" && result=skipped
    # A sanitizer fails what does not touch the GPU.
    grep -q 'terminated before first instrumented API call' "$log" &&
        grep -q '^test result: ok. 1 passed' "$log" && result=skipped code=0
    [ $code -eq 124 ] && result=LATE
    [ $code -eq 99 ] && result=$(reports_of "$log" "$name" "$way")
    echo "$name $way $result $((($(date +%s%N) - began) / 100000000))" >> "$logs/results"
}
export -f run command_of kernels_of reports_of
export logs limit_s reports_max known

# Tests that match a pattern, with every way: binary, name, way, each ending with 0.
runs() {
    local binary name way
    for binary in "${binaries[@]}"; do
        "$binary" --list --format terse | sed -n 's/: test$//p' |
            grep -E '(^|::)(cuda::tests|gpu)::' | grep -v '::algorithms::' | # a sweep
            grep -E "${ONLY:-.}" | grep -E "$@" |
            while read -r name; do
                for way in "${ways[@]}"; do
                    [[ $name =~ $alone && $way != own ]] && continue
                    [[ $name =~ $repeats && $way != own && $way != compute_80 ]] && continue
                    printf '%s\0%s\0%s\0' "$binary" "$name" "$way"
                done
            done
    done
}

# Runs those that match a pattern, so many at once.
run_all() {
    runs "${@:2}" | timeout "${TOTAL_S:-3600}" xargs -r -0 -n 3 -P "$1" bash -c 'run "$@"' run
}

binaries=("$@")
# The real program and mixed load take the device's memory or watch it, ranks are processes that wait
# for each other: one at a time. A thousand repeats compare an image with its stressed twin by
# themselves, and are slow beside sanitizers.
alone='(^|::)gpu::|::ranks::'
repeats='::stress::'
run_all 1 "$alone"
run_all "${JOBS:-8}" "$repeats"
run_all "${JOBS:-8}" -v "$alone|$repeats"

awk -v ways="${ways[*]}" '
    { cell[$1, $2] = $3 " " $4 / 10; good[$1, $2] = $3 ~ /^(ok|skipped|known-[0-9]+)$/ }
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
        for (key in good) bad += !good[key]
        printf "%d tests, %d not ok; logs of all in the folder\n", count, bad
        exit bad > 0
    }' <(sort -s -k1,1 "$logs/results")
