#!/usr/bin/env bash
# Makes this machine a node of the cluster; `ray up` runs it on every node.
#
#   LAKE=s3://bucket/prefix bash ~/cdal-search/cluster/setup_node.sh
#
# The dependencies go into a virtual environment named after what they follow from, so a second run installs nothing; the project's own
# code is used where it lies. Every shell then finds both, the token of the cluster, and the results lake as $LAKE.
set -euo pipefail
project=$(cd "$(dirname "$0")/.." && pwd)
home=$HOME/.cdal-search
mkdir -p "$home"
exec 9>"$home/lock" && flock 9 # machines may share a home folder

venv=$home/venv-$(cat "$project/pyproject.toml" "$project/constraints.txt" | sha256sum | cut -c1-16)
if [ ! -e "$venv.complete" ]; then
  python=${PYTHON:-python3}
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    { echo "Python 3.11 or newer is needed, and ${python} is not; name one: PYTHON=/path/to/python3.12" >&2; exit 2; }
  "$python" -c 'import ensurepip' 2>/dev/null || { # Debian and Ubuntu keep it in a package of its own; new machines update themselves
    sudo apt-get -o DPkg::Lock::Timeout=600 update -qq
    sudo DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv"
  }
  rm -rf "$venv"
  "$python" -m venv "$venv"
  "$venv/bin/python" -c 'import sys, tomllib
project = tomllib.load(sys.stdin.buffer)["project"]
print(*project["dependencies"], *project["optional-dependencies"]["cluster"], sep="\n")' <"$project/pyproject.toml" >"$venv/requirements.txt"
  "$venv/bin/pip" install --quiet --constraint "$project/constraints.txt" torch # first, so that no other package chooses its build
  "$venv/bin/pip" install --quiet --constraint "$project/constraints.txt" --requirement "$venv/requirements.txt"
  touch "$venv.complete"
fi
ln -sfn "$venv" "$home/venv"

cat >"$home/environment.sh" <<END
export PATH="$home/venv/bin:\$PATH" PYTHONPATH="$project"
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$home/secret/token"  # no command is taken from those who do not know it
export RAY_USAGE_STATS_ENABLED=0
export LAKE="${LAKE:-}"
END
# In the first line, for what comes later may end early. Ray's commands run in interactive shells, which read this file.
line=". \"$home/environment.sh\""
touch ~/.bashrc
[ "$(head -n 1 ~/.bashrc)" = "$line" ] || { printf '%s\n' "$line" | cat - ~/.bashrc >~/.bashrc.new && mv ~/.bashrc.new ~/.bashrc; }
