#!/bin/sh
# Follow a job to its end with curl: sh docs/watch.sh 127.0.0.1:8888
url="http://$1/data/plugin/scalars/scalars?run=.&tag=progress"
answered=$(date +%s)
patience=60
while [ $(($(date +%s) - answered)) -lt "$patience" ]; do
    if answer=$(curl -sf --max-time 5 -X POST "$url"); then
        answered=$(date +%s)
        patience=8
        last=${answer##*\[} # [[..., 10, 0.5], [wall time, 10, 0.75]]
        last=${last%%\]*}
        echo "${last#*, }" # step, fraction
        [ "${last#*, }" != "30, 1.0" ] || exit 0
    fi
    sleep 2
done
echo "no answer for $patience s: see status.json" >&2
exit 1
