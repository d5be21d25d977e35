import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.MessageDigest;
import java.util.UUID;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Derives the golden ids of natural keys with the JDK alone. Usage: java CheckIds.java ids.json */
class CheckIds {
    static final String STRING = "\"((?:[^\"\\\\]|\\\\.)*)\"";

    public static void main(String[] args) throws Exception {
        String json = Files.readString(Path.of(args[0]));
        UUID namespace = UUID.fromString(find(json, "\"namespace\":\\s*" + STRING).group(1));
        Matcher m = Pattern.compile("\"source\":\\s*" + STRING + ",\\s*\"idempotency_key\":\\s*" + STRING + ",\\s*\"notification_id\":\\s*" + STRING).matcher(json);
        int count = 0;
        for (; m.find(); count++) {
            String got = uuid5(namespace, unescape(m.group(1)) + "\n" + unescape(m.group(2))).toString();
            if (!got.equals(m.group(3))) {
                System.err.println(m.group() + ": derived " + got);
                System.exit(1);
            }
        }
        if (count == 0) {
            System.err.println("no vectors");
            System.exit(1);
        }
        System.out.println(count + " ids agree");
    }

    /** UUID version 5 of RFC 9562. The JDK has version 3 only. */
    static UUID uuid5(UUID namespace, String name) throws Exception {
        MessageDigest sha1 = MessageDigest.getInstance("SHA-1");
        sha1.update(ByteBuffer.allocate(16).putLong(namespace.getMostSignificantBits()).putLong(namespace.getLeastSignificantBits()).array());
        byte[] hash = sha1.digest(name.getBytes(StandardCharsets.UTF_8));
        hash[6] = (byte) (hash[6] & 0x0f | 0x50);
        hash[8] = (byte) (hash[8] & 0x3f | 0x80);
        ByteBuffer b = ByteBuffer.wrap(hash);
        return new UUID(b.getLong(), b.getLong());
    }

    static Matcher find(String s, String pattern) {
        Matcher m = Pattern.compile(pattern).matcher(s);
        if (!m.find()) {
            throw new IllegalArgumentException("nothing matches " + pattern);
        }
        return m;
    }

    static String unescape(String s) {
        StringBuilder out = new StringBuilder();
        for (int i = 0; i < s.length(); i++) {
            char c = s.charAt(i);
            if (c != '\\') {
                out.append(c);
                continue;
            }
            c = s.charAt(++i);
            switch (c) {
                case 'n' -> out.append('\n');
                case 't' -> out.append('\t');
                case 'u' -> {
                    out.append((char) Integer.parseInt(s.substring(i + 1, i + 5), 16));
                    i += 4;
                }
                default -> out.append(c);
            }
        }
        return out.toString();
    }
}
