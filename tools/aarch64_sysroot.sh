#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# aarch64_sysroot.sh FOLDER: fetches the AArch64 libraries that halfmoon is built and tested with from this Debian's own
# package sources and unpacks them into FOLDER. The system's package manager, its lists and its architectures stay as they
# are. A folder that is complete is left alone.
set -eu -o pipefail
root=$(cd -- "$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")/.." && pwd)
# shellcheck source=tools/lib.sh
source "$root/tools/lib.sh"

[ $# -eq 1 ] || die "usage: tools/aarch64_sysroot.sh FOLDER"
mkdir -p "$1"
folder=$(cd -- "$1" && pwd)
lists=("$root/tools/packages-build.txt" "$root/tools/packages-test.txt")
stamp=$(cat "${lists[@]}" "${BASH_SOURCE[0]}" | sha256sum)
[ "$(cat "$folder/.stamp" 2>/dev/null)" != "$stamp" ] || exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  die "apt-get and dpkg-deb are needed to fetch AArch64 libraries" \
    "elsewhere: put Debian's arm64 packages of ${lists[*]##*/} into $folder, and their checksum into $folder/.stamp:" "$stamp"

# The package manager with a state of its own, in which nothing is installed.
apt=$folder/.apt
rm -rf "$folder"
mkdir -p "$apt/state/lists/partial" "$apt/cache/archives/partial"
: >"$apt/status"
arm_apt() { # TOOL ARGUMENT...
  local tool=$1
  shift
  "$tool" -q -o "Dir::State=$apt/state" -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt/cache" \
    -o APT::Architecture=arm64 -o APT::Architectures::=arm64 -o Acquire::Retries=2 -o APT::Sandbox::User=root "$@"
}

step "refresh the AArch64 package lists" arm_apt apt-get update ||
  fail_step "the AArch64 package lists could not be fetched" "the sources are those of /etc/apt"

# Libraries only: programs come from this machine, and the C and C++ headers from the cross compiler.
wanted=()
while IFS= read -r line; do
  for name in ${line//|/ }; do
    if [[ $name =~ ^(lib|prometheus|zlib).*-dev$ ]] && arm_apt apt-cache show "$name" >/dev/null 2>&1; then
      wanted+=("$name")
      break
    fi
  done
done < <(package_lines "${lists[@]}" | grep -v libclang)
[ ${#wanted[@]} -gt 0 ] || die "the package sources of this system have no AArch64 packages"
from_compiler='^(libc6-dev|libc-dev-bin|linux-libc-dev|libcrypt-dev|libgcc-[0-9]*-dev|libstdc\+\+-[0-9]*-dev|lib(a|l|t|ub|hwa)san[0-9]*)$'
arm_apt apt-get install --simulate --no-install-recommends "${wanted[@]}" >"$apt/plan" 2>&1 ||
  die "these AArch64 packages cannot be had together: ${wanted[*]}" "$(tail -n 3 "$apt/plan")"
mapfile -t packages < <(sed -nE 's/^Inst ([^ ]+) .*/\1/p' "$apt/plan" | grep -vE "$from_compiler")
(
  cd "$apt/cache"
  step "download ${#packages[@]} AArch64 packages" arm_apt apt-get download "${packages[@]}"
) || fail_step "the AArch64 packages could not be downloaded"
for archive in "$apt"/cache/*.deb; do
  dpkg-deb --extract "$archive" "$folder"
done
rm -rf "$apt"
# Links that lead to the root of the filesystem would leave the folder.
find "$folder" -type l -lname '/*' | while IFS= read -r link; do
  ln -sfn --relative -- "$folder$(readlink -- "$link")" "$link"
done
printf '%s\n' "$stamp" >"$folder/.stamp"
