#!/usr/bin/env bash
# Brings the Kafka broker's jars, resolved by Maven from pom.xml and verified against SHA256SUMS, into a per-user cache
# that all checkouts share. A folder of the cache is named after its version and the checksums, and appears under that
# name only when complete and verified, so that what is there is right and an interrupted run leaves nothing half there.
#
#   fetch.sh         fetch and verify unless already there; prints the folder
#   fetch.sh path    print the folder, there or not
#   fetch.sh verify  exit 0 if the folder is there and every jar has its checksum
#   fetch.sh lock    resolve pom.xml anew and rewrite SHA256SUMS and JARS.tsv (after a change of a version)
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/yadtq
sums=$here/SHA256SUMS
plugin=org.apache.maven.plugins:maven-dependency-plugin:3.8.1
work=''

fail() { printf 'kafka/fetch.sh: %s\n' "$*" >&2; exit 1; }

folder() {
  local version digest
  version=$(sed -n 's|.*<kafka.version>\(.*\)</kafka.version>.*|\1|p' "$here/pom.xml")
  digest=$(sha256sum <"$sums")
  printf '%s/kafka-%s-%s\n' "$cache" "$version" "${digest:0:12}"
}

# every jar listed is there with its checksum, and no other
verified() {
  local jars=("$1"/*.jar)
  [ "${#jars[@]}" -eq "$(wc -l <"$sums")" ] && (cd "$1" && sha256sum --check --strict --quiet "$sums")
}

cleanup() { [ -z "$work" ] || rm -rf -- "$work"; }

resolve() {
  # An own local repository: an interrupted download is resumed, the user's ~/.m2 (its settings are used) stays as it is.
  mvn --batch-mode --update-snapshots --no-transfer-progress --quiet -Dstyle.color=never --file "$here/pom.xml" \
    "-Dmaven.repo.local=$cache/maven" -Dmaven.wagon.rto=60000 -Dmaven.wagon.http.retryHandler.count=3 \
    -Daether.connector.requestTimeout=60000 \
    "$plugin:copy-dependencies" "-DoutputDirectory=$1" >&2 ||
    fail "Maven could not resolve packaging/kafka/pom.xml (its message stands above). Is Maven Central, or the mirror" \
      "that ~/.m2/settings.xml names, reachable? What was downloaded is kept: run this again."
}

main() {
  local target
  target=$(folder)
  case ${1:-fetch} in
    path) printf '%s\n' "$target"; return ;;
    verify) [ -d "$target" ] && verified "$target"; return ;;
    fetch) if [ -d "$target" ]; then printf '%s\n' "$target"; return; fi ;;
    lock) ;;
    *) sed -n '2,/^set/p' "${BASH_SOURCE[0]}" | sed '$d;s/^# \{0,1\}//' >&2; exit 2 ;;
  esac
  command -v mvn >/dev/null || fail "mvn is not installed (Debian and Ubuntu: apt-get install maven)"
  mkdir -p "$cache"
  exec 9>"$cache/.lock"
  flock 9 # another checkout may be fetching
  if [ "${1:-fetch}" = fetch ] && [ -d "$target" ]; then printf '%s\n' "$target"; return; fi
  trap cleanup EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  work=$(mktemp -d "$cache/.fetch.XXXXXX")
  resolve "$work/libs"
  if [ "${1:-fetch}" = lock ]; then
    (cd "$work/libs" && LC_ALL=C sha256sum -- *.jar) >"$work/SHA256SUMS"
    python3 "$here/jars_table.py" "$work/SHA256SUMS" "$cache/maven" >"$work/JARS.tsv"
    cat "$work/JARS.tsv" >"$here/JARS.tsv"
    cat "$work/SHA256SUMS" >"$sums"
    target=$(folder)
  fi
  verified "$work/libs" || fail "a jar differs from its checksum in packaging/kafka/SHA256SUMS (named above):" \
    "it was not installed. Remove $cache/maven and run this again; if it stays so, do not trust the mirror."
  [ -d "$target" ] || mv -T -- "$work/libs" "$target"
  rm -rf -- "$cache/maven"
  printf '%s\n' "$target"
}

main "$@"
