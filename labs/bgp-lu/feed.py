#!/usr/bin/env python3
"""Labels by BGP (RFC 8277) for mplsxdp. ExaBGP runs this program, which reads updates as JSON, one per line. It
gives each prefix a label of this router, puts routes into mplsxdp by its control socket, and announces the prefix
with that label. The kernel needs no MPLS, only a route per prefix to the interface of `mplsxdp load --local`.

    feed.py --as 65001 --loopback 10.255.0.1 [--socket /run/mplsxdp/default.sock] [--dev mpls0]
"""
import argparse
import json
import socket
import subprocess
import sys

FAMILY = "ipv4 nlri-mpls"
FIRST_LABEL = 1000


class Feed:
    def __init__(self, options):
        self.options = options
        self.own = options.loopback + "/32"
        self.switch = socket.socket(socket.AF_UNIX)
        self.switch.connect(options.socket)
        self.received = {}  # Prefix to {peer: (AS path, next hop, labels), or None}: what peers announce now.
        self.installed = {}  # Prefix to the one of these that is installed.
        self.labels = {self.own: FIRST_LABEL}  # Prefix to its label here.
        # What arrives with the loopback's label is for this router.
        self.call("ReplaceRoutes", routes=[{"label": FIRST_LABEL, "action": "local", "dev": "lo", "protocol": "bgp"}])

    def call(self, method, **parameters):
        """Calls the switch by varlink: JSON objects, each ended by a NUL byte."""
        call = {"method": "io.mplsxdp." + method, "parameters": parameters}
        self.switch.sendall(json.dumps(call).encode() + b"\0")
        reply = b""
        while not reply.endswith(b"\0"):
            reply += self.switch.recv(65536) or sys.exit("the switch has closed the connection")
        reply = json.loads(reply[:-1])
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']} {reply.get('parameters')}")

    def announce(self, prefix, to=""):
        """To every peer that ExaBGP has now, or to one (`neighbor ADDRESS `). The loopback's own AS path is empty."""
        path = " ".join(str(number) for number in [self.options.asn, *self.installed.get(prefix, ([],))[0]])
        print(f"{to}announce route {prefix} next-hop self label {self.labels[prefix]} as-path [ {path} ]", flush=True)

    def state(self, peer, state):
        if state == "up":  # ExaBGP has said nothing on the session yet if its neighbor is new in the configuration.
            for prefix in [self.own, *self.installed]:
                self.announce(prefix, f"neighbor {peer} ")
        if state == "down":
            for prefix in self.received:
                self.receive(peer, prefix, None)

    def update(self, peer, message):
        path = message.get("attribute", {}).get("as-path", [])
        for route in message.get("withdraw", {}).get(FAMILY, []):
            self.receive(peer, route["nlri"], None)
        for next_hop, routes in message.get("announce", {}).get(FAMILY, {}).items():
            for route in routes:
                # Each label is a number, or a pair of the number and the bytes it came from.
                labels = [label[0] if isinstance(label, list) else label for label in route["label"]]
                is_loop = self.options.asn in path or route["nlri"] == self.own
                self.receive(peer, route["nlri"], None if is_loop else (path, next_hop, labels))

    def receive(self, peer, prefix, route):
        """Takes in what a peer announces for a prefix now, and installs the route with the shortest AS path, or none."""
        peers = self.received.setdefault(prefix, {})
        peers[peer] = route
        best = min(filter(None, peers.values()), default=None, key=lambda route: len(route[0]))
        if best == self.installed.get(prefix):
            return
        label = self.labels.setdefault(prefix, FIRST_LABEL + len(self.labels))
        if best:
            out = {"out": best[2], "via": {"family": "inet", "host": best[1]}, "protocol": "bgp"}
            self.call("ReplaceRoutes", routes=[{"label": label, "action": "swap", **out}, {"prefix": prefix, **out}])
            subprocess.run(["ip", "route", "replace", prefix, "dev", self.options.dev, "src", self.options.loopback])
            self.installed[prefix] = best
            self.announce(prefix)
        else:
            print(f"withdraw route {prefix} next-hop self label {label}", flush=True)
            subprocess.run(["ip", "route", "del", prefix, "dev", self.options.dev])
            self.call("DeleteRoutes", keys=[{"label": label}, {"prefix": prefix}])
            del self.installed[prefix]


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--as", dest="asn", type=int, required=True)
parser.add_argument("--loopback", required=True)
parser.add_argument("--socket", default="/run/mplsxdp/default.sock")
parser.add_argument("--dev", default="mpls0")
feed = Feed(parser.parse_args())
for line in sys.stdin:
    event = json.loads(line) if line.startswith("{") else {}  # ExaBGP also answers `done` to each command.
    neighbor = event.get("neighbor", {})
    peer = neighbor.get("address", {}).get("peer")
    if event.get("type") == "update":
        feed.update(peer, neighbor["message"].get("update", {}))
    elif event.get("type") == "state":
        feed.state(peer, neighbor.get("state"))
