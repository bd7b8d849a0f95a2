#!/bin/sh
# Runs the official Lua test files, unchanged, under the built riverlua. Output: TAP, one line per file.
# Usage: run.sh [riverlua] [build folder]. LUA_TESTS names a folder with the files; without it they are fetched once into
# the build folder (see pins.txt). Where a file also fails under lua5.4 on this machine, it is skipped and says so.
set -u
here=$(cd "$(dirname "$0")" && pwd)
riverlua=${1:-build/riverlua}
build=${2:-build}
riverlua=$(cd "$(dirname "$riverlua")" && pwd)/$(basename "$riverlua")
mkdir -p "$build/lua_suite" || exit 1
work=$(cd "$build/lua_suite" && pwd)
lua=${LUA54:-lua5.4}
release=$("$riverlua" -v | sed 's/^Lua \([0-9.]*\).*/\1/')

fetch() {
  pin=$(grep "^$release " "$here/pins.txt") || {
    echo "no test files are known for Lua $release" >&2
    return 1
  }
  # shellcheck disable=SC2086
  set -- $pin
  python=python3
  [ -x "$build/venv/bin/python" ] && python=$build/venv/bin/python
  echo "lupa==$2 --hash=sha256:$3" > "$work/requirements.txt"
  # lupa asks its own build for its name and version; releases before 2.5 do not build with newer Cythons
  echo "Cython<3.1" > "$work/constraints.txt"
  PIP_CONSTRAINT=$work/constraints.txt "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
    --no-binary lupa --require-hashes -r "$work/requirements.txt" -d "$work" >&2 || return 1
  rm -rf "$work/lupa-$2" "$work/tests"
  tar xzf "$work/lupa-$2.tar.gz" -C "$work" || return 1
  mv "$work/lupa-$2/third-party/lua54/testes" "$work/tests" && rm -rf "$work/lupa-$2" && echo "$release" > "$work/release"
}

if [ -n "${LUA_TESTS:-}" ]; then
  rm -rf "$work/tests" "$work/release"
  cp -r "$LUA_TESTS" "$work/tests" || exit 1
elif [ "$(cat "$work/release" 2>/dev/null)" != "$release" ]; then
  fetch || {
    echo "not ok 1 - official Lua test files: cannot be fetched"
    echo "1..1"
    exit 1
  }
fi

# attrib.lua loads small C libraries
include=$(pkg-config --variable=includedir lua5.4)/lua5.4
[ -f "$include/lua.h" ] || include=$(pkg-config --cflags-only-I lua5.4 | sed 's/^-I//; s/ .*//')
make -C "$work/tests/libs" LUA_DIR="$include" > "$work/libs.log" 2>&1

# One file under one interpreter. The standard input must be a pipe: files.lua expects that it cannot seek.
run_file() {
  mode='_soft = true; _nomsg = true; _port = false'
  [ "$2" = all.lua ] && mode='_U = true'
  (cd "$work/tests" && : | timeout 300 "$1" -e "$mode" "$2") > "$work/log" 2>&1
}

# The Ctrl-C part of main.lua races with the shell that it starts, under any interpreter: it gets three tries.
passes() {
  run_file "$1" "$2" && return 0
  [ "$2" = main.lua ] || return 1
  run_file "$1" "$2" || run_file "$1" "$2"
}

number=0
failed=0
for path in "$work"/tests/*.lua; do
  name=$(basename "$path")
  case $name in
    heavy.lua) continue ;; # needs gigabytes
    tracegc.lua) continue ;; # a module of the others
  esac
  number=$((number + 1))
  if passes "$riverlua" "$name"; then
    echo "ok $number - Lua $release: $name"
    continue
  fi
  cp "$work/log" "$work/failed.log"
  if command -v "$lua" > /dev/null && ! passes "$lua" "$name"; then
    echo "ok $number - Lua $release: $name # SKIP fails under $lua too"
    continue
  fi
  failed=$((failed + 1))
  echo "not ok $number - Lua $release: $name"
  tail -n 20 "$work/failed.log" | sed 's/^/# /'
done
echo "1..$number"
[ "$failed" = 0 ]
