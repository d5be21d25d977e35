"""A publisher for ZNS Hub in Python, with confluent-kafka (librdkafka).

    pip install confluent-kafka
    KAFKA_BROKERS=localhost:9092 python publisher.py 0987654321
"""
import json
import os
import sys
import time
import uuid

from confluent_kafka import Producer

# The namespace that the hub derives notification ids in.
NAMESPACE = uuid.UUID("7b0c4d1e-6a4f-5f63-9d4b-0f6f0a6b7c11")


def main():
    brokers = os.environ.get("KAFKA_BROKERS")
    if not brokers or len(sys.argv) < 2:
        sys.exit("usage: KAFKA_BROKERS=host:9092 python publisher.py PHONE [ORDER]")
    order = sys.argv[2] if len(sys.argv) > 2 else f"order-{time.time():.3f}"

    # The natural key of this notification: publish it twice and the person still gets it once.
    source, idempotency_key = "order-service", order + "/shipped"
    value = {
        "source": source,
        "idempotency_key": idempotency_key,
        "recipient": {"phone": sys.argv[1]},
        "template_id": "300200",  # yours; zns dev has this one
        "template_data": {"order_code": order, "customer_name": "Nguyen Van A"},
        "category": "TRANSACTION",
        "ttl": "3600s",
        "reference": order,
        "fallback": {"sms_text": f"Don hang {order} da duoc gui"},
    }
    notification_id = str(uuid.uuid5(NAMESPACE, source + "\n" + idempotency_key))

    producer = Producer({
        "bootstrap.servers": brokers,
        "enable.idempotence": True,          # acks=all, no duplicates from the producer's own retries
        "partitioner": "murmur2_random",     # the hub's partitioner: the record need not be moved
        "message.timeout.ms": 30000,
    })
    failures = []
    producer.produce(
        "notification.requested",
        # The record's key: ordering_key where there is one, else the notification's id.
        key=notification_id,
        value=json.dumps(value).encode(),
        on_delivery=lambda err, _: failures.append(err) if err else None,
    )
    if producer.flush(30) or failures:
        sys.exit(f"publish: {failures or 'no answer from the brokers'}")
    print(notification_id)


if __name__ == "__main__":
    main()
