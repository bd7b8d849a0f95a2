#!/bin/sh
# Puts the libcurl 8 of Debian's backports into FOLDER/lib, beside the system and not into it: newer_libcurl.sh FOLDER
# FOLDER/ready says what came of it; where it cannot be had, a message does and nothing is left.
set -eu
folder=$1

rm -rf "$folder"
mkdir -p "$folder"
folder=$(cd "$folder" && pwd)

no() {
  echo "no newer libcurl ($1): the tests against it are skipped"
  rm -rf "$folder"
  exit 0
}

system=$(pkg-config --modversion libcurl)
if [ "${system%%.*}" -ge 8 ]; then
  echo "the system's libcurl is $system already" >"$folder/ready"
  exit 0
fi
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || no "no apt here"

release=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
# from where this machine takes its packages; apt's own words, so any kind of list will do
mirror=$(apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  sed -n "s/^$release main //p" | head -n 1)
[ -n "$release" ] && [ -n "$mirror" ] || no "apt has no list of packages"

work=$folder/apt
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$folder/lib"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
options=targets=Packages
[ ! -e "$keys" ] || options="$options signed-by=$keys"
echo "deb [$options] $mirror $release-backports main" >"$work/sources.list"
# What is installed, less what wants exactly the libcurl that is: so apt fetches this one and what it misses.
awk -v RS= -v ORS='\n\n' '/\nStatus: install ok installed/ && !/libcurl4 \(=/' /var/lib/dpkg/status >"$work/status"

own_apt() {
  apt-get -qq -o Dir::Etc::sourcelist="$work/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::lists="$work/lists" \
    -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o Debug::NoLocking=1 -o APT::Sandbox::User=root \
    -o Acquire::Languages=none "$@" >"$work/log" 2>&1
}
own_apt -o APT::Update::Error-Mode=any update || no "$release-backports cannot be reached"
own_apt --yes --download-only --no-install-recommends install "libcurl4/$release-backports" ||
  no "$release-backports has none that fits"

complete() { ! LD_LIBRARY_PATH=$folder/lib ldd "$folder/lib/libcurl.so.4" 2>&1 | grep -q 'not found'; }

# itself first: the others came because it needs them, or only because they are of the same age
for package in "$work"/cache/archives/libcurl4_*.deb "$work"/cache/archives/*.deb; do
  [ -e "$package" ] || no "$release-backports has none that is newer"
  dpkg-deb -x "$package" "$work/root"
  find "$work/root" -name '*.so*' -exec mv {} "$folder/lib" \;
  if complete; then break; fi
done
complete || no "other libraries are missing"
dpkg-deb -f "$work"/cache/archives/libcurl4_*.deb Version >"$folder/ready"
rm -rf "$work"
