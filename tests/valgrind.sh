#!/bin/sh
# C tests and specs under valgrind: valgrind.sh BUILD. Ends with "N passed, N failed".
build=$1
export RIVERLUA_VALGRIND=1
passed=0
failed=0

check() {
  if valgrind -q --error-exitcode=9 --leak-check=full --errors-for-leak-kinds=definite "$@" >"$build/valgrind.log" 2>&1
  then passed=$((passed + 1)); echo "ok      $*"
  else failed=$((failed + 1)); echo "not ok  $*"; tail -40 "$build/valgrind.log"
  fi
}

for test in "$build"/tests/*/test_*; do
  case $test in *.d) continue ;; esac
  check "$test"
done
for spec in tests/task/task_spec.lua tests/http/client_spec.lua tests/http/stream_spec.lua tests/http/broken_spec.lua \
  tests/sse/sse_spec.lua tests/websocket/client_spec.lua tests/river/client_spec.lua \
  tests/river_embedded/service_spec.lua; do
  check "$build/riverlua" "$(command -v busted)" -o TAP "$spec"
done
check "$build/riverlua" --quiet examples/river_quickstart.lua
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
