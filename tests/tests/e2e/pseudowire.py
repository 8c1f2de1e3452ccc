"""Reads and writes frames of Ethernet pseudowires with scapy's own layers. Frames are lines of hex.

decode: a line for each frame: its label stack entries as LABEL/TC/S/TTL, the control word as ZERO/RESERVED/SEQUENCE, and the
frame within. encode: the first line has the outer destination and source, and the labels; the others are frames."""

import sys

from scapy.contrib.mpls import MPLS, EoMCW
from scapy.layers.l2 import Ether


def decode(line):
    layer = Ether(bytes.fromhex(line)).payload
    words = []
    while isinstance(layer, MPLS):
        words.append(f"{layer.label}/{layer.cos}/{layer.s}/{layer.ttl}")
        if layer.s:
            break
        layer = layer.payload
    word = layer.payload
    assert isinstance(word, EoMCW), word.summary()
    words.append(f"{word.zero}/{word.reserved}/{word.seq}")
    assert isinstance(word.payload, Ether), word.payload.summary()
    words.append(bytes(word.payload).hex())
    return " ".join(words)


def encode(order, line):
    destination, source, labels = order.split()
    labels = [int(label) for label in labels.split(",")]
    frame = Ether(dst=destination, src=source, type=0x8847)
    for label in labels:
        frame /= MPLS(label=label, s=int(label == labels[-1]), ttl=9)
    return bytes(frame / EoMCW() / bytes.fromhex(line)).hex()


mode, lines = sys.argv[1], sys.stdin.read().split("\n")
if mode == "decode":
    print("\n".join(decode(line) for line in lines))
else:
    print("\n".join(encode(lines[0], line) for line in lines[1:]))
