"""Hosts as network namespaces: a private network behind a router that translates addresses, so that nobody outside can dial in."""
import os
import subprocess


def reason_not():
    """Why this machine cannot do it; None when it can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    name = f"viaduct-probe-{os.getpid()}"
    probe = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True)
    if probe.returncode == 0:   # one can be made and not entered: in a chroot that is no mount point
        probe = subprocess.run(["ip", "netns", "exec", name, "true"], capture_output=True, text=True)
    subprocess.run(["ip", "netns", "del", name], capture_output=True)
    return None if probe.returncode == 0 else f"no network namespaces: {probe.stderr.strip()}"


def _do(command):
    subprocess.run(command.split(), check=True, capture_output=True)


class Nat:
    """home (10.77.1.1, reachable) -- router -- edge (10.77.2.2, behind it)."""

    HOME = "10.77.1.1"

    def __enter__(self):
        pid = os.getpid()
        self.home, self.router, self.edge = (f"vt{name}{pid}" for name in "hre")
        for name in (self.home, self.router, self.edge):
            _do(f"ip netns add {name}")
            _do(f"ip -n {name} link set lo up")
        self._wire(self.home, "h0", "10.77.1.1/24", "rh", "10.77.1.2/24")
        self._wire(self.edge, "e0", "10.77.2.2/24", "re", "10.77.2.1/24")
        _do(f"ip -n {self.edge} route add default via 10.77.2.1")
        _do(f"ip netns exec {self.router} sysctl -qw net.ipv4.ip_forward=1")
        _do(f"ip netns exec {self.router} iptables -t nat -A POSTROUTING -o rh -j MASQUERADE")
        return self

    def _wire(self, ns, inner, address, outer, router_address):
        _do(f"ip link add {inner} netns {ns} type veth peer name {outer} netns {self.router}")
        _do(f"ip -n {ns} addr add {address} dev {inner}")
        _do(f"ip -n {self.router} addr add {router_address} dev {outer}")
        _do(f"ip -n {ns} link set {inner} up")
        _do(f"ip -n {self.router} link set {outer} up")

    def cut(self, cut):
        """The cable between the router and home."""
        _do(f"ip -n {self.router} link set rh {'down' if cut else 'up'}")

    def __exit__(self, *_unused):
        for name in (self.home, self.router, self.edge):
            subprocess.run(["ip", "netns", "pids", name], capture_output=True)
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def inside(namespace, *command):
    return ["nsenter", f"--net=/run/netns/{namespace}", *map(str, command)]


class Switch:
    """`count` hosts on one network: 10.78.0.1, 10.78.0.2, ..."""

    def __init__(self, count):
        self.hosts = [(f"vs{i}n{os.getpid()}", f"10.78.0.{i}") for i in range(1, count + 1)]
        self.bridge = f"vsb{os.getpid()}"

    def __enter__(self):
        for name in (self.bridge, *(h for h, _ in self.hosts)):
            _do(f"ip netns add {name}")
            _do(f"ip -n {name} link set lo up")
        _do(f"ip -n {self.bridge} link add sw type bridge")
        _do(f"ip -n {self.bridge} link set sw up")
        for i, (name, address) in enumerate(self.hosts):
            _do(f"ip link add eth netns {name} type veth peer name p{i} netns {self.bridge}")
            _do(f"ip -n {name} addr add {address}/24 dev eth")
            _do(f"ip -n {name} link set eth up")
            _do(f"ip -n {self.bridge} link set p{i} master sw up")
        return self

    def __exit__(self, *_unused):
        for name in (self.bridge, *(h for h, _ in self.hosts)):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
