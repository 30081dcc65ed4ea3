#!/usr/bin/env bash
# Builds what is published of YADTQ: Debian packages of the daemon and of Kafka, wheels and source distributions, bills of
# materials, checksums. packaging/README.md tells what is in them.
#
#   build.sh [--out FOLDER] [--suffix SUFFIX] [--chroot]
#
#   --out FOLDER     where to, instead of dist/ of the checkout; what an earlier build left there is replaced
#   --suffix SUFFIX  added to the version of the package yadtq, for builds of your own: --suffix +site1
#   --chroot         build in a Debian 12 that is made for it and thrown away (mmdebstrap), as where this is no Debian 12
#
# Takes the files that git tracks, as they are in the checkout, and what requirements/*.txt and packaging/kafka/SHA256SUMS
# pin, verified. The packages' own builds download nothing. The same checkout gives the same bytes.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
out=$root/dist
suffix=''
chroot=''
python=/usr/bin/python3.11 # Debian 12's own: the environment in the package belongs to it
packages=(debhelper dpkg-dev python3.11-venv python3-installer)

fail() { printf 'build.sh: %s\n' "$*" >&2; exit 1; }
say() { printf '   ...  %s\n' "$*"; }

# logged FILE COMMAND...: its words into a file, which is shown when it fails
logged() {
  local log=$1
  shift
  "$@" >"$log" 2>&1 || {
    tail -n 30 "$log" >&2
    fail "this failed: $*"
  }
}

usage() { sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d;s/^# \{0,1\}//'; }

wrong() {
  usage >&2
  exit 2
}

options() {
  while [ $# -gt 0 ]; do
    case $1 in
      -h | --help)
        usage
        exit 0
        ;;
      --out)
        [ $# -gt 1 ] || wrong
        out=$2
        shift
        ;;
      --suffix)
        [ $# -gt 1 ] || wrong
        [[ $2 =~ ^[+~][a-z0-9.+~]+$ ]] || fail "--suffix begins with + or ~, followed by small letters and digits: $2"
        suffix=$2
        shift
        ;;
      --chroot) chroot=yes ;;
      *) wrong ;;
    esac
    shift
  done
}

# shellcheck source=/dev/null
is_debian_12() { [ "$(. /etc/os-release && echo "${ID:-}-${VERSION_ID:-}")" = debian-12 ]; }

check_packages() {
  local name missing=()
  for name in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$name" 2>/dev/null || true)" = installed ] || missing+=("$name")
  done
  [ "${#missing[@]}" -eq 0 ] ||
    fail "missing: ${missing[*]} (apt-get install --no-install-recommends ${missing[*]}), or use --chroot"
}

# copy_sources FOLDER: the tracked files, with the modes that git knows
copy_sources() {
  mkdir -p "$1"
  if git -C "$root" rev-parse --is-inside-work-tree >/dev/null 2>&1; then
    git -C "$root" ls-files -z | (cd "$root" && tar --create --null --files-from=- --ignore-failed-read 2>/dev/null) | tar -x -C "$1"
  else # a source distribution
    tar --create -C "$root" --exclude=./build --exclude=./dist --exclude=./.venv --exclude=./.yadtq . | tar -x -C "$1"
  fi
  chmod -R u=rwX,go=rX "$1"
}

# the value of a line `name = "value"` in a pyproject.toml
project() { sed -n "s/^$2 = \"\\(.*\\)\"\$/\\1/p" "$1" | head -n 1; }

build_wheels() {
  say 'Wheels and source distributions, and the libraries they need'
  "$python" -m venv "$work/tools"
  pip=("$work/tools/bin/python" -m pip --disable-pip-version-check --quiet --no-input)
  "${pip[@]}" install --require-hashes -r "$source/requirements/build.txt"
  "${pip[@]}" wheel --require-hashes --no-deps --no-build-isolation -r "$source/requirements/runtime.txt" -w "$work/wheels"
  local folder
  for folder in client .; do
    logged "$work/hatchling.log" env -C "$source/$folder" "$work/tools/bin/python" -m hatchling build -d "$work/dist"
  done
  cp "$work/dist/"*.whl "$work/wheels/"
}

# debian_package FOLDER: builds the source tree in it, its packages beside it
debian_package() { logged "$1.log" env -C "$1" dpkg-buildpackage --build=binary --no-sign --no-pre-clean; }

build_yadtq() {
  say 'Debian package yadtq'
  local tree=$work/debs/yadtq
  mkdir -p "$tree"
  cp -r "$source/packaging/debian" "$source/packaging/deb" "$source/systemd" "$source/docs" "$source/README.md" \
    "$source/CHANGELOG.md" "$work/wheels" "$tree/"
  sed -i "1s/(\\(.*\\))/(\\1$suffix)/" "$tree/debian/changelog"
  debian_package "$tree"
}

build_kafka() {
  say 'Debian package yadtq-kafka'
  local tree=$work/debs/yadtq-kafka
  mkdir -p "$tree/libs"
  cp -r "$source/packaging/kafka/debian" "$source/systemd" "$tree/"
  cp "$jars"/*.jar "$tree/libs/"
  debian_package "$tree"
}

# bill PACKAGE KIND SOURCE
bill() {
  local deb name version arch
  deb=$(echo "$work/debs/$1"_*.deb)
  name=$(dpkg-deb --field "$deb" Package)
  version=$(dpkg-deb --field "$deb" Version)
  arch=$(dpkg-deb --field "$deb" Architecture)
  "$work/tools/bin/python" "$source/packaging/deb/sbom.py" "$2" "$3" --name "$name" --version "$version" --arch "$arch" \
    >"$work/dist/${name}_${version}_$arch.cdx.json"
}

# publish: all of it or nothing; what an earlier build put there goes, and nothing else
publish() {
  say "To $out"
  cp "$work/debs/"*.deb "$work/dist/"
  (cd "$work/dist" && LC_ALL=C sha256sum -- * >"$work/SHA256SUMS")
  mkdir -p "$out"
  if [ -f "$out/SHA256SUMS" ]; then (cd "$out" && sed 's/^[0-9a-f]*  //' SHA256SUMS | xargs -d '\n' rm -f --); fi
  cp "$work/dist/"* "$out/"
  cp "$work/SHA256SUMS" "$out/"
}

# build_in_chroot: this script again, in a Debian 12 of its own; Kafka's jars come from the cache of this machine
build_in_chroot() {
  command -v mmdebstrap >/dev/null ||
    fail 'this is not Debian 12, so a Debian 12 has to be made for the build: install mmdebstrap (Debian, Ubuntu: apt-get install mmdebstrap)'
  say 'Making a Debian 12 for the build'
  copy_sources "$work/yadtq"
  mkdir -p "$work/cache/yadtq" "$work/etc" "$work/result"
  cp -r "$jars" "$work/cache/yadtq/"
  # what lets this machine's pip reach its index
  if [ -d /usr/local/share/ca-certificates ]; then cp -r /usr/local/share/ca-certificates "$work/etc/"; fi
  if [ -f /etc/pip.conf ]; then cp /etc/pip.conf "$work/etc/"; fi
  local include
  include=$(IFS=,; echo "${packages[*]}"),ca-certificates
  # shellcheck disable=SC2016 # $1 is for mmdebstrap's hook
  mmdebstrap --quiet --variant=minbase --include="$include" \
    --customize-hook="copy-in $work/yadtq $work/cache /root" \
    --customize-hook="sync-in $work/etc /root/etc" \
    --customize-hook='chroot "$1" sh -c "mkdir -p /usr/local/share/ca-certificates; cp -r /root/etc/ca-certificates/. /usr/local/share/ca-certificates/ 2>/dev/null; cp /root/etc/pip.conf /etc/ 2>/dev/null; update-ca-certificates >/dev/null"' \
    --customize-hook="chroot \"\$1\" env -u PIP_FIND_LINKS HOME=/root XDG_CACHE_HOME=/root/cache LC_ALL=C.UTF-8 /root/yadtq/packaging/build.sh --out /root/result${suffix:+ --suffix $suffix}" \
    --customize-hook="sync-out /root/result $work/result" \
    bookworm /dev/null
  mkdir -p "$out"
  if [ -f "$out/SHA256SUMS" ]; then (cd "$out" && sed 's/^[0-9a-f]*  //' SHA256SUMS | xargs -d '\n' rm -f --); fi
  cp "$work/result/"* "$out/"
}

main() {
  options "$@"
  umask 022
  jars=$("$here/kafka/fetch.sh")
  mkdir -p "$root/build"
  work=$(mktemp -d "$root/build/package.XXXXXX")
  trap 'rm -rf -- "$work"' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  if [ -n "$chroot" ] || ! is_debian_12; then
    build_in_chroot
  else
    check_packages
    source=$work/source
    SOURCE_DATE_EPOCH=$(dpkg-parsechangelog -l "$here/debian/changelog" -S Timestamp)
    export SOURCE_DATE_EPOCH PYTHONHASHSEED=0
    mkdir -p "$work/dist" "$work/debs"
    copy_sources "$source"
    build_wheels
    build_yadtq
    build_kafka
    bill yadtq wheels "$work/wheels"
    bill yadtq-kafka jars "$source/packaging/kafka/JARS.tsv"
    publish
  fi
  (cd "$out" && sha256sum --check --quiet SHA256SUMS && ls -l)
}

main "$@"
