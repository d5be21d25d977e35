import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.List;
import java.util.Map;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

/**
 * Posts each notification and publishes an event under its id, ordered by key, with Confluent Parallel Consumer.
 * Arguments: brokers, topic, group, url, calls in flight, access token, topic of events.
 *
 * It reads of a request what the call needs, and nothing is checked. tracking_id is the notification_id without dashes.
 */
public class Consume {
  public static void main(String[] args) throws Exception {
    Map<String, Object> common = Map.of("bootstrap.servers", args[0]);
    var consumer = new KafkaConsumer<>(with(common, Map.of("group.id", args[2], "enable.auto.commit", "false",
        "auto.offset.reset", "earliest", "session.timeout.ms", "6000", "heartbeat.interval.ms", "1000", "max.poll.records", "1000")),
        new ByteArrayDeserializer(), new ByteArrayDeserializer());
    var producer = new KafkaProducer<>(with(common, Map.of("linger.ms", "5")), new ByteArraySerializer(), new ByteArraySerializer());
    var processor = ParallelStreamProcessor.createEosStreamProcessor(ParallelConsumerOptions.<byte[], byte[]>builder()
        .ordering(ParallelConsumerOptions.ProcessingOrder.KEY)
        .maxConcurrency(Integer.parseInt(args[4]))
        .consumer(consumer).producer(producer).build());
    var client = HttpClient.newBuilder().version(HttpClient.Version.HTTP_1_1).build();
    var target = URI.create(args[3] + "/message/template");
    Runtime.getRuntime().addShutdownHook(new Thread(() -> {
      try {
        processor.closeDrainFirst(Duration.ofSeconds(10));
      } catch (Exception e) {
        e.printStackTrace();
      }
      Runtime.getRuntime().halt(0);
    }));
    processor.subscribe(List.of(args[1]));
    processor.pollAndProduce(context -> {
      var request = new Request(context.value());
      var body = "{\"phone\":\"" + request.phone.substring(1) + "\",\"template_id\":\"" + request.template + "\",\"template_data\":{"
          + request.data + "},\"tracking_id\":\"" + request.id.replace("-", "") + "\"}";
      try {
        var answer = client.send(HttpRequest.newBuilder(target).timeout(Duration.ofSeconds(10))
            .header("Content-Type", "application/json").header("access_token", args[5])
            .POST(HttpRequest.BodyPublishers.ofString(body)).build(), HttpResponse.BodyHandlers.ofString());
        if (!answer.body().startsWith("{\"error\":0")) {
          throw new IllegalStateException(answer.body());
        }
        return new ProducerRecord<>(args[6], request.id.getBytes(StandardCharsets.UTF_8), answer.body().getBytes(StandardCharsets.UTF_8));
      } catch (java.io.IOException | InterruptedException e) {
        throw new IllegalStateException(e);
      }
    });
  }

  static Map<String, Object> with(Map<String, Object> a, Map<String, Object> b) {
    var all = new java.util.HashMap<>(a);
    all.putAll(b);
    return all;
  }

  /** The fields of notification.v1.NotificationRequested that a call needs, read from protobuf. */
  static class Request {
    String id = "", phone = "+", template = "";
    StringBuilder data = new StringBuilder();

    Request(byte[] value) {
      for (var b = ByteBuffer.wrap(value); b.hasRemaining();) {
        int tag = (int) varint(b);
        if ((tag & 7) == 0) {
          varint(b);
          continue;
        }
        if ((tag & 7) != 2) {
          throw new IllegalArgumentException("wire type " + (tag & 7));
        }
        var field = slice(b);
        switch (tag >> 3) {
          case 1 -> id = text(field);
          case 5 -> phone = member(field, 1);
          case 6 -> template = text(field);
          case 7 -> data.append(data.length() > 0 ? "," : "").append('"').append(member(field.duplicate(), 1)).append("\":\"")
              .append(member(field, 2)).append('"');
          default -> { }
        }
      }
    }

    static String member(ByteBuffer b, int number) {
      while (b.hasRemaining()) {
        int tag = (int) varint(b);
        var field = slice(b);
        if (tag >> 3 == number) {
          return text(field);
        }
      }
      return "";
    }

    static ByteBuffer slice(ByteBuffer b) {
      int n = (int) varint(b);
      var field = b.slice(b.position(), n);
      b.position(b.position() + n);
      return field;
    }

    static String text(ByteBuffer b) {
      return StandardCharsets.UTF_8.decode(b).toString();
    }

    static long varint(ByteBuffer b) {
      long n = 0;
      for (int shift = 0;; shift += 7) {
        byte c = b.get();
        n |= (long) (c & 127) << shift;
        if (c >= 0) {
          return n;
        }
      }
    }
  }
}
