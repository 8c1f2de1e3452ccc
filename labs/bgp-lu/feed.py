#!/usr/bin/env python3
"""Labels by BGP (RFC 8277) for mplsxdp: ExaBGP runs this program and gives it updates as JSON, one per line. It gives each
prefix a label of this router, puts routes into mplsxdp by its control socket, and announces the prefix on with that label.
The kernel needs no MPLS: its only part is a route per prefix to the interface of `mplsxdp load --local`.

    feed.py --as 65001 --loopback 10.255.0.1 [--socket /run/mplsxdp/default.sock] [--dev mpls0]
"""
import argparse
import itertools
import json
import socket
import subprocess
import sys

FAMILY = "ipv4 nlri-mpls"
# Labels of this router: the first is that of its own loopback.
LABELS = itertools.count(1000)


class Switch:
    """A client of the control socket: JSON objects, each ended by a NUL byte."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.replies = self.socket.makefile("rb")

    def call(self, method, **parameters):
        call = {"method": "io.mplsxdp." + method, "parameters": parameters}
        self.socket.sendall(json.dumps(call).encode() + b"\0")
        reply = bytearray()
        while (byte := self.replies.read(1)) != b"\0":
            if not byte:
                raise EOFError("the switch has closed the connection")
            reply += byte
        reply = json.loads(reply)
        if "error" in reply:
            raise RuntimeError(f"{method}: {reply['error']} {reply.get('parameters')}")
        return reply["parameters"]


class Feed:
    def __init__(self, options):
        self.options = options
        self.switch = Switch(options.socket)
        # Prefix to {peer: (AS path, next hop, labels)}: everything that peers announce now.
        self.received = {}
        # Prefix to what is installed of it, and to its label here.
        self.installed = {}
        self.labels = {options.loopback + "/32": next(LABELS)}

    def start(self):
        """What arrives with the loopback's label is for this router."""
        for label in self.labels.values():
            self.switch.call("AddRoutes", routes=[{"label": label, "action": "local", "dev": "lo", "protocol": "bgp"}])

    def announce(self, prefix, to=""):
        """To every peer that ExaBGP has now, or to one (`neighbor ADDRESS `). The loopback's own AS path is empty."""
        as_path = self.installed.get(prefix, ([],))[0]
        path = " ".join(str(number) for number in [self.options.asn, *as_path])
        say(f"{to}announce route {prefix} next-hop self label {self.labels[prefix]} as-path [ {path} ]")

    def up(self, peer):
        """A session is up: ExaBGP has said nothing on it yet if its neighbor is new in the configuration."""
        for prefix in [self.options.loopback + "/32", *self.installed]:
            self.announce(prefix, f"neighbor {peer} ")

    def update(self, peer, message):
        path = message.get("attribute", {}).get("as-path", [])
        for routes in message.get("withdraw", {}).get(FAMILY, []):
            self.received.get(routes["nlri"], {}).pop(peer, None)
            self.choose(routes["nlri"])
        for next_hop, routes in message.get("announce", {}).get(FAMILY, {}).items():
            for route in routes:
                if self.options.asn in path or route["nlri"] == self.options.loopback + "/32":
                    continue
                # Each label is a number, or a pair of the number and the bytes it came from.
                labels = [label[0] if isinstance(label, list) else label for label in route["label"]]
                self.received.setdefault(route["nlri"], {})[peer] = (path, next_hop, labels)
                self.choose(route["nlri"])

    def down(self, peer):
        for prefix, peers in self.received.items():
            if peers.pop(peer, None):
                self.choose(prefix)

    def choose(self, prefix):
        """Installs the route with the shortest AS path, or removes what was installed."""
        best = min(self.received.get(prefix, {}).values(), default=None, key=lambda route: len(route[0]))
        if best == self.installed.get(prefix):
            return
        if best is None:
            keys = [{"label": self.labels[prefix]}, {"prefix": prefix}]
            say(f"withdraw route {prefix} next-hop self label {self.labels[prefix]}")
            ip("route", "del", prefix, "dev", self.options.dev)
            self.switch.call("DeleteRoutes", keys=keys)
            del self.installed[prefix]
            return
        _, next_hop, labels = best
        label = self.labels.setdefault(prefix, None) or next(LABELS)
        self.labels[prefix] = label
        out = {"out": labels, "via": {"family": "inet", "host": next_hop}, "protocol": "bgp"}
        routes = [{"label": label, "action": "swap", **out}, {"prefix": prefix, **out}]
        self.switch.call("ReplaceRoutes", routes=routes)
        ip("route", "replace", prefix, "dev", self.options.dev, "src", self.options.loopback)
        self.installed[prefix] = best
        self.announce(prefix)


def say(line):
    """A command to ExaBGP."""
    print(line, flush=True)


def ip(*arguments):
    subprocess.run(["ip", *arguments], check=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--as", dest="asn", type=int, required=True)
    parser.add_argument("--loopback", required=True)
    parser.add_argument("--socket", default="/run/mplsxdp/default.sock")
    parser.add_argument("--dev", default="mpls0")
    feed = Feed(parser.parse_args())
    feed.start()
    for line in sys.stdin:
        # ExaBGP also answers `done` to each command.
        if not line.startswith("{"):
            continue
        event = json.loads(line)
        neighbor = event.get("neighbor", {})
        peer = neighbor.get("address", {}).get("peer")
        if event["type"] == "update":
            feed.update(peer, neighbor["message"].get("update", {}))
        elif event["type"] == "state" and neighbor.get("state") == "up":
            feed.up(peer)
        elif event["type"] == "state" and neighbor.get("state") == "down":
            feed.down(peer)


if __name__ == "__main__":
    main()
