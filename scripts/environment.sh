# SPDX-License-Identifier: Apache-2.0
# Sourced by the scripts beside it: find a Python, check what a build needs, make or reuse a virtual environment.

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# A Python 3.10 to 3.12: $NS_DIFF3R_PYTHON if given, else the newest that runs.
find_python() {
    local candidate
    for candidate in ${NS_DIFF3R_PYTHON:+"$NS_DIFF3R_PYTHON"} python3.12 python3.11 python3.10 python3 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] < (3, 13))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
        [ "$candidate" = "${NS_DIFF3R_PYTHON:-}" ] && die "NS_DIFF3R_PYTHON=$candidate is not a Python 3.10, 3.11 or 3.12"
    done
    die "no Python 3.10, 3.11 or 3.12 found; install one or set NS_DIFF3R_PYTHON"
}

# What compiling the extension needs, named before anything is downloaded.
check_toolchain() {
    local python=$1 compiler=${CXX:-} header
    if [ -z "$compiler" ]; then
        for compiler in c++ g++ clang++; do command -v "$compiler" >/dev/null && break; done
    fi
    command -v "$compiler" >/dev/null || die "no C++ compiler found${CXX:+, CXX=$CXX} (Debian/Ubuntu: apt install g++)"
    printf '#include <charconv>\nint main() { return 0; }\n' | "$compiler" -std=c++17 -x c++ -fsyntax-only - 2>/dev/null ||
        die "$compiler does not compile C++17 (Debian/Ubuntu: apt install g++)"
    header=$("$python" -c 'import sysconfig; print(sysconfig.get_paths()["include"])')/Python.h
    [ -f "$header" ] || die "the headers of $python are missing, $header (Debian/Ubuntu: apt install python3-dev)"
}

# install_package FOLDER EXTRAS: the package and its extras in a virtual environment there, made unless there is one.
install_package() {
    local folder=$1 extras=$2 python
    if [ ! -x "$folder/bin/python" ]; then
        python=$(find_python) || exit 1
        check_toolchain "$python"
        "$python" -c 'import ensurepip, venv' 2>/dev/null ||
            die "$python lacks venv (Debian/Ubuntu: apt install python3-venv)"
        say "Environment $folder ($("$python" --version))"
        "$python" -m venv "$folder"
    else
        check_toolchain "$folder/bin/python"
    fi
    say "Installing ns-diff3r${extras:+[$extras]} into $folder"
    "$folder/bin/python" -m pip install --progress-bar off ".${extras:+[$extras]}"
}
