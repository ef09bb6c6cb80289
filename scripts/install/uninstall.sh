#!/bin/sh
# Removes what "make install" put there, and nothing else: the files that its manifest names, then the
# folders that it made, unless somebody has put something into them. Called by the Makefile, and by
# main.ts before a newer version goes to the same place. Needs nothing that was built.
#
#   sh uninstall.sh DESTDIR PREFIX
set -eu

destdir=$1
prefix=${2%/}
manifest=$destdir$prefix/lib/ramzswap/manifest

case $destdir in
  '' | /*) ;;
  *)
    echo "uninstall: DESTDIR: expected an absolute path, got '$destdir'" >&2
    exit 1
    ;;
esac
if [ ! -f "$manifest" ]; then
  echo "uninstall: expected a manifest, $manifest: nothing was installed with this PREFIX and DESTDIR" >&2
  exit 1
fi

# Paths come without DESTDIR, one a line, a folder's with a slash at its end. What is in a folder sorts
# behind it, so in reverse it comes first.
paths=$(LC_ALL=C sort -r "$manifest")
strange=$(printf '%s\n' "$paths" | grep -E '^[^/]|/\.\.(/|$)') || :
if [ -n "$strange" ]; then
  echo "uninstall: $manifest: expected absolute paths, got: $strange" >&2
  exit 1
fi

cd "${destdir:-/}"
printf '%s\n' "$paths" | sed -n '/[^/]$/s/^/./p' | tr '\n' '\0' | xargs -0 rm -f --
# Only now: until here, it can be done again.
rm -f -- "$manifest"
printf '%s\n' "$paths" | sed -n '/\/$/s/^/./p' | while IFS= read -r path; do
  [ ! -d "$path" ] || rmdir --ignore-fail-on-non-empty -- "$path"
done
