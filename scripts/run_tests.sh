#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the package into a virtual environment and runs the tests on what was installed.
#
#   scripts/run_tests.sh [--core] [--no-install] [pytest arguments]
#
#   --core             without nerfstudio: only the extras [colmap] and [test]
#   --no-install       test what the environment already holds
#   NS_DIFF3R_VENV     the environment, made if absent (default .venv, with --core .venv-core)
#   NS_DIFF3R_PYTHON   the Python it is made from (default: the newest of 3.10 to 3.12)
#   NS_DIFF3R_SHARED   folder of real scenes for the tests that use them (default ../shared; skipped where absent)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. scripts/environment.sh

extras="nerfstudio,colmap,test" default_venv=.venv install=1
while [ $# -gt 0 ]; do
    case $1 in
    --core) extras="colmap,test" default_venv=.venv-core ;;
    --no-install) install=0 ;;
    *) break ;;
    esac
    shift
done
venv=${NS_DIFF3R_VENV:-$default_venv}

[ "$install" = 0 ] || install_package "$venv" "$extras"
if [ "$extras" = colmap,test ] && "$venv/bin/python" -c 'import nerfstudio' 2>/dev/null; then
    die "$venv contains nerfstudio, and --core is to test without it"
fi

say "Tests in $venv"
# Most tests are small, where a second thread costs more than it gives; those about threads set their number themselves.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
# The executable, not `python -m pytest`, which would put the source tree before the installed package.
exec "$venv/bin/pytest" "$@"
