// A publisher for ZNS Hub in Java 17 or later, with org.apache.kafka:kafka-clients; one file, no build.
//
//   mvn dependency:copy-dependencies   (with org.apache.kafka:kafka-clients:4.3.1 in the pom)
//   KAFKA_BROKERS=localhost:9092 java -cp 'target/dependency/*' Publisher.java 0987654321
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringSerializer;

public class Publisher {
    // The namespace that the hub derives notification ids in.
    static final UUID NAMESPACE = UUID.fromString("7b0c4d1e-6a4f-5f63-9d4b-0f6f0a6b7c11");

    public static void main(String[] args) throws Exception {
        String brokers = System.getenv("KAFKA_BROKERS");
        if (brokers == null || args.length < 1) {
            System.err.println("usage: KAFKA_BROKERS=host:9092 java -cp ... Publisher.java PHONE [ORDER]");
            System.exit(2);
        }
        String order = args.length > 1 ? args[1] : "order-" + System.currentTimeMillis();

        // The template must be one of yours; 300200 is one that zns dev has.
        // The natural key of this notification: publish it twice and the person still gets it once.
        String source = "order-service", idempotencyKey = order + "/shipped";
        String value = """
            {"source": "%s", "idempotency_key": "%s", "recipient": {"phone": "%s"}, "template_id": "300200",
             "template_data": {"order_code": "%s", "customer_name": "Nguyen Van A"}, "category": "TRANSACTION",
             "ttl": "3600s", "reference": "%s", "fallback": {"sms_text": "Don hang %s da duoc gui"}}"""
            .formatted(source, idempotencyKey, args[0], order, order, order); // use a JSON library for real data
        String id = uuid5(NAMESPACE, source + "\n" + idempotencyKey).toString();

        Map<String, Object> config = Map.of(
            "bootstrap.servers", brokers,
            "acks", "all",
            "delivery.timeout.ms", 30000, // idempotence and murmur2, the hub's partitioner, are the client's defaults
            "request.timeout.ms", 10000);
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            // The record's key: ordering_key where there is one, else the notification's id.
            producer.send(new ProducerRecord<>("notification.requested", id, value)).get(30, TimeUnit.SECONDS);
        }
        System.out.println(id);
    }

    // RFC 9562 UUID version 5; java.util.UUID has only version 3.
    static UUID uuid5(UUID namespace, String name) throws Exception {
        MessageDigest sha1 = MessageDigest.getInstance("SHA-1");
        sha1.update(ByteBuffer.allocate(16).putLong(namespace.getMostSignificantBits())
            .putLong(namespace.getLeastSignificantBits()).array());
        ByteBuffer hash = ByteBuffer.wrap(sha1.digest(name.getBytes(StandardCharsets.UTF_8)));
        long high = hash.getLong() & ~0xf000L | 0x5000L;
        long low = hash.getLong() & 0x3fffffffffffffffL | 0x8000000000000000L;
        return new UUID(high, low);
    }
}
