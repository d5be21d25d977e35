"""Checks the golden vectors of tracking_id; needs nothing but Python 3. Usage: check.py vectors.tsv"""
import hashlib
import hmac
import sys
import uuid

DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def encode(cluster, notification_id, trace_id, sampled, attempt):
    notification = uuid.UUID(notification_id).bytes
    trace = bytes.fromhex(trace_id)
    flags = sampled << 7 | min(attempt, 63)
    mac = hmac.new(cluster.encode(), bytes([1, flags]) + notification + trace, hashlib.sha256).digest()
    head = 1 << 26 | sampled << 25 | min(attempt, 63) << 19 | int.from_bytes(mac[:4], "big") >> 13
    number = int.from_bytes(head.to_bytes(4, "big") + notification + trace, "big")
    out = ""
    while number:
        number, digit = divmod(number, 62)
        out = DIGITS[digit] + out
    return out.rjust(48, "0")


count = 0
for line in open(sys.argv[1], encoding="utf-8"):
    if line.startswith("#"):
        continue
    cluster, notification_id, trace_id, sampled, attempt, want = line.rstrip("\n").split("\t")
    got = encode(cluster, notification_id, trace_id, int(sampled), int(attempt))
    if got != want:
        sys.exit(f"{line!r}: computed {got}")
    count += 1
if count == 0:
    sys.exit("no vectors")
print(f"{count} vectors agree")
