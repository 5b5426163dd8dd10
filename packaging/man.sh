#!/usr/bin/env bash
# man.sh PROGRAM FOLDER: man pages into FOLDER. A program that writes its own is asked; else viaduct(1) is what its verbs say when asked for help.
set -eu
program=$1 out=$2
mkdir -p "$out"
if "$program" help --man >"$out/viaduct.1" 2>/dev/null; then exit 0; fi
plain() { sed -e 's/\\/\\e/g' -e 's/-/\\-/g' -e "s/^\([.']\)/\\\\\&\1/"; }
version=$("$program" version | sed -n '1s/^viaduct \([^ ]*\).*/\1/p')
{
    echo ".TH VIADUCT 1 \"\" \"viaduct $version\" \"User Commands\""
    echo '.SH NAME'
    echo 'viaduct \- trains one model across several sites as if they were one machine'
    echo '.SH SYNOPSIS'
    echo '.B viaduct'
    echo 'VERB [options] [key.path=value ...]'
    echo '.SH DESCRIPTION'
    "$program" --help | sed '1,/^verbs:/d; /^viaduct VERB --help/,$!d' | sed 's/^viaduct VERB --help shows its arguments and examples\. //' | plain
    for verb in $("$program" --help | sed -n '/^verbs:/,/^$/s/^  \([a-z]*\) .*/\1/p'); do
        echo ".SH $(echo "$verb" | tr "[:lower:]" "[:upper:]")"
        echo '.nf'
        "$program" "$verb" --help | plain
        echo '.fi'
    done
    echo '.SH FILES'
    echo 'The run directory holds spec.yaml, report.json, report.html, metrics.jsonl, events.jsonl, log/, ckpt/ and export/.'
} >"$out/viaduct.1"
