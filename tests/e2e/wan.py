"""A long link between two hosts (network namespaces), in user space over TUN devices: rate and delay each way, and the bytes that crossed it.

`python3 tests/e2e/wan.py [MBIT/S [RTT_MS]]` shows that it gives what it says: a plain TCP transfer each way, and the round trip."""
import collections
import ctypes
import fcntl
import json
import os
import select
import socket
import struct
import subprocess
import sys
import time

TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 1, 0x1000
CLONE_NEWNET = 0x40000000
MTU = 1500
BUFFER_S = 0.1                           # of the queue before the narrow place: what comes on top is dropped, as a router does


def inside(namespace, *command):
    return ["nsenter", f"--net=/run/netns/{namespace}", *map(str, command)]


def _do(command):
    subprocess.run(command.split(), check=True, capture_output=True)


def _tun(namespace):
    fd = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), f"setns {namespace}")
    os.close(fd)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", b"wan0", IFF_TUN | IFF_NO_PI))
    return tun


class _Way:
    """One direction: a packet leaves when the link is free and comes out a delay later."""

    def __init__(self, source, sink, bytes_per_s, delay_s):
        self.source, self.sink, self.rate, self.delay, self.free, self.flying = source, sink, bytes_per_s, delay_s, 0.0, collections.deque()

    def take(self, now):
        for _ in range(64):
            try:
                packet = os.read(self.source, 65536)
            except BlockingIOError:
                return
            start = max(now, self.free)
            if start - now > BUFFER_S:
                continue
            self.free = start + len(packet) / self.rate
            self.flying.append((self.free + self.delay, packet))

    def give(self, now):
        while self.flying and self.flying[0][0] <= now:
            try:
                os.write(self.sink, self.flying.popleft()[1])
            except OSError:
                pass                     # the device is down: the packet is lost

    def due(self):
        return self.flying[0][0] if self.flying else float("inf")


def emulate(a, b, mbits, rtt_ms):
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except OSError:
        pass
    tun = [_tun(a), _tun(b)]
    ways = [_Way(tun[i], tun[1 - i], mbits * 1e6 / 8, rtt_ms / 2000) for i in (0, 1)]
    poll = select.poll()
    for fd in tun:
        poll.register(fd, select.POLLIN)
    print("up", flush=True)
    while True:
        wait = min(way.due() for way in ways) - time.monotonic()
        poll.poll(max(wait * 1000, 0) if wait != float("inf") else None)
        now = time.monotonic()
        for way in ways:
            way.take(now)
            way.give(now)


class Wan:
    """home (10.78.1.1) -- MBIT/S, RTT -- edge (10.78.1.2)."""

    HOME, EDGE = "10.78.1.1", "10.78.1.2"

    def __init__(self, mbits=100, rtt_ms=50):
        self.mbits, self.rtt_ms = mbits, rtt_ms

    def __enter__(self):
        self.home, self.edge = (f"vw{name}{os.getpid()}" for name in "he")
        for name in (self.home, self.edge):
            _do(f"ip netns add {name}")
            _do(f"ip -n {name} link set lo up")
        self._link = subprocess.Popen([sys.executable, __file__, "emulate", self.home, self.edge, str(self.mbits), str(self.rtt_ms)], stdout=subprocess.PIPE, text=True)
        if self._link.stdout.readline() != "up\n":
            raise RuntimeError("no TUN devices")
        for name, own, other in ((self.home, self.HOME, self.EDGE), (self.edge, self.EDGE, self.HOME)):
            _do(f"ip -n {name} addr add {own} peer {other} dev wan0")
            _do(f"ip -n {name} link set wan0 mtu {MTU} txqueuelen 4000 up")
        return self

    def crossed(self):
        """Bytes into the edge, and out of it, headers and all."""
        out = subprocess.run(["ip", "-n", self.edge, "-j", "-s", "link", "show", "dev", "wan0"], capture_output=True, text=True, check=True).stdout
        stats = json.loads(out)[0]["stats64"]
        return stats["rx"]["bytes"], stats["tx"]["bytes"]

    def plain_tcp_s(self, size, to_edge=True):
        """How long this many bytes take over one plain TCP connection of this link, until the last one is there."""
        here, there, address = (self.home, self.edge, self.HOME) if to_edge else (self.edge, self.home, self.EDGE)
        sender = subprocess.Popen(inside(here, sys.executable, __file__, "send", address, size), stdout=subprocess.PIPE, text=True)
        port = sender.stdout.readline().strip()
        taken = subprocess.run(inside(there, sys.executable, __file__, "take", address, port, size), capture_output=True, text=True, check=True).stdout
        sender.wait()
        return float(taken)

    def __exit__(self, *_unused):
        self._link.kill()
        self._link.wait()
        for name in (self.home, self.edge):
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def _send(address, size):
    with socket.create_server((address, 0)) as listener:
        print(listener.getsockname()[1], flush=True)
        with listener.accept()[0] as link:
            link.recv(1)
            link.sendall(bytes(size))
            link.recv(1)


def _take(address, port, size):
    """Connected first: the time is that of the transfer, asked for over a link that is open."""
    with socket.create_connection((address, port)) as link:
        start, got = time.monotonic(), 0
        link.sendall(b"?")
        while got < size:
            got += len(link.recv(1 << 20))
        print(time.monotonic() - start)
        link.sendall(b".")


def _round_trip_ms(wan):
    with subprocess.Popen(inside(wan.home, sys.executable, __file__, "send", wan.HOME, 1), stdout=subprocess.PIPE, text=True) as sender:
        port = sender.stdout.readline().strip()
        out = subprocess.run(inside(wan.edge, sys.executable, __file__, "take", wan.HOME, port, 1), capture_output=True, text=True, check=True).stdout
    return float(out) * 1000


if __name__ == "__main__":
    what, args = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if what == "emulate":
        emulate(args[0], args[1], float(args[2]), float(args[3]))
    elif what == "send":
        _send(args[0], int(args[1]))
    elif what == "take":
        _take(args[0], int(args[1]), int(args[2]))
    else:
        with Wan(*map(float, sys.argv[1:])) as wan:
            size = int(wan.mbits * 1e6 / 8 * 3)
            rates = [size * 8 / 1e6 / wan.plain_tcp_s(size, to_edge) for to_edge in (True, False)]
            print(json.dumps({"set_mbit_s": wan.mbits, "set_rtt_ms": wan.rtt_ms, "to_edge_mbit_s": round(rates[0], 1), "from_edge_mbit_s": round(rates[1], 1),
                              "rtt_ms": round(_round_trip_ms(wan), 1)}))
