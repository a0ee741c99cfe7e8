#!/usr/bin/env bash
# Prints the path of a headless Chromium: an installed one, or Debian's, unpacked with what it needs and a font into the project's own
# folder (no root, nothing installed). Fails with the reason where neither can be had.
source "$(dirname "$0")/env.sh"

folder=$PGFT_SERVER/chromium
browser=$folder/browser

apt() {
    # Lists of our own: those of the machine may be missing, and are not ours to change.
    apt-get --quiet -o "Dir::State::lists=$folder.new/apt/lists" -o "Dir::Cache=$folder.new/apt" -o Debug::NoLocking=true "$@"
}

unpack() {
    local wanted=(chromium-headless-shell fonts-dejavu-core fontconfig-config) packages
    rm -rf "$folder.new" && mkdir -p "$folder.new"/{debs,root,cache,apt/lists/partial,apt/archives/partial}
    apt update
    # What an installation would bring along; what the machine has already is left out, but for the fonts.
    packages=$(apt install --simulate --no-install-recommends "${wanted[@]}" | sed -n 's/^Inst \([^ ]*\) .*/\1/p')
    # shellcheck disable=SC2086
    (cd "$folder.new/debs" && apt download $packages fonts-dejavu-core)
    for deb in "$folder.new"/debs/*.deb; do dpkg -x "$deb" "$folder.new/root"; done
    cat >"$folder.new/fonts.conf" <<XML
<?xml version="1.0"?><!DOCTYPE fontconfig SYSTEM "fonts.dtd">
<fontconfig><dir>$folder/root/usr/share/fonts</dir><cachedir>$folder/cache</cachedir>
<match target="pattern"><edit name="family" mode="append_last"><string>DejaVu Sans</string></edit></match></fontconfig>
XML
    cat >"$folder.new/browser" <<SH
#!/bin/sh
libraries=$folder/root/usr/lib/x86_64-linux-gnu
LD_LIBRARY_PATH=\$libraries:\$libraries/pulseaudio:$folder/root/lib/x86_64-linux-gnu FONTCONFIG_FILE=$folder/fonts.conf \\
exec "$folder/root/usr/lib/chromium/chromium-headless-shell" "\$@"
SH
    chmod -R a+rX "$folder.new" && chmod 755 "$folder.new/browser"
    rm -rf "$folder" "$folder.new/debs" "$folder.new/apt" && mv "$folder.new" "$folder"
    "$browser" --version --no-sandbox || { rm -rf "$folder" && return 1; }
}

for name in chromium chromium-browser google-chrome; do
    if command -v "$name"; then exit 0; fi
done
if [ ! -x "$browser" ]; then
    command -v apt-get >/dev/null || die 'no Chromium, and no apt-get to fetch one with' 'install chromium'
    step 'fetch chromium' unpack >&2
fi
say "$browser"
