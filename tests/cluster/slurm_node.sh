#!/bin/bash
# Slurm with one node, in namespaces of its own: `slurm_node.sh FOLDER COMMAND...`. Ray's end within it (`ray stop`) reaches no other Ray.
set -euo pipefail
folder=$1; shift
ip link set lo up
ip address add 10.99.0.1/32 dev lo  # resolvers give nothing to those who have no address but loopback
mkdir -p /tmp/ray "$folder"/{ray,state,spool}
mount --bind "$folder/ray" /tmp/ray
dd if=/dev/urandom of="$folder/munge.key" bs=128 count=1 status=none
chmod 400 "$folder/munge.key"
munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
  --log-file="$folder/munged.log" --seed-file="$folder/munged.seed" --num-threads=1
cat > "$folder/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
ReturnToService=2
NodeName=localhost NodeAddr=127.0.0.1 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF="$folder/slurm.conf"
slurmctld -c
slurmd -N localhost -c
while [ $SECONDS -lt 40 ]; do
  if timeout 5 sinfo -h -o %t 2>/dev/null | grep -q idle; then
    "$@"  # not by exec: this shell is process 1 here and buries what Ray leaves
    exit
  fi
  sleep 0.1
done
tail -n 5 "$folder"/slurm*.log >&2
exit 75
