import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HexFormat;
import java.util.UUID;
import javax.crypto.Mac;
import javax.crypto.spec.SecretKeySpec;

/** Checks the golden vectors of tracking_id. Usage: java Check.java vectors.tsv */
class Check {
    static final String DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

    public static void main(String[] args) throws Exception {
        int count = 0;
        for (String line : Files.readAllLines(Path.of(args[0]), StandardCharsets.UTF_8)) {
            if (line.startsWith("#")) {
                continue;
            }
            String[] f = line.split("\t");
            String got = encode(f[0], UUID.fromString(f[1]), HexFormat.of().parseHex(f[2]), Integer.parseInt(f[3]), Integer.parseInt(f[4]));
            if (!got.equals(f[5])) {
                System.err.println(line + ": computed " + got);
                System.exit(1);
            }
            count++;
        }
        if (count == 0) {
            System.err.println("no vectors");
            System.exit(1);
        }
        System.out.println(count + " vectors agree");
    }

    static String encode(String cluster, UUID id, byte[] trace, int sampled, int attempt) throws Exception {
        attempt = Math.min(attempt, 63);
        byte[] ids = ByteBuffer.allocate(32).putLong(id.getMostSignificantBits()).putLong(id.getLeastSignificantBits()).put(trace).array();

        // Java refuses an empty key; HMAC pads keys with zero bytes, so one zero byte is the same key.
        byte[] key = cluster.isEmpty() ? new byte[1] : cluster.getBytes(StandardCharsets.UTF_8);
        Mac mac = Mac.getInstance("HmacSHA256");
        mac.init(new SecretKeySpec(key, "HmacSHA256"));
        mac.update(new byte[] {1, (byte) (sampled << 7 | attempt)});
        int sum = ByteBuffer.wrap(mac.doFinal(ids)).getInt() >>> 13;

        int head = 1 << 26 | sampled << 25 | attempt << 19 | sum;
        BigInteger number = new BigInteger(1, ByteBuffer.allocate(36).putInt(head).put(ids).array());
        StringBuilder out = new StringBuilder();
        for (int i = 0; i < 48; i++) {
            BigInteger[] qr = number.divideAndRemainder(BigInteger.valueOf(62));
            out.append(DIGITS.charAt(qr[1].intValue()));
            number = qr[0];
        }
        return out.reverse().toString();
    }
}
