#!/bin/sh
# Installs what is missing with apt, or says what to install: deps.sh build|test
set -eu
PATH=$PATH:/usr/sbin:/sbin   # ldconfig, for those who are not root


has_header() { echo "#include <$1>" | ${CC:-cc} -E $2 - >/dev/null 2>&1; }

# Packages whose use is not there yet.
missing() {
  command -v "${CC:-cc}" >/dev/null || echo gcc libc6-dev
  command -v pkg-config >/dev/null || echo pkg-config
  pkg-config --exists lua5.4 2>/dev/null || echo liblua5.4-dev
  pkg-config --exists lua5.4-cjson 2>/dev/null || echo lua-cjson-dev
  pkg-config --exists libuv 2>/dev/null || echo libuv1-dev
  pkg-config --exists zlib 2>/dev/null || echo zlib1g-dev
  pkg-config --exists nettle 2>/dev/null || echo nettle-dev
  pkg-config --exists libpcre2-8 2>/dev/null || echo libpcre2-dev
  pkg-config --exists libprotobuf-c 2>/dev/null || echo libprotobuf-c-dev
  command -v protoc-c >/dev/null || echo protobuf-c-compiler
  pkg-config --exists libnghttp2 2>/dev/null || echo libnghttp2-dev
  has_header xxhash.h "" || echo libxxhash-dev
  has_header wslay/wslay.h "" || echo libwslay-dev
  pkg-config --exists libcurl 2>/dev/null || echo libcurl4-openssl-dev
  ldconfig -p 2>/dev/null | grep -q 'libedit\.so\.2' || echo libedit2
  ldconfig -p 2>/dev/null | grep -q 'libopenblas\.so\.0' || echo libopenblas0-pthread
  [ "$1" = test ] || return 0
  command -v busted >/dev/null || echo lua-busted
  has_header cmocka.h "-include stdarg.h -include stddef.h -include setjmp.h -include stdint.h" || echo libcmocka-dev
  command -v lua5.4 >/dev/null || echo lua5.4
  python3 -c 'import venv, ensurepip' 2>/dev/null || echo python3 python3-venv
  command -v openssl >/dev/null || echo openssl
  command -v redis-server >/dev/null || echo redis-server
  command -v nghttpd >/dev/null || echo nghttp2-server
  command -v g++ >/dev/null || echo g++
  command -v go >/dev/null || echo golang-go
  command -v nm >/dev/null || echo binutils
}

wanted=$(missing "$1" | tr '\n' ' ')
[ -n "$wanted" ] || exit 0

advice() {
  echo "riverlua needs these packages (Debian's names): $wanted" >&2
  echo "On another system install: a C compiler, pkg-config, and with headers Lua 5.4, lua-cjson, libuv, zlib," \
    "nettle, PCRE2, protobuf-c (and its compiler), nghttp2, xxHash, libwslay and libcurl; OpenBLAS and libedit." >&2
  exit 1
}

command -v apt-get >/dev/null || advice
run=
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || advice
  run=sudo
fi
echo "installing: $wanted"
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086  # a list of words
$run apt-get install -y --no-install-recommends $wanted >/dev/null 2>&1 ||
  { $run apt-get update && $run apt-get install -y --no-install-recommends $wanted; } || advice
wanted=$(missing "$1" | tr '\n' ' ')
[ -z "$wanted" ] || advice
