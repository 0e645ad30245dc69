#!/usr/bin/env bash
# Fuzzes targets with libFuzzer: fuzz/fuzz.sh SECONDS [TARGET...]; all of them one after the other by
# default. Needs a C++ compiler. What it learns stays in target/fuzz/corpus/TARGET; bytes that break
# a target lie in target/fuzz/artifacts/TARGET, and running the binary on such a file replays it.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:?seconds a target}
shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(sed -n 's/^    Target { name: "\([^"]*\)".*/\1/p' fuzz/src/lib.rs)

# Our own code alone is counted: dependencies are those of any build for development, which has all
# assertions and checks of arithmetic.
RUSTC_WORKSPACE_WRAPPER="$PWD/fuzz/rustc.sh" cargo build --quiet --locked -p binfer-fuzz --features libfuzzer \
    --config profile.dev.package.binfer-worker.opt-level=1
mkdir -p target/fuzz/bin
cp target/debug/binfer-fuzz target/fuzz/binfer-fuzz

failed=()
for target in "${targets[@]}"; do
    bytes_max=$(sed -n "s/.*name: \"$target\".*bytes_max: \([0-9]*\).*/\1/p" fuzz/src/lib.rs)
    mkdir -p "target/fuzz/corpus/$target" "target/fuzz/artifacts/$target"
    echo "== $target"
    # It runs the target whose name it has.
    ln -f target/fuzz/binfer-fuzz "target/fuzz/bin/$target"
    "target/fuzz/bin/$target" -max_total_time="$seconds" -max_len="$bytes_max" \
        -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
        -artifact_prefix="target/fuzz/artifacts/$target/" \
        "target/fuzz/corpus/$target" "fuzz/seeds/$target" \
        2>"target/fuzz/artifacts/$target.log" || failed+=("$target")
    grep -E "^(stat::number_of_executed_units|SUMMARY|thread|#[0-9]+.*DONE)" \
        "target/fuzz/artifacts/$target.log" || true
done
[ ${#failed[@]} -eq 0 ] || { echo "broken: ${failed[*]}; see target/fuzz/artifacts" >&2; exit 1; }
