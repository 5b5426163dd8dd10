#!/usr/bin/env bash
# Makes the pictures of the README anew, of a real run: the main job over two sites, with one rank killed on the way. Takes one to three minutes.
# Needs tmux, chromium, python3; `make` and the data set first.
set -eu
cd "$(dirname "$0")/../.."
for tool in tmux chromium python3; do
    command -v $tool >/dev/null || { echo "docs/pictures/make.sh: no $tool; apt-get install tmux chromium python3" >&2; exit 1; }
done
work=$(mktemp -d)
tmux="tmux -S $work/tmux"
trap '$tmux kill-server 2>/dev/null || true; rm -rf "$work"' EXIT
run=$work/runs/fashion-mnist
cp viaduct "$work"; ln -s "$PWD/jobs/examples/fashion-mnist.yaml" "$work"
wait_for() { local until=$((SECONDS + 900)); until "$@"; do [ $SECONDS -lt $until ] || { echo "waited too long for: $*" >&2; exit 1; }; sleep 0.1; done; }
at_step() { grep -qs "\"step\": *$1[,}]" "$run/metrics.jsonl"; }
on_screen() { $tmux capture-pane -p | grep -q "$1"; }

printf "PS1='$ '\nPATH=%s:\$PATH\ncd %s\n" "$work" "$work" >"$work/rc"
$tmux -f /dev/null new-session -d -x 132 -y 40 "exec bash --rcfile $work/rc"
$tmux set -g status off
wait_for on_screen '^\$'
$tmux send-keys "viaduct run fashion-mnist.yaml" Enter
wait_for at_step 300
kill -9 "$(./viaduct logs "$run" | sed -n 's/.*launched worker cloud.1 (pid \([0-9]*\),.*/\1/p' | head -1)"
wait_for at_step 420
wait_for on_screen 'running.*ETA'
$tmux capture-pane -p | python3 docs/pictures/terminal.py >docs/pictures/run.svg
wait_for test -s "$run/report.html"
wait_for on_screen '^report: '
python3 docs/pictures/page.py "$run/report.html" docs/pictures/report.svg docs/pictures/report-dark.svg
ls -l docs/pictures/*.svg
