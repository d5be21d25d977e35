"""Derives the golden ids of natural keys; needs nothing but Python 3. Usage: check_ids.py ids.json"""
import json
import sys
import uuid

with open(sys.argv[1], encoding="utf-8") as f:
    golden = json.load(f)
namespace = uuid.UUID(golden["namespace"])
for v in golden["vectors"]:
    got = str(uuid.uuid5(namespace, v["source"] + "\n" + v["idempotency_key"]))
    if got != v["notification_id"]:
        sys.exit(f"{v}: derived {got}")
if not golden["vectors"]:
    sys.exit("no vectors")
print(f"{len(golden['vectors'])} ids agree")
