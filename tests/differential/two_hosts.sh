# Two hosts in one: network, host name and clock of their own, joined by a cable. Each runs a
# command under torchrun, with one process; with an argument `cut` the cable is cut after training
# has begun. Run by `unshare -rn`, so that all of it goes with this process.
set -eu
cut=$1 begun=$2
shift 2
ip link add here type veth peer name there
unshare --net --uts --time --monotonic 1000 --fork --kill-child sleep 600 >/dev/null 2>&1 &
second=$! inner=
trap 'kill -KILL $inner $second' EXIT
while [ -z "$inner" ]; do
    sleep 0.05
    inner=$(cat /proc/$second/task/$second/children)
done
inner=${inner% }
enter="nsenter --target $inner --net --uts --time"
ip link set there netns $inner
ip address add 10.9.8.1/24 dev here
ip link set lo up
ip link set here up
$enter ip address add 10.9.8.2/24 dev there
$enter ip link set lo up
$enter ip link set there up
$enter "$PYTHON" -c 'import socket; socket.sethostname("second")'
torchrun="$PYTHON -m torch.distributed.run --nnodes 2 --nproc-per-node 1"
torchrun="$torchrun --master-addr 10.9.8.1 --master-port 29511"
GLOO_SOCKET_IFNAME=there $enter $torchrun --node-rank 1 "$@" &
other=$!
GLOO_SOCKET_IFNAME=here $torchrun --node-rank 0 "$@" &
first=$!
if [ "$cut" = cut ]; then
    while [ ! -e "$begun" ]; do sleep 0.1; done
    ip link set here down
fi
status=0
wait $first || status=$?
wait $other || status=$?
exit $status
