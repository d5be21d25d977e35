// Reads a topic from its beginning with the Java client as a read-committed consumer and prints each record on one
// line: topic, key, headers and value, separated by tabs, header values and value in base64. It ends when it is killed.
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;

public class Reader {
    public static void main(String[] topics) {
        Map<String, Object> config = Map.of(
            "bootstrap.servers", System.getenv("KAFKA_BROKERS"),
            "group.id", System.getenv("GROUP"),
            "auto.offset.reset", "earliest",
            "isolation.level", "read_committed");
        var base64 = Base64.getEncoder();
        try (var consumer = new KafkaConsumer<>(config, new ByteArrayDeserializer(), new ByteArrayDeserializer())) {
            consumer.subscribe(List.of(topics));
            while (true) {
                for (var record : consumer.poll(Duration.ofMillis(200))) {
                    var line = new StringBuilder(record.topic()).append('\t')
                        .append(new String(record.key(), StandardCharsets.UTF_8)).append('\t');
                    for (var header : record.headers()) {
                        line.append(header.key()).append('=').append(base64.encodeToString(header.value())).append(' ');
                    }
                    System.out.println(line.append('\t').append(base64.encodeToString(record.value())));
                }
            }
        }
    }
}
