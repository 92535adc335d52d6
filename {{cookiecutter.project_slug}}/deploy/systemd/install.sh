#!/bin/sh
# Puts the service into /opt/<name> with a user, a unit and a rotation of its own; run again, it brings new code.
# It starts nothing. <name> is the argument, else the project's name.
set -eu
cd "$(dirname "$0")/../.."
name=${1:-$(sed -n 's/^name = "\(.*\)"$/\1/p' pyproject.toml | head -n 1)}
stop() {
    echo "$1" >&2
    exit 1
}

[ "$(id -u)" = 0 ] || stop "Only root may install the service: sudo env \"PATH=\$PATH\" sh $0"
command -v uv >/dev/null || stop "There is no uv on root's PATH: install it, and pass PATH on with sudo env \"PATH=\$PATH\"."
command -v systemctl >/dev/null || stop "There is no systemctl: this is for a host with systemd."

id -u "$name" >/dev/null 2>&1 || useradd --system --user-group --no-create-home --shell /usr/sbin/nologin "$name"

# Everything belongs to root; the service can read it, and change nothing.
umask 022
target=/opt/$name
mkdir -p "$target"
rm -rf "$target/app.new"
cp -R app "$target/app.new"
cp gun.py log_config.json pyproject.toml uv.lock "$target/"
# A Python that uv has to fetch lies here as well: the service sees nobody's home.
(cd "$target" && UV_PYTHON_INSTALL_DIR="$target/.python" UV_PROJECT_ENVIRONMENT="$target/.venv" UV_COMPILE_BYTECODE=1 \
    UV_LINK_MODE=copy uv sync --quiet --locked --no-dev)
rm -rf "$target/app"
mv "$target/app.new" "$target/app"
"$target/.venv/bin/python" -m compileall -q "$target/app" "$target/gun.py"

[ -e "/etc/$name.env" ] || install -m 600 /dev/null "/etc/$name.env"
install -m 644 deploy/systemd/service.service "/etc/systemd/system/$name.service"
sed "s/service/$name/g" deploy/systemd/service.logrotate >"/etc/logrotate.d/$name"
systemctl daemon-reload
systemctl enable --quiet "$name"
echo "Settings are in /etc/$name.env. Next: systemctl restart $name"
