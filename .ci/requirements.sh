#!/usr/bin/env bash
# Make the virtual environment $2 with the Python $1 (empty: look for one) and install the locked packages of the file $3 into it.
# Says in one line what is missing on this machine, if anything is.
set -euo pipefail
python=$1 venv=$2 lock=$3

missing() {
    echo "missing: $1" >&2
    exit 1
}

version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }

if [ -z "$python" ]; then
    for candidate in python3.11 python3.10 python3; do
        case $(version_of "$candidate" || true) in 3.10 | 3.11) python=$candidate && break ;; esac
    done
    [ -n "$python" ] || missing "Python 3.10 or 3.11 (found: $(version_of python3 || echo none)); MXNet and the NumPy it needs
exist for no other (Debian 12, Ubuntu 22.04: apt-get install python3 python3-venv; or make PYTHON=/path/to/python3.11)"
fi
version=$(version_of "$python") || missing "a working Python: $python does not run"
case $version in 3.10 | 3.11) ;; *) missing "Python 3.10 or 3.11; $python is $version" ;; esac
"$python" -c 'import ensurepip, venv' 2>/dev/null || missing "venv for Python $version (Debian/Ubuntu: apt-get install python3-venv)"
case $(uname -sm) in
    "Linux x86_64") ;;
    *) missing "Linux on x86_64: MXNet has no packages for $(uname -sm); use the container image" ;;
esac
for library in libgomp.so.1 libquadmath.so.0; do
    "$python" -c "import ctypes; ctypes.CDLL('$library')" 2>/dev/null ||
        missing "$library (Debian/Ubuntu: apt-get install libgomp1 libquadmath0)"
done

[ -x "$venv/bin/python" ] || { echo "Making $venv with Python $version"; "$python" -m venv "$venv"; }
echo "Installing the packages of $lock into $venv (several hundred MB the first time)"
# The lock names every package, also those that others need: nothing else is looked for. GluonCV would ask for a second
# build of OpenCV, and for a package that it uses in a part that is not used here.
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r "$lock"
