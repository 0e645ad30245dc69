#!/bin/sh
# What cargo calls in place of rustc for the packages of the workspace (RUSTC_WORKSPACE_WRAPPER): has LLVM
# count which branches are taken and what they compare. Other packages stay as any build has them.
case " $* " in
*" build_script_build "*) exec "$@" ;;
esac
exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares
