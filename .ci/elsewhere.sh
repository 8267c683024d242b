#!/usr/bin/env bash
# Make environments below the folder $1: one for each of the Pythons $3... with the packages of requirements-onnx.lock alone, and
# "runtimes", of the first of them from 3.11 on, with those of the file $2 too. A Python that is not on this machine is left out.
set -euo pipefail
folder=$1 runtimes=$2
shift 2

install() { "$1/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "${@:2}"; }

make_environment() {
    [ -x "$2/bin/python" ] || "$1" -m venv "$2"
    install "$2" --require-hashes -r requirements-onnx.lock
}

for python in "$@"; do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || { echo "$python is not here" && continue; }
    make_environment "$python" "$folder/$version"
    if [ "$version" != 3.10 ] && [ ! -e "$folder/runtimes/ready" ]; then
        make_environment "$python" "$folder/runtimes"
        install "$folder/runtimes" -r "$runtimes"
        touch "$folder/runtimes/ready"
    fi
done
