#!/usr/bin/env bash
# The wheel on an emulated ARM processor: it is installed, its bundles answer, a server does.
#
#   scripts/arm.sh WHEEL [FOLDER]    # in an environment made by scripts/environment.py
#
# FOLDER (.cache/arm) keeps Debian's Python for arm64 and what pip installed there: a new wheel
# replaces the old one alone. Needs Debian with qemu-user, curl, and its and PyPI's packages. Newer
# releases of ONNX Runtime than JetPack 6's crash in QEMU 7.2.
set -euo pipefail
wheel=$(realpath "$1")
tree=$(realpath "$(dirname "$0")/..")
mkdir -p "${2:-$tree/.cache/arm}"
cd "${2:-$tree/.cache/arm}"

if [ ! -d root ]; then
    mkdir -p lists/partial cache/archives/partial
    touch status
    cat >apt.conf <<END
APT::Architecture "arm64";
APT::Architectures "arm64";
Dir::State::Lists "$PWD/lists";
Dir::State::status "$PWD/status";
Dir::Cache "$PWD/cache";
END
    apt-get -c apt.conf update -qq
    apt-get -c apt.conf install -qq -y -d --no-install-recommends \
        python3.11 python3-pip libstdc++6 ca-certificates >download.log
    for package in cache/archives/*.deb; do dpkg -x "$package" unpacked; done
    mv unpacked root
fi
arm=(qemu-aarch64 -cpu neoverse-n1 -L root -E PYTHONPATH="$PWD/site" root/usr/bin/python3.11)
install=("${arm[@]}" -m pip install --quiet --no-compile)
if [ -d site ]; then
    "${install[@]}" --target site --upgrade --no-deps "$wheel"
else
    "${install[@]}" --target installed "$wheel[serve,cpu]" onnxruntime==1.23.2
    mv installed site
fi

rm -rf bundles
"$tree/.venv/bin/python" "$tree/.ci/make_bundle.py" bundles
"${arm[@]}" -m seq2edge.cli doctor
"${arm[@]}" "$tree/.ci/torch_free.py" bundles
for bundle in translator translator-int8 writer-int4 classifier embedder; do
    "${arm[@]}" -m seq2edge.cli verify "bundles/$bundle"
done

"${arm[@]}" -m seq2edge.cli serve bundles/translator --port 0 2>server.log &
trap 'kill $!' EXIT
until grep -q listening server.log; do
    kill -0 $!
    sleep 1
done
url=$(sed -n 's/.*"url": "\(.*\)".*/\1/p' server.log)
curl --fail-with-body --silent --show-error "$url/v1/completions" \
    -H 'Content-Type: application/json' -d '{"model": "translator", "prompt": "w5 w17 w40"}'
